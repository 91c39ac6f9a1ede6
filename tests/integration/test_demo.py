"""The demo, as somebody plays it: to its end, or until Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.until import until

ENDS = {
    **dict.fromkeys(("push", "comment", "release", "dispatch", "deploy"), "succeeded"),
    **dict.fromkeys(("rerun", "build"), "failed"),
    "training": "aborted",
}

STORY = [
    "1. Events of GitHub arrive; the machine pulls their jobs.",
    "2. The daemon is killed with -9 while a build runs.",
    "That is its real exit code.",
    "3. The same job arrives again.",
    "4. The hub is killed while a job runs.",
    "5. A job that takes ten minutes is cancelled.",
    "8 jobs, each started at most once and reported.",
    "Ctrl-C ends both.",
]


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a demo for the length of a block; what it prints, and its folder in `place`, are in a folder."""
    (folder / "place").mkdir()
    with (folder / "said").open("w") as said, (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dispatchd", "demo", *options],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(folder / "place")},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.host
async def test_it_tells_what_is_promised_and_stays_if_it_is_told_to(
    tmp_path: Path,
) -> None:
    said = tmp_path / "said"
    with demo(tmp_path, "--keep") as process:
        await until(
            lambda: STORY[-1] in said.read_text() or process.poll() is not None, 180
        )
        (folder,) = (tmp_path / "place").iterdir()
        process.send_signal(signal.SIGINT)
        process.wait(120)
    places = [said.read_text().find(line) for line in STORY]

    errors = (tmp_path / "errors").read_text()
    assert (process.returncode, errors) == (0, f"Everything is kept in {folder}.\n")
    assert -1 not in places
    assert places == sorted(places)
    assert "\x1b" not in said.read_text()
    assert (folder / "hub/hub.toml").exists()


@pytest.mark.host
def test_programs_get_the_outcomes_and_nothing_is_left(tmp_path: Path) -> None:
    with demo(tmp_path, "--json") as process:
        process.wait(180)

    errors = (tmp_path / "errors").read_text()
    assert (process.returncode, errors) == (0, "")
    jobs = json.loads((tmp_path / "said").read_text())
    assert {job["job"]: job["outcome"] for job in jobs} == ENDS
    assert list((tmp_path / "place").iterdir()) == []

"""A daemon that isn't root works with what a change of users has left it: PATH, HOME and files of somebody else."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import daemon_process
from support.daemon import write_config
from support.endpoint import endpoint
from support.other_user import NOBODY, as_nobody, python

IT = {"it": ["/bin/sh", "-c", "id -u"]}

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that everybody may enter, with one that only root may."""
    with tempfile.TemporaryDirectory(prefix="dispatchd-other-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        tool = folder / "closed" / "tools" / "bin" / "tool"
        tool.parent.mkdir(parents=True)
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
        (folder / "closed").chmod(0o700)
        yield folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", "{place}/closed/tools/bin:/usr/bin:/bin"),
        ("HOME", "{place}/closed/home"),
        ("TMPDIR", "{place}/closed"),
    ],
)
async def test_a_variable_that_leads_into_a_folder_of_another_user_is_borne(
    place: Path, name: str, value: str
) -> None:
    """As after su(1), and with sudo(8) that keeps the environment."""
    async with endpoint() as hub:
        config = write_config(place / "m", hub.url, IT, isolation="sandbox")
        how = as_nobody(place / "m")
        how["env"][name] = value.format(place=place)
        async with daemon_process.running_daemon(config, **how) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j", within_s=60)

    assert finish["result_status"] == "succeeded", finish
    assert "bug_contained" not in [line.get("event") for line in daemon.log()]


async def test_a_command_in_a_folder_of_another_user_fails_its_job_alone(
    place: Path,
) -> None:
    command = {"it": [str(place / "closed" / "tools" / "bin" / "tool")]}
    async with endpoint() as hub:
        config = write_config(place / "m", hub.url, command)
        async with daemon_process.running_daemon(
            config, **as_nobody(place / "m")
        ) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j", within_s=60)

    assert (finish["result_status"], finish["result_cause"]) == ("failed", "spawn")
    assert "Permission denied" in finish["result_summary"]
    assert "bug_contained" not in [line.get("event") for line in daemon.log()]


@pytest.mark.parametrize("words", [("jobs",), ("status",), ("config", "check")])
def test_a_user_without_an_entry_and_a_home_can_ask(
    place: Path, words: tuple[str, ...]
) -> None:
    """As in a container that is given a number for its user."""
    config = write_config(place / "m", "http://127.0.0.1:9", IT)
    how = as_nobody(place / "m")
    nameless = ("setpriv", "--reuid=61234", *NOBODY[2:])
    (place / "m" / "secret").chmod(0o644)
    (place / "m").chmod(0o755)
    said = subprocess.run(
        [
            *nameless,
            *("/bin/sh", "-c", f'exec {python()} -m dispatchd "$@"', "sh"),
            *(*words, "--config", str(config)),
        ],
        env={"PATH": os.defpath, "PYTHONPATH": how["env"]["PYTHONPATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Traceback" not in said.stderr, said.stderr
    assert said.returncode in {0, os.EX_UNAVAILABLE}
    assert said.stderr.count("\n") <= 1

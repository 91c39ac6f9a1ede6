"""Every screen of the command line, on a terminal of 80 columns and in a pipe: `tests/fixtures/screens.txt` shows them.

A changed screen is a changed file there: DISPATCHD_WRITE=1 writes it again, and its diff is what is reviewed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from support.cli import dispatchd
from support.daemon_process import running
from support.preload import build
from support.screen import Normal, Shown, in_file, on_terminal

SCREENS = Path(__file__).parents[1] / "fixtures" / "screens.txt"
SHA = "d6fde92930d4715a2b49857d24b940956b26d2d3"

AHEAD_S = (3 * 24 + 2) * 3600
"""The clock of the commands is ahead, so that all ages are equally long whatever the machine's speed."""

CONFIG = """
[cloud]
url = "{url}"
declare_workflows = true
[license]
public_keys = ["hub.pem"]
[store]
folder = "state"
min_free_mib = 0
[runs]
slots = 2
isolation = "none"
[log]
level = "debug"
format = "json"
[workflows.ci]
command = ["sh", "-c", "echo hello"]
[workflows.fail]
command = ["sh", "-c", "echo broken; exit 3"]
[workflows.nightly-integration-tests-of-everything]
command = ["sleep", "600"]
"""


@define
class Scene:
    """A hub, a machine and a person with a terminal."""

    folder: Path
    library: Path
    screens: list[tuple[str, Shown]] = field(factory=list)
    """What was shown, with the line that asked for it."""

    @property
    def env(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "DISPATCHD_CONFIG": str(self.folder / "config.toml"),
            "DISPATCHD_HUB_CONFIG": str(self.folder / "hub" / "hub.toml"),
        }

    def see(
        self,
        line: str,
        *,
        columns: int = 80,
        piped: bool = False,
        typed: str = "",
        real_clock: bool = False,
        **variables: str,
    ) -> Shown:
        """Run a command line, keep its screen, and return it."""
        env = {**self.env, **variables}
        if not real_clock:
            env |= {"LD_PRELOAD": str(self.library), "AHEAD_S": str(AHEAD_S)}
        words = line.split()
        shown = (
            in_file(words, cwd=self.folder, env=env)
            if piped
            else on_terminal(
                words, cwd=self.folder, env=env, columns=columns, typed=typed
            )
        )
        said = "".join(f"{name}={value} " for name, value in variables.items())
        where = " | cat" if piped else "" if columns == 80 else f"  # {columns} columns"
        self.screens.append((f"$ {said}dispatchd {line}{where}", shown))
        return shown

    def see_all(self, *sights: "str | tuple[str, dict[str, Any]]") -> None:
        """Run command lines that change nothing, several at a time, and keep their screens in this order."""
        given = [(sight, {}) if isinstance(sight, str) else sight for sight in sights]
        parts = [Scene(self.folder, self.library) for _ in given]
        with ThreadPoolExecutor(6) as pool:
            for part, (line, options) in zip(parts, given, strict=True):
                pool.submit(part.see, line, **options)
        for part in parts:
            self.screens += part.screens

    def text(self) -> str:
        """Return all screens in their normal form."""
        screens = [
            f"{prompt}\n{shown.text}[{shown.code}]\n" for prompt, shown in self.screens
        ]
        normal = Normal(self.folder)
        # Twice: an id may be shown as a whole after its beginning.
        for screen in screens:
            normal.of(screen)
        return "\n".join(map(normal.of, screens))

    def ask(self, line: str) -> Any:
        """Return the JSON that a command prints; it isn't kept."""
        words = [*line.split(), "--json"]
        return json.loads(dispatchd(*words, cwd=self.folder, env=self.env).stdout)

    def run_job(self, workflow: str, until: str) -> str:
        """Run a workflow, wait until its job is in a state, and return the beginning of its id."""
        at = self.see(f"hub run {workflow} --repo acme/storefront --sha {SHA}")
        job_id = at.text.split()[0]
        self.until(job_id, until)
        return job_id[:8]

    def until(self, job_id: str, state: str) -> None:
        deadline = time.monotonic() + 60
        while (job := self.ask(f"hub show {job_id}"))["state"] != state:
            assert time.monotonic() < deadline, job
            time.sleep(0.2)


@contextmanager
def served(scene: Scene) -> Iterator[str]:
    """Serve the scene's hub, and yield its address."""
    port_file, log = scene.folder / "port", scene.folder / "hub.log"
    command = [*(sys.executable, "-m", "dispatchd", "hub", "serve")]
    with log.open("wb") as out:
        hub = subprocess.Popen(
            [*command, "--port-file", str(port_file)],
            stdout=out,
            stderr=out,
            env={**os.environ, **scene.env},
        )
    try:
        deadline = time.monotonic() + 60
        while not port_file.exists():
            assert hub.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        file = scene.folder / "hub" / "hub.toml"
        url = f"127.0.0.1:{port_file.read_text()}"
        file.write_text(file.read_text().replace("127.0.0.1:0", url))
        yield f"http://{url}"
    finally:
        hub.kill()
        hub.wait()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    # The length of its name is the same each time, as screens show it.
    folder = Path(tempfile.mkdtemp(prefix="scene-", dir="/tmp"))
    library = build(Path(__file__).parents[1] / "support" / "clock_ahead.c", tmp_path)
    yield Scene(folder, library)
    shutil.rmtree(folder)


def enrol(scene: Scene, url: str) -> None:
    """Add a machine, and activate its key there."""
    added = scene.ask("hub machine add build-1")
    (scene.folder / "hub.pem").write_text(added["public_key"])
    (scene.folder / "config.toml").write_text(CONFIG.format(url=url))
    scene.see("activate", typed=f"{added['enrolment_key']}\n", real_clock=True)


PIPED: dict[str, Any] = {"piped": True}

FITTING = ("jobs", "status", "hub jobs", "hub machines", "--help", "hub --help")
"""Command lines whose screens have no line wider than the terminal."""


def before_any_job(scene: Scene) -> None:
    scene.see_all("hub jobs", "hub machines", "hub deliveries", "hub token list")
    scene.see("hub machine add build-2")
    scene.see("hub machine rotate build-2", typed="n\n")
    scene.see("hub machine revoke build-2", typed="y\n")
    scene.see("hub token add ci --scope submit")
    scene.see("hub token revoke ci", typed="y\n")


def jobs_in_many_states(scene: Scene) -> None:
    done = scene.run_job("ci", "succeeded")
    failed = scene.run_job("fail", "failed")
    scene.run_job("nightly-integration-tests-of-everything", "running")
    scene.see("hub pause")
    for name in ("release-2026-11-28-linux", "release-2026-11-28-macos"):
        (scene.folder / f"{name}.json").write_text(
            json.dumps({"id": name, "dag_name": "deploy", "sha": SHA})
        )
        scene.see(f"hub submit {name}.json")
    scene.see_all(
        *("status", "status -v", "jobs", ("jobs", PIPED), "hub jobs"),
        *(("hub jobs", PIPED), "hub machines", ("hub machines", PIPED)),
        ("hub jobs", {"columns": 60}),
        ("hub jobs --limit 2", {"NO_COLOR": "1"}),
        ("hub jobs --limit 2", {**PIPED, "CLICOLOR_FORCE": "1"}),
        *(f"hub show {failed}", f"logs {failed}"),
        *(f"hub watch {done}", f"hub watch {failed}", f"hub open {done}"),
        *("hub show release", "hub show nothing"),
    )
    scene.see("hub cancel release-2026-11-28-l")
    scene.see("hub resume")


def mistakes(scene: Scene) -> None:
    scene.see_all(
        *("statsu", "hub jbos"),
        "hub jobs --state qeued",  # codespell:ignore
        "hub jobs --workflow depoy",  # codespell:ignore
        "hub run fial",  # codespell:ignore
        *("hub run ci -f novalue", "jobs --jsn", "license"),
        "config check",
    )


def out_of_service(scene: Scene) -> None:
    scene.see("pause --reason maintenance")
    scene.see("status")
    scene.see("resume")
    scene.see("hub backup backup.db")
    scene.see("hub prune", typed="n\n")
    scene.see("hub prune --days 0", piped=True)


@pytest.mark.host
def test_the_screens_are_those_of_the_file(scene: Scene) -> None:
    scene.see_all("--help", "hub --help", "hub machine --help")
    scene.see("hub init hub --listen 127.0.0.1:0", real_clock=True)
    with ExitStack() as up:
        url = up.enter_context(served(scene))
        before_any_job(scene)
        enrol(scene, url)
        daemon = up.enter_context(running(scene.folder / "config.toml", env=scene.env))
        deadline = time.monotonic() + 60
        while not any("endpoint_answers" in str(line) for line in daemon.log()):
            assert time.monotonic() < deadline, scene.text()
            time.sleep(0.1)
        jobs_in_many_states(scene)
        mistakes(scene)
        out_of_service(scene)
    scene.see_all("status", "hub jobs")

    text = scene.text()
    if os.environ.get("DISPATCHD_WRITE"):
        SCREENS.write_text(text)
    assert text.splitlines() == SCREENS.read_text().splitlines()
    too_wide = [
        line
        for prompt, shown in scene.screens
        if prompt.removeprefix("$ dispatchd ") in FITTING and shown.code == 0
        for line in shown.text.splitlines()
        if len(re.sub(r"\x1b\[[0-9;]*m", "", line)) > 80
    ]
    assert too_wide == []

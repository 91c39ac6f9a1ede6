"""The table of docs/security.md: what each kind of run reaches under each isolation, on real jobs of a daemon."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from attrs import frozen

from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.engines.local import bubblewrap
from dispatchd.linux.landlock import able
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, endpoint
from support.git_server import GitServer, git_server
from support.images import IMAGE
from support.until import until
from support.walls import TRIED, command_of, done, is_tried, script, targets, word

pytestmark = pytest.mark.skipif(able().abi < 6, reason="needs Landlock of Linux 6.12")


@frozen(kw_only=True)
class Kind:
    """A kind of run: lines of its workflow, and members of its job."""

    limits: str = ""
    job: dict[str, Any]


def kinds(git: GitServer) -> dict[str, Kind]:
    [sha, *_] = git.create("acme/code")
    checkout = f'checkout = true\ncheckout_url = "{git.url}"\ncheckout_secret = "git"'
    return {
        "plain": Kind(job={}),
        "headless": Kind(
            limits='contract = "headless"\narguments = []\nmax_retries = 0', job={}
        ),
        # Tests may run as root, whom no sandbox holds.
        "fork": Kind(limits="forks_without_isolation = true", job={"from_fork": True}),
        "checkout": Kind(
            limits=checkout, job={"repository_name": "acme/code", "sha": sha}
        ),
    }


OPTIONS = {
    Isolation.SANDBOX: "",
    Isolation.BUBBLEWRAP: "",
    # The machine's programs instead of the image's, so that an attempt fails by the wall and not for want of a tool.
    Isolation.CONTAINER: f'image = "{IMAGE}"\npull = "never"\n',
    Isolation.NONE: "",
}

GIT_TOKEN = "token-of-the-table"

MACHINE = ("/usr", sys.prefix, sys.base_prefix)

HARMLESS = (
    *("read the machine's secret", "list the daemon's records", "list all runs"),
    *("read another run's input", "read another run's files"),
    *("read the daemon's descriptors", "enter the daemon's working folder by proc"),
    *("signal the daemon", "signal its shim"),
    *("read another run's environment", "signal another run"),
    *("read the daemon's home", "connect to an abstract socket of the daemon"),
    *("write to a terminal of the daemon's user", "take a descriptor of the daemon"),
    *("connect to a socket of another run", "see the names of files that change"),
)
"""What can be tried without a wall: it harms neither the machine nor these tests."""

REMOVES = ("remove its run's folder", "kill its shim")

PRELUDE = """
RUN=$(dirname "$DISPATCHD_WORKSPACE") EVENT=$GITHUB_EVENT_PATH FILES=$DISPATCHD_ATTEMPT_FOLDER/run; export RUN EVENT FILES
"""


@contextmanager
def place() -> Iterator[Path]:
    """Yield a folder with a short path that is not below /tmp, of which some runs have their own."""
    with TemporaryDirectory(prefix="table-", dir=Path.home()) as name:
        yield Path(name)


def configure(
    folder: Path, url: str, isolation: Isolation, found: dict[str, Kind]
) -> Path:
    """Write a configuration with a workflow of each kind, and one whose run goes on beside them."""
    config = write_config(folder, url, {}, runs=f"slots = {len(found) + 1}")
    read = json.dumps([str(folder / "tries"), *MACHINE])
    other = '["/bin/sh", "-c", "mkfifo pipe; read line <pipe; exit 5"]'
    head = f'[workflows.other]\ncommand = {other}\nisolation = "sandbox"\nsecrets = {{ KEY = "git" }}\n'
    tables = [f'{head}[secrets.git]\nenv = "GIT_OF_THE_DAEMON"\n']
    for name, kind in found.items():
        command = f'["/bin/sh", "{folder}/tries/it.sh"]'
        tables.append(
            f'[workflows.{name}]\ncommand = {command}\nisolation = "{isolation}"\nread_paths = {read}\n'
            f'env = {{ PATH = "{os.environ["PATH"]}" }}\n{OPTIONS[isolation]}{kind.limits}\n'
        )
    config.write_text(config.read_text() + "\n".join(tables))
    return config


async def reached(isolation: Isolation, tries: dict[str, str]) -> dict[str, set[str]]:
    """Return what a run of each kind has reached."""
    with place() as folder, git_server(folder / "git", token=GIT_TOKEN) as git:
        found = kinds(git)
        async with endpoint() as hub:
            config = configure(folder, hub.url, isolation, found)
            env = {"GIT_OF_THE_DAEMON": GIT_TOKEN}
            async with running_daemon(config, env=env) as daemon:
                return await _reached(hub, daemon, found, tries)


async def _reached(
    hub: Endpoint, daemon: DaemonHere, found: dict[str, Kind], tries: dict[str, str]
) -> dict[str, set[str]]:
    hub.hand_out({"id": "other", "dag_name": "other"})
    await daemon.until_logged("job_attempt_started", job_id="other")
    shim = await until(lambda: _shim_of(daemon.state / "runs/other"), 30, "a shim")
    child = await until(lambda: command_of(shim), 30, "a command")
    pipe = daemon.state / "runs/other/workspace/pipe"
    await until(pipe.exists, 30, "a pipe")
    with targets(daemon.state) as env:
        env |= {"OTHER": str(child), "SECRETS": str(daemon.config.parent)}
        lines = [f"export {name}='{value}'" for name, value in env.items()]
        (daemon.config.parent / "tries").mkdir()
        file = daemon.config.parent / "tries/it.sh"
        file.write_text("\n".join([*lines, PRELUDE, script(tries)]))
        for name, kind in found.items():
            hub.hand_out({"id": f"j-{name}", "dag_name": name, **kind.job})
        await hub.until_finished(*(f"j-{name}" for name in found), within_s=120)
    pipe.write_text("go\n")
    (other,) = await hub.until_finished("other")
    assert "exit code 5" in other["result_summary"]
    outputs = {
        name: (daemon.state / f"runs/j-{name}/attempt-1/output.log").read_text()
        for name in found
    }
    for name, output in outputs.items():
        print(name, output)
        # All of it was tried.
        assert output.count(" done") + output.count(" not") >= len(tries), output
    return {name: done(tries, output) for name, output in outputs.items()}


def _shim_of(run: Path) -> int:
    """Return the pid of the shim of a run, or 0 if it doesn't say yet that it is."""
    processes = Path("/proc").glob("[0-9]*")
    title = f"dispatchd-run {run}/"
    return next(
        (int(each.name) for each in processes if title in _command_line(each)), 0
    )


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def expected(isolation: Isolation, tries: dict[str, str]) -> set[str]:
    return {
        name for name in tries if is_tried(name) and word(isolation, name) != "denied"
    }


@pytest.mark.parametrize(
    "isolation",
    [
        Isolation.SANDBOX,
        *(
            pytest.param(each, marks=pytest.mark.host)
            for each in (Isolation.BUBBLEWRAP, Isolation.CONTAINER, Isolation.NONE)
        ),
    ],
)
async def test_every_kind_of_run_reaches_what_the_table_says(
    isolation: Isolation, request: pytest.FixtureRequest
) -> None:
    if isolation is Isolation.CONTAINER:
        request.getfixturevalue("image")
    if isolation is Isolation.BUBBLEWRAP:
        problem = bubblewrap.problem(os.environ["PATH"])
        if problem:
            pytest.skip(problem)
    if shutil.which("git") is None:
        pytest.skip("needs git")
    # Last what takes from the run what others need.
    tries = {name: TRIED[name] for name in sorted(TRIED, key=REMOVES.__contains__)}
    if isolation is Isolation.NONE:
        tries = {name: TRIED[name] for name in HARMLESS}

    found = await reached(isolation, tries)

    wanted = expected(isolation, tries)
    for kind, well in found.items():
        assert well - wanted == set(), kind
        assert wanted - well == set(), kind

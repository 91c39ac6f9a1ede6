"""Engines that call a script over which still runs, and the files by which its attempt is followed all the same."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio
import pytest
from attrs import define

from dispatchd.agent.domain.executions.identities import EngineRun
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.port import Found, State
from dispatchd.agent.engines.start_claims import Claim
from dispatchd.agent.engines.start_script import STOP
from dispatchd.agent.engines.submitted.ends import Words
from dispatchd.agent.engines.submitted.engine import SubmittedEngine
from dispatchd.agent.engines.submitted.script import START, launch_text
from dispatchd.agent.engines.submitted.site import Site, order_stop
from dispatchd.linux.clock import MachineTime
from dispatchd.protocol.outcome import Exit
from dispatchd.redaction.known_secrets import KnownSecrets
from support.until import until

NAME: Final = "dd-x-1"
RUN: Final = EngineRun(engine="toy", kind="toy", name=NAME, limit_s=600.0)
LOOP: Final = "echo begun >>marks; i=0; while [ ! -e go ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done; exit 4"
WAITS: Final = f"trap 'echo end >>marks; exit 9' TERM; {LOOP}"


@define
class Says:
    """An engine that says one thing of every script."""

    found: Found | None

    async def submit(self, _name: str, _script: Path) -> None: ...

    async def find(self, _name: str) -> Found | None:
        return self.found

    async def stop(self, _name: str) -> None: ...

    async def names(self, _prefix: str) -> list[str]:
        return []


@pytest.fixture
def supplier() -> Iterator[LocalEngine]:
    engine = LocalEngine.here({}, KnownSecrets())
    yield engine
    engine.close()


def site_of(folder: Path, found: Found | None) -> Site:
    words = Words(engine="toy", execution="toy run", controller="its engine")
    return Site(
        engine="toy",
        folder=folder / "engines",
        prefix="dd-x-",
        time=MachineTime(),
        executor=Says(found),
        words=words,
        poll_s=0.1,
    )


def lay_out(site: Site, folder: Path, script: str) -> None:
    text = launch_text(["/bin/sh", "-c", script], {}, folder, folder / "output")
    site.lay_out(NAME, folder, text, has_secrets=False)


@contextmanager
def script_of(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the script of the start, as an engine would, and end it behind the block."""
    with subprocess.Popen(
        ["/bin/sh", str(folder / "engines" / NAME / START)], start_new_session=True
    ) as running:
        try:
            yield running
        finally:
            (folder / "go").touch()


def is_alive(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def until_begun(folder: Path) -> None:
    await until((folder / "marks").exists, 30, "the command")


async def test_a_script_that_runs_is_no_success_whatever_its_engine_says(
    tmp_path: Path, supplier: LocalEngine
) -> None:
    site = site_of(tmp_path, Found(state=State.ENDED, code=0))
    engine = SubmittedEngine(0.0, site, supplier, set, lambda *_: RUN)
    lay_out(site, tmp_path, WAITS)

    with script_of(tmp_path) as running:
        await until_begun(tmp_path)
        with anyio.fail_after(60):
            end = await engine.observe(RUN, tmp_path)
        assert running.wait(20) == 9

    # However politely it left, it has done half of its work.
    note = f"toy run {NAME}: ended, and its command was terminated."
    assert end == Exit(code=None, note=note)
    assert (tmp_path / "marks").read_text().split() == ["begun", "end"]


async def test_the_end_of_a_second_script_is_not_that_of_the_first(
    tmp_path: Path, supplier: LocalEngine
) -> None:
    site = site_of(tmp_path, Found(state=State.ENDED, code=75))
    engine = SubmittedEngine(0.0, site, supplier, set, lambda *_: RUN)
    lay_out(site, tmp_path, WAITS)

    with script_of(tmp_path) as running:
        await until_begun(tmp_path)
        with anyio.move_on_after(2.5) as limit:
            await engine.observe(RUN, tmp_path)
        assert limit.cancelled_caught
        (tmp_path / "go").touch()
        running.wait(20)
        with anyio.fail_after(60):
            end = await engine.observe(RUN, tmp_path)

    assert end == Exit(code=4)
    assert (tmp_path / "marks").read_text().split() == ["begun"]


async def test_a_script_that_was_killed_has_ended_when_its_command_has(
    tmp_path: Path, supplier: LocalEngine
) -> None:
    site = site_of(tmp_path, Found(state=State.ENDED, code=137))
    engine = SubmittedEngine(0.0, site, supplier, set, lambda *_: RUN)
    lay_out(site, tmp_path, f"trap '' TERM; {LOOP}")

    with script_of(tmp_path) as running:
        await until_begun(tmp_path)
        running.kill()
        running.wait(20)
        with anyio.fail_after(60):
            end = await engine.observe(RUN, tmp_path)
        leader = (site.files(NAME, tmp_path).folder / "session").read_text().strip()
        assert not is_alive(leader)

    assert end == Exit(code=137)


def test_a_claim_is_never_written_again(tmp_path: Path) -> None:
    site = site_of(tmp_path, None)
    lay_out(site, tmp_path, "exit 0")
    files = site.files(NAME, tmp_path)
    assert files.take() is Claim.DAEMON
    claim = files.folder / "claim"
    before = claim.stat()

    assert files.take() is Claim.DAEMON
    assert files.last_claim() is Claim.DAEMON

    after = claim.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [each.name for each in files.folder.glob("claim*")] == ["claim"]


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_full_disk_hides_no_claim_and_takes_an_order_to_stop(tmp_path: Path) -> None:
    site = site_of(tmp_path, None)
    lay_out(site, tmp_path, "exit 0")
    files = site.files(NAME, tmp_path)
    (files.folder / "claim").write_text("7\n")

    with full_disk():
        claim = files.take()
        order_stop(files, 3.0)

    assert claim is Claim.JOB
    assert (files.folder / STOP).read_text() == ""


@pytest.mark.parametrize("left", ["256\n", "999\n", "-1\n", "7", ""])
def test_an_exit_code_that_no_command_has_is_none(tmp_path: Path, left: str) -> None:
    site = site_of(tmp_path, None)
    lay_out(site, tmp_path, "exit 0")
    files = site.files(NAME, tmp_path)
    (files.folder / "exit").write_text(left)

    assert files.exit_code is None

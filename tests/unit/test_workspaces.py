"""Who may touch a run's folder: private code goes when its job needs it no more, and never before."""

import os
import random
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from attrs import evolve
from typing_extensions import override

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.loops.prune import PruneLoop
from dispatchd.agent.run_loop.workspaces import Workspaces
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import RunFolder, Runs
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.linux.clock import SteadyClock
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Outcome, Verdict
from dispatchd.redaction.known_secrets import KnownSecrets
from support.clock import advance, within
from support.current import current_config
from support.folders import nest
from support.logs import logging_to
from support.until import until

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=40)
DONE = Verdict(outcome=Outcome.SUCCEEDED, summary="Done.")
HASHED = "long " * 100
"""An id that is too long for a file's name."""


class TellingStore(JobStore):
    """The real store; says when somebody has looked for old jobs."""

    looked: threading.Event

    @override
    def past_before(self, before: datetime) -> list[TrackedJob]:
        found = super().past_before(before)
        self.looked.set()
        return found


class Place:
    """A state folder, and what works on it."""

    loop: PruneLoop

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, _ = TellingStore.open(folder)
        self.store.looked = threading.Event()
        self.clock = SteadyClock.open(folder)
        self.tracker = Tracker(self.store, self.clock, Disk(random.Random(0)))
        self.runs = Runs.open(folder)
        self.bugs = BugFence()
        self.workspaces = Workspaces(self.tracker, self.runs, self.bugs)
        self.endpoint_time: datetime | None = NOW
        self.context = Context(
            current=current_config(folder, history_days=30),
            clock=self.clock,
            random=random.Random(0),
            bugs=self.bugs,
        )

    def put(self, job_id: str, phase: Phase, at: datetime = NOW) -> TrackedJob:
        verdict = DONE if phase is Phase.FINISHING else None
        record = evolve(
            TrackedJob.received(Job(id=job_id, workflow="it"), now=at),
            phase=phase,
            verdict=verdict,
        )
        self.store.put(record)
        return record

    def run_of(self, job_id: str, *, private: bool = True) -> RunFolder:
        self.runs.create(job_id, payload="{}", headers="{}")
        run = self.runs.folder(job_id)
        (run.workspace / "code").write_text("private")
        if private:
            self.runs.mark_private(job_id)
        return run

    def past(self, job_id: str) -> TrackedJob:
        """Leave a job in history that was given back long ago."""
        record = self.put(job_id, Phase.PENDING_ACCEPT, LONG_AGO)
        past = record.advance(Event.ACCEPT_REFUSED, LONG_AGO)
        self.store.put(past)
        for file in (self.folder / "history").iterdir():
            os.utime(file, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))
        return past

    @asynccontextmanager
    async def pruning(self) -> AsyncIterator[None]:
        loop = PruneLoop(
            store=self.store,
            tracker=self.tracker,
            runs=self.runs,
            workspaces=self.workspaces,
            endpoint_time=lambda: self.endpoint_time,
            context=self.context,
        )
        self.loop = loop
        async with anyio.create_task_group() as tasks:
            with within(20):
                await tasks.start(loop.run)
                yield
            tasks.cancel_scope.cancel()

    def nothing_private(self) -> bool:
        try:
            return not list(self.folder.rglob("code"))
        except FileNotFoundError:
            # Something is being removed at this moment.
            return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.store.close()


@pytest.mark.parametrize(
    "phase",
    [Phase.PENDING_ACCEPT, Phase.ACCEPTED, Phase.RUNNING, Phase.NEEDS_ATTENTION],
)
async def test_a_workspace_that_a_job_may_use_stays(place: Place, phase: Phase) -> None:
    place.put("j", phase)
    run = place.run_of("j")

    await place.workspaces.clear("j")

    assert (run.workspace / "code").exists()
    assert run.private_mark.exists()


@pytest.mark.parametrize("phase", [Phase.RETRY_WAIT, Phase.FINISHING, Phase.HISTORY])
async def test_a_workspace_that_is_needed_no_more_goes(
    place: Place, phase: Phase
) -> None:
    place.put("j", phase)
    run = place.run_of("j")
    (run.path / "workspace.checkout-dead").mkdir()
    (run.path / "workspace.checkout-dead" / "code").touch()

    await place.workspaces.clear("j")

    assert place.nothing_private()
    assert sorted(each.name for each in run.path.iterdir()) == [
        "event.json",
        "headers.json",
        "workspace",
    ]


async def test_a_read_only_workspace_goes_too(place: Place) -> None:
    place.put("j", Phase.FINISHING)
    run = place.run_of("j")
    run.workspace.chmod(0o500)

    await place.workspaces.clear("j")

    assert place.nothing_private()


@pytest.mark.parametrize("job_id", ["j", "a/b", HASHED])
async def test_a_workspace_that_was_left_behind_goes_with_the_next_round(
    place: Place, job_id: str
) -> None:
    place.put(job_id, Phase.HISTORY)
    place.run_of(job_id)

    async with place.pruning():
        await until(place.nothing_private)


async def test_what_an_earlier_daemon_was_removing_goes_with_the_next_round(
    place: Place,
) -> None:
    left = place.runs.trash.path / "0123"
    left.mkdir(parents=True)
    (left / "code").touch()

    async with place.pruning():
        await until(lambda: not left.exists())


async def test_an_old_job_is_forgotten_with_its_folder(place: Place) -> None:
    place.past("j")
    run = place.run_of("j", private=False)

    async with place.pruning():
        await until(lambda: not run.path.exists())

    assert place.store.past("j") is None


async def test_a_job_that_comes_again_while_old_ones_are_forgotten_keeps_its_folder(
    place: Place,
) -> None:
    place.past("j")
    place.past("k")
    run = place.run_of("j", private=False)
    job = Job(id="j", workflow="it", claim_token="again")

    async def come_again() -> None:
        await place.tracker.receive(job, store_texts=lambda: None)

    async with anyio.create_task_group() as tasks, AsyncExitStack() as held:
        await held.enter_async_context(place.tracker.holding("j"))
        tasks.start_soon(come_again)
        await anyio.wait_all_tasks_blocked()
        async with place.pruning():
            await to_thread.run_sync(place.store.looked.wait)
            await anyio.wait_all_tasks_blocked()
            # Both wait for the job, and the delivery came first.
            await held.aclose()
            await until(lambda: place.store.past("k") is None)

    assert place.tracker.in_phase(Phase.PENDING_ACCEPT)
    assert (run.workspace / "code").exists()


@pytest.mark.parametrize("heard", [LONG_AGO, None])
async def test_a_clock_that_is_ahead_forgets_nothing(
    place: Place, heard: datetime | None
) -> None:
    """This machine's clock says that 40 days have passed, and the endpoint's doesn't, or says nothing yet."""
    place.past("j")
    place.endpoint_time = heard

    async with place.pruning():
        await anyio.wait_all_tasks_blocked()
        if heard is not None:
            await to_thread.run_sync(place.store.looked.wait)

    assert place.store.past("j") is not None


async def test_old_jobs_are_forgotten_as_soon_as_the_endpoint_tells_its_time(
    place: Place,
) -> None:
    place.past("j")
    place.endpoint_time = None

    async with place.pruning():
        await anyio.wait_all_tasks_blocked()
        place.endpoint_time = NOW
        place.context.activity.changed.notify()
        await until(lambda: place.store.past("j") is None)


async def test_a_run_with_folders_nested_deep_is_pruned_like_any_other(
    place: Place,
) -> None:
    place.past("a")
    place.past("b")
    runs = [place.run_of(each, private=False) for each in ("a", "b")]
    nest(runs[0].workspace / "deep", 1200)

    async with place.pruning():
        await until(lambda: not place.runs.trash.contents())
        await until(lambda: not any(each.path.exists() for each in runs))
        await until(lambda: not place.runs.trash.contents())

    assert not place.bugs.met


async def a_later_round_removes(mark: Path) -> bool:
    """Move time on by an hour, to the next round at least; return whether a file is gone."""
    await advance(3600)
    return not mark.exists()


@pytest.mark.host
@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
async def test_a_run_that_cannot_be_removed_keeps_no_other_and_is_named_once(
    place: Place, tmp_path: Path
) -> None:
    """What a container of root leaves is such a run for a daemon that is not root, an immutable file for any."""
    for job_id in ("aa", "bb", "cc"):
        place.past(job_id)
    runs = [place.run_of(job_id, private=False) for job_id in ("aa", "bb", "cc")]
    stuck = runs[0].workspace / "stuck"
    stuck.touch()
    if subprocess.run(["chattr", "+i", stuck], check=False).returncode:
        pytest.skip("needs a file system with immutable files")
    with logging_to(tmp_path / "log", KnownSecrets()):
        try:
            async with place.pruning():
                await until(lambda: place.loop.problems)
                await until(lambda: len(place.runs.trash.contents()) == 1)
                # The next hour looks again, and says no more.
                place.run_of("dd")
                place.put("dd", Phase.HISTORY)
                mark = place.runs.folder("dd").private_mark
                await until(lambda: a_later_round_removes(mark))
                (trouble,) = place.loop.problems
                assert "can't be removed" in trouble
                assert "stuck: Operation not permitted" in trouble
                assert "remove it as root" in trouble
        finally:
            for each in tmp_path.rglob("stuck"):
                subprocess.run(["chattr", "-i", each], check=True)
        async with place.pruning():
            await until(lambda: not place.runs.trash.contents())
            await until(lambda: not place.loop.problems)

    logged = (tmp_path / "log").read_text()
    assert logged.count("folder_not_removed") == 1
    assert not place.bugs.met


async def test_a_record_that_meets_a_bug_keeps_no_other_from_being_pruned(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.past("a")
    place.past("b")
    forget = place.store.forget

    def broken(record: TrackedJob) -> None:
        if record.job.id == "a":
            raise RecursionError
        forget(record)

    monkeypatch.setattr(place.store, "forget", broken)

    async with place.pruning():
        await until(lambda: place.store.past("b") is None)

    assert place.bugs.met == {"prune": 1}
    assert place.store.past("a") is not None

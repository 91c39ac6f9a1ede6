"""Decisions that wait for a job's lock while somebody else's is being written."""

import os
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from typing_extensions import override

from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.run_loop.conclude import Concluder
from dispatchd.agent.run_loop.workspaces import Workspaces
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.linux.clock import SteadyClock
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Exit, FailureCause, NeverStarted, Outcome
from dispatchd.redaction.known_secrets import KnownSecrets
from support.current import current_config

WORKFLOW = Workflow(
    name="it",
    command=("/bin/true",),
    max_duration_s=9,
    inactivity_s=0,
    kill_grace_s=1,
    max_retries=0,
)


class SlowStore(JobStore):
    """The real store, whose puts wait while its gate is closed."""

    opened: threading.Event
    waiting: threading.Event

    @override
    def put(self, record: TrackedJob) -> None:
        self.waiting.set()
        self.opened.wait()
        super().put(record)


class Bench:
    """A tracker on a slow disk, and a concluder."""

    def __init__(self, folder: Path) -> None:
        store, _ = SlowStore.open(folder)
        store.opened, store.waiting = threading.Event(), threading.Event()
        store.opened.set()
        self.store, self.runs = store, Runs.open(folder)
        clock = SteadyClock.open(folder)
        self.clock, rng = clock, random.Random(0)
        self.tracker = Tracker(store, clock, Disk(rng))
        context = Context(
            current=current_config(folder), clock=clock, random=rng, bugs=BugFence()
        )
        self.concluder = Concluder(
            tracker=self.tracker,
            runs=self.runs,
            workspaces=Workspaces(self.tracker, self.runs, BugFence()),
            known=KnownSecrets(),
            context=context,
        )

    async def accepted(self, job: Job) -> None:
        def texts() -> None:
            self.runs.create(job.id, payload="null", headers="null")

        await self.tracker.receive(job, store_texts=texts)
        await self.tracker.apply(job.id, Event.ACCEPT_CONFIRMED)

    async def starting(self, job_id: str, *, ago_s: float = 0) -> None:
        now = self.clock.now() - timedelta(seconds=ago_s)
        attempt = Attempt(number=1, started_at=now, deadline_at=now)
        await self.tracker.apply(
            job_id,
            Event.ATTEMPT_STARTING,
            change=lambda before: before.with_attempt(attempt),
        )

    @asynccontextmanager
    async def being_written(
        self, first: Callable[[], Coroutine[Any, Any, object]]
    ) -> AsyncIterator[None]:
        """Hold the put of a first decision until the body has been let to wait behind it."""
        self.store.waiting.clear()
        self.store.opened.clear()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first)
                await to_thread.run_sync(self.store.waiting.wait)

                async def open_gate() -> None:
                    await anyio.wait_all_tasks_blocked()
                    self.store.opened.set()

                tasks.start_soon(open_gate)
                yield


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_cancel_outlives_the_undoing_of_an_attempt_that_never_began(
    bench: Bench,
) -> None:
    await bench.accepted(Job(id="j", workflow="it"))
    await bench.starting("j")

    async with bench.being_written(lambda: bench.tracker.cancel("j", "Unwanted.")):
        await bench.concluder.conclude(
            "j", NeverStarted(), WORKFLOW, secrets_known=True
        )

    record = bench.tracker.get("j")
    assert record is not None
    assert record.verdict is not None
    assert (record.phase, record.verdict.outcome) == (Phase.FINISHING, Outcome.ABORTED)
    assert record.verdict.cause is FailureCause.CANCELLED


async def test_a_block_outlives_the_undoing_of_an_attempt_that_never_began(
    bench: Bench,
) -> None:
    await bench.accepted(Job(id="j", workflow="it"))
    await bench.starting("j")

    async with bench.being_written(lambda: bench.tracker.park("j", "Not today.")):
        await bench.concluder.conclude(
            "j", NeverStarted(), WORKFLOW, secrets_known=True
        )

    record = bench.tracker.get("j")
    assert record is not None
    assert record.phase is Phase.NEEDS_ATTENTION
    assert "Not today." in record.blocked


async def test_an_attempt_that_never_began_and_nobody_ended_is_undone(
    bench: Bench,
) -> None:
    await bench.accepted(Job(id="j", workflow="it"))
    await bench.starting("j")

    await bench.concluder.conclude("j", NeverStarted(), WORKFLOW, secrets_known=True)

    record = bench.tracker.get("j")
    assert record is not None
    assert (record.phase, record.attempts) == (Phase.ACCEPTED, ())


@pytest.mark.parametrize("event", [Event.ATTEMPT_STARTING, Event.DECIDED])
async def test_what_was_decided_about_a_job_that_is_being_parked_comes_too_late(
    bench: Bench, event: Event
) -> None:
    await bench.accepted(Job(id="j", workflow="it"))

    async with bench.being_written(lambda: bench.tracker.park("j", "Not today.")):
        record = await bench.tracker.apply("j", event)

    assert (record.phase, record.blocked) == (Phase.NEEDS_ATTENTION, "Not today.")


@pytest.mark.parametrize("event", [Event.ATTEMPT_STARTING, Event.DECIDED])
async def test_what_was_decided_under_an_older_claim_comes_too_late(
    bench: Bench, event: Event
) -> None:
    await bench.accepted(Job(id="j", workflow="it", claim_token="1"))
    old = bench.tracker.get("j")
    assert old is not None

    await bench.tracker.answered(old, Event.LEASE_LOST)
    await bench.tracker.receive(
        Job(id="j", workflow="it", claim_token="2"), store_texts=lambda: None
    )
    record = await bench.tracker.apply("j", event)

    assert (record.phase, record.job.claim_token) == (Phase.PENDING_ACCEPT, "2")


@pytest.mark.parametrize(
    ("after_s", "took"),
    [
        (12, "Succeeded after 12 s"),
        (-60, "Succeeded after 1 h"),
        (9999, "Succeeded after 1 h"),
    ],
    ids=["known", "before its start", "in the future"],
)
async def test_an_attempt_that_is_concluded_late_took_as_long_as_it_ran(
    bench: Bench, after_s: float, took: str
) -> None:
    """Its shim wrote the end while no daemon lived; a time that can't be counts for nothing."""
    await bench.accepted(Job(id="j", workflow="it"))
    bench.runs.prepare_attempt("j", 1)
    await bench.starting("j", ago_s=3600)
    record = bench.tracker.get("j")
    assert record is not None
    assert record.attempt is not None
    ended_s = record.attempt.started_at.timestamp() + after_s
    end = bench.runs.folder("j").attempt(1) / "exit"
    end.write_text("0\n")
    os.utime(end, (ended_s, ended_s))

    await bench.concluder.conclude("j", Exit(code=0), WORKFLOW, secrets_known=True)

    record = bench.tracker.get("j")
    assert record is not None
    assert record.verdict is not None
    assert record.verdict.summary.startswith(took)

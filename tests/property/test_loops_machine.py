"""Store, transitions and loops against a model of the world around them, with kills between any two steps.

Everything of the daemon is real but its edges: the endpoint and the processes are models that outlive it.
"""

import json
import random
import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
import structlog
from attrs import evolve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
)
from typing_extensions import override

from dispatchd.agent.config.keys import Limits
from dispatchd.agent.domain.delivery import Delivery
from dispatchd.agent.domain.exit_table import Contract
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.domain.runnable_workflows import Machine
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.loops.pull import PullLoop
from dispatchd.agent.loops.report import ReportLoop
from dispatchd.agent.run_loop.attempt import AttemptRunner
from dispatchd.agent.run_loop.conclude import Concluder
from dispatchd.agent.run_loop.loop import RunLoop
from dispatchd.agent.run_loop.unkillable import Survivors
from dispatchd.agent.run_loop.workspaces import Workspaces
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import (
    NotPossible,
    ProtocolError,
    RateLimited,
    RemoteError,
    RunError,
    SecretUnavailable,
    SpawnFailed,
    Unauthorized,
    Unavailable,
    WorkspaceFailed,
)
from dispatchd.linux.clock import SteadyClock
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Outcome, Verdict
from dispatchd.redaction.known_secrets import KnownSecrets
from support.current import current_config
from support.model import (
    KILLED_CODE,
    Fuse,
    Killed,
    ModelEndpoint,
    ModelEngine,
    MortalStore,
)
from support.state_machines import run_for_long
from support.torture import Torture

T = TypeVar("T")
SLOTS = 2
FAULTS: list[RemoteError] = [
    Unavailable(call="x", reason="down"),
    RateLimited(call="x", reason="429", retry_after_s=None),
    ProtocolError(call="x", reason="a page"),
    Unauthorized(call="x", reason="401"),
]
WORKFLOW = Workflow(
    name="it",
    command=("/bin/true",),
    env={},
    max_duration_s=3600,
    inactivity_s=0,
    kill_grace_s=1,
    max_retries=0,
)

# Its process leaves no result, so it never succeeds by itself: it is tried again, or asks for a person.
AGENT = evolve(WORKFLOW, name="agent", contract=Contract.HEADLESS, max_retries=2)
ATTEMPTS = 1 + AGENT.retries


Order = tuple[str, str]
"""What an operator wants: a job's id, and `park`, `retry` or `succeed`."""

RESOLVED = Verdict(outcome=Outcome.SUCCEEDED, summary="An operator said so.")


def pick(items: list[T], index: int) -> T:
    """Return one of some items, wherever the index falls."""
    return items[index % len(items)]


class AtOnce(random.Random):
    """Jitter that always draws nothing, so that no backoff takes time."""

    @override
    def random(self) -> float:
        return 0.0


class Daemon:
    """The loops of one life of the daemon, wired as in `wiring.py`."""

    def __init__(
        self, folder: Path, endpoint: ModelEndpoint, engine: ModelEngine, fuse: Fuse
    ) -> None:
        self.store, quarantined = MortalStore.open(folder)
        assert quarantined == []
        self.store.fuse = fuse
        self.bugs = BugFence()
        clock, rng, runs = SteadyClock.open(folder), AtOnce(), Runs.open(folder)
        self.endpoint, self.engine = endpoint, engine
        limits = Limits(slots=SLOTS, queue_ahead=100, retry_wait_s=1)
        workflows = {"it": WORKFLOW, "agent": AGENT}
        context = Context(
            current=current_config(folder, workflows, limits=limits),
            clock=clock,
            random=rng,
            bugs=self.bugs,
        )
        self.tracker, known = Tracker(self.store, clock, Disk(rng)), KnownSecrets()
        fence = Fence(self.tracker, clock)
        concluder = Concluder(
            tracker=self.tracker,
            runs=runs,
            workspaces=Workspaces(self.tracker, runs, self.bugs),
            known=known,
            context=context,
        )
        runner = AttemptRunner(
            tracking=Tracking(
                context=context, tracker=self.tracker, fence=fence, runs=runs
            ),
            engine=engine,
            concluder=concluder,
            survivors=Survivors(engine, BugFence()),
            source=endpoint,
        )
        self.loops = (
            PullLoop(
                source=endpoint,
                permissions=(),
                tracker=self.tracker,
                runs=runs,
                machine=Machine(),
                context=context,
            ),
            ReportLoop(
                source=endpoint,
                tracker=self.tracker,
                fence=fence,
                runs=runs,
                machine=Machine(),
                context=context,
            ),
            RunLoop(
                runner=runner,
                concluder=concluder,
                fence=fence,
                tracker=self.tracker,
                machine=Machine(),
                context=context,
            ),
        )

    async def live_until_settled(self, orders: list[Order]) -> None:
        """Carry out what operators want, and run until only processes and people are waited for."""
        self.endpoint.connect()
        self.engine.connect()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for loop in self.loops:
                    tasks.start_soon(loop.run)
                for order in orders:
                    await self.obey(order)
                while not self.settled():
                    with anyio.move_on_after(0.005):
                        await self.tracker.changed.next.wait()
                tasks.cancel_scope.cancel()

    async def obey(self, order: Order) -> None:
        job_id, what = order
        with suppress(NotPossible):
            if what == "park":
                await self.tracker.park(job_id, "An operator wants it.")
            else:
                await self.tracker.resolve(
                    job_id, None if what == "retry" else RESOLVED
                )

    def settled(self) -> bool:
        at = {phase: self.tracker.in_phase(phase) for phase in Phase}
        owed = (
            at[Phase.PENDING_ACCEPT]
            or at[Phase.FINISHING]
            or self.tracker.repeats
            or self.endpoint.queue
            or self.endpoint.open_claims()
        )
        begun = {each.run_id for each in self.engine.alive()}
        starting = any(record.run_id not in begun for record in at[Phase.RUNNING])
        startable = at[Phase.ACCEPTED] or at[Phase.RETRY_WAIT]
        waiting = startable and len(at[Phase.RUNNING]) < SLOTS
        dying = any(record.stop_requested for record in at[Phase.RUNNING])
        for record in at[Phase.NEEDS_ATTENTION]:
            assert record.blocked, record
            assert "bug" not in record.blocked, "the bug fence caught something"
        assert not self.bugs.met, "the bug fence caught something"
        return not (owed or starting or waiting or dying)


START_FAULTS: list[RunError] = [
    SpawnFailed(command="it", reason="gone"),
    WorkspaceFailed(url="x", reason="down"),
    SecretUnavailable(name="key", reason="down"),
]


class Loops(RuleBasedStateMachine):
    """Jobs come, processes end, calls fail, and the daemon is killed at any step."""

    def __init__(self) -> None:
        super().__init__()
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
        self.folder = Path(tempfile.mkdtemp(prefix="dispatchd-model-"))
        self.fuse = Fuse()
        self.endpoint = ModelEndpoint(fuse=self.fuse)
        self.engine = ModelEngine(fuse=self.fuse, endpoint=self.endpoint)
        self.cancelled: set[str] = set()
        self.orders: list[Order] = []
        self.ordered: set[str] = set()
        self.kills = 0
        self.is_ending = False
        """True once a person resolves every job that is parked."""

    @override
    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            shutil.rmtree(self.folder)

    def live(self, *, kill_after: int | None = None) -> None:
        self.fuse.left = kill_after
        self.endpoint.lease_over()
        daemon = Daemon(self.folder, self.endpoint, self.engine, self.fuse)
        try:
            anyio.run(daemon.live_until_settled, self.orders)
        except BaseExceptionGroup as group:
            if group.split(Killed)[1] is not None:
                raise
            self.kills += 1
        except Killed:
            self.kills += 1
        finally:
            self.orders = []
            daemon.store.close()
            self.fuse.left = None

    @rule(
        kind=st.sampled_from(["it", "it", "it", "agent", "agent", "unknown", "flawed"])
    )
    def submit(self, kind: str) -> None:
        job_id = f"job-{len(self.endpoint.jobs)}"
        problem = "$.sha must be a string" if kind == "flawed" else ""
        self.endpoint.submit(
            Delivery(
                job=Job(id=job_id, workflow=kind),
                payload="",
                headers="",
                problem=problem,
            )
        )

    # What is drawn never depends on how far the daemon got: threads make that differ from run to run.

    @rule(index=st.integers(0, 99))
    def cancel(self, index: int) -> None:
        if not self.endpoint.jobs:
            return
        target = pick(sorted(self.endpoint.jobs), index)
        job = Job(
            id=f"job-{len(self.endpoint.jobs)}", command="cancel", target_run_id=target
        )
        self.cancelled.add(target)
        self.endpoint.submit(Delivery(job=job, payload="", headers=""))

    @rule(index=st.integers(0, 99), what=st.sampled_from(["park", "retry", "succeed"]))
    def order(self, index: int, what: str) -> None:
        if self.endpoint.jobs:
            job_id = pick(sorted(self.endpoint.jobs), index)
            self.orders.append((job_id, what))
            self.ordered.add(job_id)

    @rule(index=st.integers(0, 99))
    def hand_out_again(self, index: int) -> None:
        if self.endpoint.jobs:
            job_id = pick(sorted(self.endpoint.jobs), index)
            if job_id not in self.endpoint.queue:
                self.endpoint.queue.append(job_id)

    @rule(index=st.integers(0, 99))
    def be_off_for_longer_than_the_lease(self, index: int) -> None:
        if self.endpoint.jobs:
            self.endpoint.lose(pick(sorted(self.endpoint.jobs), index))

    @rule(index=st.integers(0, 99), code=st.sampled_from([0, 0, 1, 2, 3, 137]))
    def end_a_process(self, index: int, code: int) -> None:
        if self.engine.alive():
            pick(self.engine.alive(), index).code = code

    @rule(fault=st.sampled_from(FAULTS), works=st.booleans(), times=st.integers(1, 3))
    def fail_next(self, fault: RemoteError, works: bool, times: int) -> None:  # noqa: FBT001  # drawn by hypothesis
        self.endpoint.faults.extend([(fault, works)] * times)

    @rule(fault=st.sampled_from(START_FAULTS))
    def fail_next_start(self, fault: RunError) -> None:
        self.engine.faults.append(fault)

    @rule()
    def go_on(self) -> None:
        self.live()

    @rule(steps=st.integers(0, 60))
    def be_killed(self, steps: int) -> None:
        self.live(kill_after=steps)

    @invariant()
    def nothing_ran_twice(self) -> None:
        assert all(count == 1 for count in self.engine.starts.values())

    @invariant()
    def the_budget_is_kept(self) -> None:
        attempts = Counter(each.partition("/")[0] for each in self.engine.starts)
        for job_id, count in attempts.items():
            plain = self.endpoint.jobs[job_id].job.workflow == "it"
            if job_id not in self.ordered:
                assert count <= (1 if plain else ATTEMPTS), (job_id, count)

    @invariant()
    def every_verdict_is_what_happened(self) -> None:
        ended = {
            each.run_id: each.code
            for each in self.engine.processes.values()
            if each.begun
        }
        for job_id, verdict in self.endpoint.finished.items():
            job = self.endpoint.jobs[job_id].job
            if job.is_cancel or job_id in self.ordered | self.endpoint.lost:
                continue
            if self.is_ending and verdict == RESOLVED:
                # Parked in the life in which it was ordered.
                continue
            # A daemon that is killed before it has noted that a start failed starts again, which may go well.
            failed = job_id in self.engine.failed and job_id not in ended
            if job.workflow == "agent" or failed:
                assert verdict.outcome in (Outcome.FAILED, Outcome.ABORTED), verdict
            elif job_id not in ended:
                assert verdict.outcome in (Outcome.REJECTED, Outcome.ABORTED), (
                    job_id,
                    verdict,
                )
            elif ended[job_id] == 0 and job_id not in self.cancelled:
                assert verdict.outcome is Outcome.SUCCEEDED, (job_id, verdict)
            elif ended[job_id] == KILLED_CODE:
                assert verdict.outcome is Outcome.ABORTED, (job_id, verdict)

    def parked(self) -> set[str]:
        records = (
            json.loads(path.read_text()) for path in self.folder.glob("jobs/*.json")
        )
        return {
            record["run_id"]
            for record in records
            if record["phase"] == "needs_attention"
        }

    def all_reported(self) -> bool:
        """Return whether every job is reported and nothing is left of any."""
        left = list((self.folder / "jobs").glob("*.json"))
        return self.endpoint.finished.keys() == self.endpoint.jobs.keys() and not left

    def everything_ends(self) -> None:
        """With the failures over and every process ended, every job is reported and nothing is left."""
        self.is_ending = True
        self.endpoint.faults.clear()
        self.engine.faults.clear()
        for _ in range(ATTEMPTS * len(self.endpoint.jobs) + 3):
            self.orders = [(job_id, "succeed") for job_id in self.endpoint.jobs]
            self.ordered |= self.parked()
            for process in self.engine.alive():
                process.code = 0
            was_reported = self.all_reported()
            self.live()
            # One more life after the last report, for whatever that might start again: a job that was handed out again.
            if was_reported and self.all_reported():
                break
        assert self.all_reported(), (self.endpoint.finished, self.endpoint.jobs)
        self.nothing_ran_twice()
        self.every_verdict_is_what_happened()


Loops.TestCase.settings = settings(
    max_examples=10,
    stateful_step_count=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLoops = Loops.TestCase


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_loops_for_long(torture: Torture) -> None:
    run_for_long(Loops, Loops.TestCase.settings, torture, examples=300)

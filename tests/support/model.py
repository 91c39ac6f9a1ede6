"""An endpoint and an engine in memory, for the state machine of the loops.

Both outlive the daemon, as the real ones do. Both count their steps with the store's, so that a kill can
come before any of them: `Killed` is no Exception, so nothing of the daemon can stop it.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import anyio
from attrs import define, field
from typing_extensions import override

from dispatchd.agent.domain.delivery import Beat, Delivery, LogAnswer, NoJob, Stored
from dispatchd.agent.domain.executions.identities import Identity, ProcessIdentity
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.domain.run.events import Progress
from dispatchd.agent.store.jobs import JobStore
from dispatchd.errors import Conflict, Gone, RemoteError, RunError
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Cleared, Exit, NeverStarted, Outcome, Verdict
from dispatchd.protocol.report import LogChunk, Report
from dispatchd.protocol.uploads.artifacts import ArtifactChunk, ArtifactList

KILLED_CODE = 143
ELSEWHERE = Verdict(outcome=Outcome.SUCCEEDED, summary="Run by another machine.")


class Killed(BaseException):
    """The daemon is gone, as after SIGKILL."""


@define
class Fuse:
    """Burns down with every step that the outside could see; None never does."""

    left: int | None = None

    def burn(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1


@define
class ModelEndpoint:
    """What the endpoint knows: who has which job, and how it ended. Implements `Source`."""

    fuse: Fuse = field(factory=Fuse)
    jobs: dict[str, Delivery] = field(factory=dict)
    queue: deque[str] = field(factory=deque)
    claims: dict[str, str] = field(factory=dict)
    accepted: set[str] = field(factory=set)
    """Jobs whose present claim has been accepted; a new claim needs a new accept."""
    confirmed: set[str] = field(factory=set)
    """Jobs for which any accept was ever confirmed."""
    finished: dict[str, Verdict] = field(factory=dict)
    lost: set[str] = field(factory=set)
    """Jobs that another machine has run, because this one was not heard of within the lease."""
    faults: deque[tuple[RemoteError, bool]] = field(factory=deque)
    """Failures to come, and whether the call takes effect all the same."""
    serial: int = 0
    clock_skew: str = ""
    changed: anyio.Event = field(factory=anyio.Event)

    def submit(self, delivery: Delivery) -> None:
        self.jobs[delivery.job.id] = delivery
        self.queue.append(delivery.job.id)

    def open_claims(self) -> list[str]:
        """Return what was handed out and is neither accepted nor finished."""
        return [
            job_id
            for job_id in self.claims
            if job_id not in self.accepted | set(self.finished)
        ]

    def lease_over(self) -> None:
        """Queue again what was handed out and never accepted nor finished."""
        for job_id in self.open_claims():
            del self.claims[job_id]
            if job_id not in self.queue:
                self.queue.append(job_id)

    def lose(self, job_id: str) -> None:
        """Let another machine run a job to its end that this one has."""
        if job_id in self.claims and job_id not in self.finished:
            self.lost.add(job_id)
            self.finished[job_id] = ELSEWHERE

    def connect(self) -> None:
        """Make what belongs to an event loop anew."""
        self.changed = anyio.Event()

    async def pull(
        self, hold_s: float, *, cancels_only: bool = False
    ) -> Delivery | NoJob:
        await self._step(lambda: None)
        if not self.queue:
            # As long as the test likes.
            await self.changed.wait()
            return NoJob(held=True)
        self.fuse.burn()
        delivery = self.jobs[self.queue.popleft()]
        job = delivery.job
        self.serial += 1
        self.claims[job.id] = f"claim-{self.serial}"
        self.accepted.discard(job.id)
        claimed = Job(
            id=job.id,
            workflow=job.workflow,
            command=job.command,
            target_run_id=job.target_run_id,
            claim_token=self.claims[job.id],
            # Longer than a life of the daemon: within one, what it has been told holds.
            lease_s=3600,
        )
        # The reply may be lost on the way.
        self.fuse.burn()
        return Delivery(
            job=claimed, payload="null", headers="null", problem=delivery.problem
        )

    async def accept(self, record: TrackedJob) -> Beat:
        def effect() -> None:
            self._require(record, "accept")
            self.accepted.add(record.job.id)
            self.confirmed.add(record.job.id)

        await self._step(effect)
        return Beat()

    async def finish(self, record: TrackedJob, report: Report) -> None:
        def effect() -> None:
            if record.job.id in self.lost:
                raise Gone(call="finish", reason="finished elsewhere")
            known = self.finished.get(record.job.id)
            assert record.verdict is not None
            if known is None:
                self._require(record, "finish")
                self.finished[record.job.id] = record.verdict
            else:
                assert known.outcome is record.verdict.outcome

        await self._step(effect)

    async def heartbeat(self, record: TrackedJob, progress: Progress | None) -> Beat:
        raise NotImplementedError(record.job.id)

    async def token(self, record: TrackedJob, permissions: Mapping[str, str]) -> str:
        raise NotImplementedError(record.job.id, permissions)

    async def log(self, record: TrackedJob, chunk: LogChunk) -> LogAnswer:
        """Refuse it: no job of a model lists the extension."""
        raise NotImplementedError

    async def artifacts(
        self, record: TrackedJob, listed: ArtifactList
    ) -> Sequence[Stored]:
        message = "no job of these has this extension"
        raise AssertionError(message)

    async def artifact(self, record: TrackedJob, chunk: ArtifactChunk) -> Stored:
        message = "no job of these has this extension"
        raise AssertionError(message)

    async def release(self, record: TrackedJob, reason: str) -> None:
        raise NotImplementedError(record.job.id, reason)

    def _require(self, record: TrackedJob, call: str) -> None:
        if record.job.id in self.finished:
            raise Gone(call=call, reason="finished")
        if self.claims.get(record.job.id) != record.job.claim_token:
            raise Conflict(call=call, reason="another claim")

    async def _step(self, effect: Callable[[], None]) -> None:
        await anyio.lowlevel.checkpoint()
        self.fuse.burn()
        fault, works = self.faults.popleft() if self.faults else (None, True)
        if works:
            effect()
        self.fuse.burn()
        if fault is not None:
            raise fault


@define
class ModelProcess:
    """A process behind its gate; it goes on when the daemon is gone."""

    run_id: str
    begun: bool = False
    code: int | None = None


@define
class ModelEngine:
    """Processes in memory. Implements `Engine`."""

    fuse: Fuse = field(factory=Fuse)
    endpoint: ModelEndpoint = field(factory=ModelEndpoint)
    processes: dict[int, ModelProcess] = field(factory=dict)
    starts: Counter[str] = field(factory=Counter)
    """By run and attempt."""
    faults: deque[RunError] = field(factory=deque)
    """What the next starts fail with."""
    failed: set[str] = field(factory=set)
    """Runs of which a start has failed."""
    changed: anyio.Event = field(factory=anyio.Event)
    inherited: Mapping[str, str] = field(factory=dict)

    def connect(self) -> None:
        self.changed = anyio.Event()

    def alive(self) -> list[ModelProcess]:
        return [
            process
            for process in self.processes.values()
            if process.begun and process.code is None
        ]

    def weakness(self, isolation: Isolation) -> str:
        return ""

    async def start(
        self, launch: Launch, record: Callable[[Identity], Awaitable[None]]
    ) -> None:
        if self.faults:
            self.failed.add(launch.run_id)
            raise self.faults.popleft()
        pid = len(self.processes) + 1
        process = self.processes[pid] = ModelProcess(launch.run_id)
        await record(ProcessIdentity(pid=pid, start_ticks=pid, boot_id="boot"))
        self.fuse.burn()
        assert launch.run_id in self.endpoint.confirmed, "a process before the accept"
        assert launch.run_id not in self.endpoint.lost, "run after another machine"
        process.begun = True
        self.starts[f"{launch.run_id}/{launch.folder.name}"] += 1
        self.fuse.burn()

    async def recall(self, process: Identity, folder: Path) -> bool:
        return True

    def forget(self, folder: Path) -> None:
        pass

    def queue_timeout_s(self, process: Identity) -> float:
        return 0.0

    async def permit(self, process: Identity, folder: Path, left_s: float) -> None:
        assert left_s > 0, "begun without a claim"

    async def withdraw(self, process: Identity, folder: Path) -> bool:
        return False

    async def has_begun(self, process: Identity, folder: Path) -> bool:
        return True

    def waits(self, process: Identity) -> bool:
        return False

    async def until_told(self, engine: str) -> None:
        raise NotImplementedError(engine)

    async def until_begun(self, process: Identity, folder: Path) -> None:
        return None

    def describe(self, process: Identity) -> str:
        return ""

    def _model(self, process: Identity) -> ModelProcess:
        assert isinstance(process, ProcessIdentity)
        return self.processes[process.pid]

    async def observe(self, process: Identity, folder: Path) -> Exit | NeverStarted:
        model = self._model(process)
        while model.begun and model.code is None:
            await self.changed.wait()
        return Exit(code=model.code) if model.begun else NeverStarted()

    def has_ended(self, process: Identity) -> bool:
        model = self._model(process)
        return not model.begun or model.code is not None

    async def stop(self, process: Identity, grace_s: float) -> bool:
        self.fuse.burn()
        model = self._model(process)
        if model.code is None:
            model.code = KILLED_CODE
        self.changed.set()
        self.changed = anyio.Event()
        return False

    def usage(self, folder: Path) -> None:
        return None

    async def clear(self, process: Identity, folder: Path) -> Cleared:
        return Cleared()


class MortalStore(JobStore):
    """The real store, with a fuse before and after every put."""

    fuse: Fuse = Fuse()

    @override
    def put(self, record: TrackedJob) -> None:
        self.fuse.burn()
        super().put(record)
        self.fuse.burn()

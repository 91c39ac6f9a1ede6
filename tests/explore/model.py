"""Model: what a hub, its machines and the network between them are at one moment. All of it can be hashed."""

from enum import Enum, StrEnum
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar

from attrs import frozen
from typing_extensions import override

from explore.bindings import (
    ClaimAnswer,
    HubJob,
    JobDocument,
    Phase,
    TrackedJob,
    Words,
)

K = TypeVar("K")
V = TypeVar("V")

Pairs = tuple[tuple[K, V], ...]
"""A small mapping, in the order of its keys."""

NAMES: Final = "AB"

NEWER: Final = "K"
"""The job of a newer commit of the pull request of J."""


def get(pairs: Pairs[K, V], key: K) -> V | None:
    return next((value for each, value in pairs if each == key), None)


def token_of(job_id: str, claim: int) -> str:
    """Return the claim token of a job's first, second, ... claim."""
    return f"{job_id}#{claim}"


def put(pairs: Pairs[str, V], key: str, value: V | None) -> Pairs[str, V]:
    """Return a mapping with a key set, or without it for None."""
    others = [each for each in pairs if each[0] != key]
    return tuple(
        sorted(others if value is None else [*others, (key, value)], key=_first)
    )


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


class Mode(StrEnum):
    PULLING = "pulling"
    DRAINING = "draining"
    STOPPING = "stopping"


class Run(StrEnum):
    """How an attempt stands, as its machine's kernel and the daemon's memory have it."""

    TAKEN = "taken up"
    STARTING = "starting"
    GATED = "behind its gate"
    ALIVE = "alive"
    NEVER = "never began"
    EXIT_0 = "exit 0"
    BLOCKED = "asks for a person"
    SIGNAL = "a signal that wasn't ours"
    KILLED = "ended by us"
    LOST = "lost"


IS_OVER: Final = (Run.EXIT_0, Run.BLOCKED, Run.SIGNAL, Run.KILLED, Run.LOST)


class Machine(NamedTuple):
    """A machine and its daemon; from `grants` on it is what nobody but the invariants knows."""

    up: bool = True
    linked: bool = True
    awake: bool = True
    revoked: bool = False
    gone: bool = False
    """It never comes back."""
    mode: Mode = Mode.PULLING
    records: tuple[TrackedJob, ...] = ()
    past: tuple[TrackedJob, ...] = ()
    repeats: frozenset[str] = frozenset()
    words: Words = ()
    runs: Pairs[str, Run] = ()
    grants: frozenset[str] = frozenset()
    """Claims for which an accept or a heartbeat has succeeded within the lease, since the daemon's start."""
    warned: frozenset[str] = frozenset()
    """Jobs of which this machine has acknowledged, or been told, that their end is wanted."""
    begun: frozenset[tuple[str, int]] = frozenset()
    """Attempts whose command has begun."""
    released: frozenset[str] = frozenset()
    """Claims for which a release was sent."""
    held: frozenset[str] = frozenset()
    """Claims that it had, and could speak for, when the last lease passed."""

    @property
    def is_present(self) -> bool:
        """Whether the daemon runs and its calls get through."""
        return self.up and self.linked and self.awake and not self.revoked

    def find(self, job_id: str) -> TrackedJob | None:
        return next(
            (each for each in (*self.records, *self.past) if each.job.id == job_id),
            None,
        )

    def tracked(self, job_id: str) -> TrackedJob | None:
        return next((each for each in self.records if each.job.id == job_id), None)

    def stored(self, record: TrackedJob) -> "Machine":
        """Return the machine with a record put into its store."""
        job_id = record.job.id
        records = [each for each in self.records if each.job.id != job_id]
        past = [each for each in self.past if each.job.id != job_id]
        (past if record.phase is Phase.HISTORY else records).append(record)
        return self._replace(
            records=tuple(sorted(records, key=_id)),
            past=tuple(sorted(past, key=_id)),
            words=tuple(
                each for each in self.words if any(r.job.id == each[0] for r in records)
            ),
        )

    def with_run(self, job_id: str, run: Run | None) -> "Machine":
        return self._replace(runs=put(self.runs, job_id, run))

    def with_word(self, job_id: str, word: ClaimAnswer) -> "Machine":
        return self._replace(words=put(self.words, job_id, word))


def _id(record: TrackedJob) -> str:
    return record.job.id


class Kind(StrEnum):
    PULL = "pull"
    CANCELS = "pull for cancel jobs"
    ACCEPT = "accept"
    CONFIRM = "accept at the gate"
    FINISH = "finish"
    RELEASE = "release"
    BEAT = "heartbeat"


PULLS: Final = (Kind.PULL, Kind.CANCELS)
REPORTS: Final = (Kind.ACCEPT, Kind.FINISH, Kind.RELEASE)


class Stage(Enum):
    REQUEST = "on its way"
    ANSWERED = "answered"
    LATE = "late"
    """On its way, and nobody waits for the answer any more."""
    CLAIMED = "claimed for nobody"
    """A late pull has got a job; the hub is about to notice that nobody is there."""


@frozen(kw_only=True)
class Answer:
    """A status, 0 for none; what was handed out as it was before; whether an end is wanted."""

    status: int
    job: HubJob | None = None
    token: str = ""
    cancel: bool = False


LOST: Final = Answer(status=0)


class Call(NamedTuple):
    kind: Kind
    machine: int
    record: TrackedJob | None = None
    """The record that it is about, as it was then."""
    stage: Stage = Stage.REQUEST
    fresh: bool = True
    """Whether it was sent within the lease."""
    answer: Answer | None = None

    @property
    def job_id(self) -> str:
        return self.record.job.id if self.record else ""

    @property
    def waits(self) -> bool:
        """Whether the machine waits for its answer."""
        return self.stage in (Stage.REQUEST, Stage.ANSWERED)

    @override
    def __str__(self) -> str:
        about = f"({self.job_id[:6]})" if self.record else ""
        late = "late " if self.stage is Stage.LATE else ""
        return f"{NAMES[self.machine]}'s {late}{self.kind.value}{about}"


class CheckRow(NamedTuple):
    """A row of the outbox: what shows a job at GitHub."""

    job_id: str
    made: bool = False
    told: str = ""


class Hub(NamedTuple):
    """What the hub's database has: jobs, oldest first, deliveries, the outbox."""

    jobs: tuple[HubJob, ...] = ()
    deliveries: frozenset[str] = frozenset()
    checks: tuple[CheckRow, ...] = ()

    def find(self, job_id: str) -> HubJob | None:
        return next((each for each in self.jobs if each.id == job_id), None)

    def stored(self, job: HubJob) -> "Hub":
        if self.find(job.id) is None:
            return self._replace(jobs=(*self.jobs, job))
        jobs = tuple(job if each.id == job.id else each for each in self.jobs)
        return self._replace(jobs=jobs)


class State(NamedTuple):
    hub: Hub
    machines: tuple[Machine, ...]
    budget: Pairs[str, int]
    """How often each kind of fault or wish may still happen (counts)."""
    calls: tuple[Call, ...] = ()
    backup: Hub | None = None
    sent: frozenset[str] = frozenset()
    """Deliveries that GitHub has."""
    shown: tuple[tuple[str, str], ...] = ()
    """Check runs at GitHub, oldest first: the job, and what was told of it."""
    handed: Pairs[str, int] = ()
    """How often each job was handed out (count), for new claim tokens."""
    newest: Pairs[str, str] = ()
    """The claim of the last delivery of each job that wasn't taken back."""
    cancelled: frozenset[str] = frozenset()
    """Jobs whose end the hub has promised to somebody."""
    begun: Pairs[str, int] = ()
    """How often a command of each job has begun (count), up to two."""
    restored: bool = False

    def left(self, what: str) -> int:
        return get(self.budget, what) or 0

    def spend(self, what: str) -> "State":
        return self._replace(budget=put(self.budget, what, self.left(what) - 1))

    def with_machine(self, index: int, machine: Machine) -> "State":
        machines = list(self.machines)
        machines[index] = machine
        return self._replace(machines=tuple(machines))

    def with_job(self, job: HubJob) -> "State":
        return self._replace(hub=self.hub.stored(job))

    def with_call(self, call: Call) -> "State":
        return self._replace(calls=(*self.calls, call))

    def without_call(self, call: Call) -> "State":
        calls = list(self.calls)
        calls.remove(call)
        return self._replace(calls=tuple(calls))

    def waits(self, machine: int, job_id: str, *kinds: Kind) -> bool:
        """Return whether a machine waits for the answer to such a call."""
        return any(
            each.waits and each.machine == machine and each.job_id == job_id
            for each in self.calls
            if each.kind in kinds
        )


class Moment(NamedTuple):
    """Something that an invariant looks at; `job` is that of the hub before it, `record` the machine's."""

    what: str
    machine: int = -1
    record: TrackedJob | None = None
    job: HubJob | None = None
    after: HubJob | None = None
    call: Call | None = None
    answer: Answer | None = None
    words: str = ""


class Step(NamedTuple):
    """What can happen next. A fair step happens at some time, if it stays possible."""

    label: str
    after: State
    fair: bool = True
    moments: tuple[Moment, ...] = ()


@frozen(kw_only=True)
class Scenario:
    """Where a search begins, and what may happen on its way.

    `split` calls are on their way, processed and answered in steps of their own, else each is one step, unless a fault
    says otherwise. `races` have an attempt taken up before its record says so.
    """

    name: str
    budget: dict[str, int]
    machines: int = 2
    jobs: tuple[HubJob, ...]
    split: bool = False
    races: bool = False
    bare: bool = False
    """Without leases, heartbeats and release, as Dagu's endpoint."""
    slots: int = 1
    room: int = 2
    check: bool = False
    """With the outbox of GitHub's checks."""


class Document(JobDocument):
    """A job's document that can be hashed."""

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(sorted(self.items())))

    @override
    def __hash__(self) -> int:
        return self._hash


def job(job_id: str, *, number: int = 1) -> HubJob:
    """Return a job that waits at the hub, for a commit of a pull request."""
    document = Document.of(
        id=job_id,
        workflow="w",
        repository="r/x",
        pull_request=number,
        event="pull_request",
        sha="a",
    )
    return HubJob(
        id=job_id, document=document, workflow="w", repository="r/x", number=number
    )

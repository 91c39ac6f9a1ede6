"""What the explorer says in place of the product's loops and stores is what these do: random stories, told by both.

The explorer calls the product's decisions where it can. Where the product decides inside a loop, a store or a query, it has
a few lines of its own; here each of them is compared with the real one, step by step, from whatever state a story leads to.
"""

import random
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from attrs import define, field

from dispatchd.agent.domain import runnable_workflows
from dispatchd.agent.domain.delivery import Beat
from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.loops.heartbeat import HeartbeatLoop
from dispatchd.agent.loops.progress import ProgressFeed
from dispatchd.agent.loops.report import ReportLoop
from dispatchd.agent.run_loop.attempt import _with_process
from dispatchd.agent.run_loop.conclude import Concluder
from dispatchd.agent.run_loop.loop import RunLoop
from dispatchd.agent.run_loop.workspaces import Workspaces
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Decision, Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import Conflict, Gone, NotPossible, RemoteError, Unavailable
from dispatchd.hub.api.errors import STATUSES
from dispatchd.hub.config.load import Leases
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.errors import HubError
from dispatchd.hub.domain.model import Check, Result, Standing, Submission
from dispatchd.hub.domain.model import State as HubState
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.checks import CheckStore
from dispatchd.hub.storage.jobs.reader import JobReader
from dispatchd.hub.storage.jobs.store import JobStore as HubStore
from dispatchd.protocol.outcome import Exit, NeverStarted, Outcome, Verdict
from dispatchd.redaction.known_secrets import KnownSecrets
from explore import hub as hub_steps
from explore.answers import as_handed_out, at_machine, changed
from explore.answers import may_start as mirrored_may_start
from explore.bindings import (
    ENDED,
    HELD,
    LEASE_S,
    MOST_EXPIRIES,
    MOST_RETRIES,
    NOW,
    STARTABLE,
    UNFINISHED,
    Claim,
    Decisions,
    HubJob,
)
from explore.faults import FAULTS
from explore.machine import may_beat
from explore.model import (
    Answer,
    Call,
    Document,
    Hub,
    Kind,
    Machine,
    State,
    job,
    token_of,
)
from explore.network import next_job
from explore.scenarios import one
from explore.search import begin
from explore.turn import dead
from explore.world import Bug, World
from support.current import current_config
from support.torture import few

STORIES: Final = 8
STEPS: Final = 40
"""Of each story (count)."""

WORKFLOW: Final = Workflow(
    name="w",
    command=("/bin/true",),
    env={},
    max_duration_s=3600,
    inactivity_s=0,
    kill_grace_s=1,
    max_retries=MOST_RETRIES,
)
JOBS: Final = {
    "J": job("J"),
    "C": HubJob(
        id="C",
        document=Document.of(id="C", command="cancel", target="J"),
        urgent=True,
    ),
}
CODES: Final = (0, 139, 143, None)
ANSWERS: Final = (*[200] * 8, 404, 409, 410, 0)


@define
class SetClock:
    """A clock that stands still until it is moved."""

    at: datetime = NOW

    def now(self) -> datetime:
        return self.at

    wall = now

    def since_boot(self) -> float:
        return self.at.timestamp()


@define
class Says:
    """An endpoint that answers everything in one way."""

    status: int = 200
    cancel: bool = False

    async def accept(self, *_: object) -> Beat:
        if self.status == 0:
            raise Unavailable(call="x", reason="no answer")
        if self.status != 200:
            kind = Conflict if self.status == 409 else Gone
            raise kind(call="x", reason="no")
        return Beat(cancel_requested=self.cancel)

    finish = heartbeat = release = accept


class NoRunner:
    """Starts nothing: the steps of a start are told one by one."""

    source = None

    async def start(self, *_: object) -> None:
        return None


@define
class Real:
    """A daemon's own parts, over a real store."""

    folder: Path
    clock: SetClock = field(factory=SetClock)
    source: Says = field(factory=Says)
    store: JobStore = field(init=False)
    tracker: Tracker = field(init=False)
    fence: Fence = field(init=False)
    runs: Runs = field(init=False)
    concluder: Concluder = field(init=False)
    run: RunLoop = field(init=False)
    report: ReportLoop = field(init=False)
    heartbeat: HeartbeatLoop = field(init=False)

    def begin(self) -> None:
        """Begin the next life of the daemon."""
        anything: Any = NoRunner()
        self.store, _ = JobStore.open(self.folder)
        rng, bugs = random.Random(0), BugFence()
        context = Context(
            current=current_config(self.folder, {"w": WORKFLOW}),
            clock=self.clock,  # type: ignore[arg-type]
            random=rng,
            bugs=bugs,
        )
        self.tracker = Tracker(self.store, self.clock, Disk(rng))  # type: ignore[arg-type]  # has what is used
        self.runs = Runs.open(self.folder)
        self.fence = Fence(self.tracker, self.clock)  # type: ignore[arg-type]
        self.concluder = Concluder(
            tracker=self.tracker,
            runs=self.runs,
            workspaces=Workspaces(self.tracker, self.runs, bugs),
            known=KnownSecrets(),
            context=context,
        )
        common: dict[str, Any] = {
            "tracker": self.tracker,
            "fence": self.fence,
            "context": context,
        }
        self.run = RunLoop(
            runner=anything,
            concluder=self.concluder,
            machine=runnable_workflows.Machine(),
            **common,
        )
        self.report = ReportLoop(
            source=self.source,  # type: ignore[arg-type]
            runs=self.runs,
            machine=runnable_workflows.Machine(),
            **common,
        )
        self.heartbeat = HeartbeatLoop(
            source=self.source,  # type: ignore[arg-type]
            progress=ProgressFeed(self.runs, self.concluder.stories),
            **common,
        )

    def kill(self) -> None:
        self.store.close()
        self.begin()

    def beats(self, record: TrackedJob) -> bool:
        """Return whether heartbeats are sent for a record (`_beat_where_due`)."""
        is_tracked = self.tracker.get(record.job.id) is not None
        leased = self.tracker.in_phase(*_LEASED)
        return (
            is_tracked
            and record in leased
            and self.heartbeat._pause_s(record) is not None  # noqa: SLF001
        )


@define
class Story:
    """One story, told by the product's parts and by the explorer's lines."""

    real: Real
    chance: random.Random
    decisions: Decisions = field(factory=Decisions)
    world: World = field(init=False)
    state: State = field(init=False)
    claims: int = 0
    asked: list[tuple[TrackedJob, TrackedJob]] = field(factory=list)
    """Records about which a call may still be on its way: the product's, and the explorer's."""
    told: list[str] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        scenario = one("mirror", 1)
        self.world = World(self.decisions, scenario)
        self.state = begin(scenario)
        self.real.begin()

    @property
    def machine(self) -> Machine:
        return self.state.machines[0]

    @machine.setter
    def machine(self, machine: Machine) -> None:
        self.state = self.state.with_machine(0, machine)

    async def go_on(self) -> None:
        """Take a step, and compare."""
        record = self.machine.tracked("J")
        suits = _SUITS.get(record.phase, ()) if record is not None else ("pull",)
        steps = suits if suits and self.chance.random() < 0.6 else _ANY
        step = getattr(self, self.chance.choice(steps))
        self.told.append(step.__name__)
        await step()
        self.real.fence.forget_gone()
        await self.compare()

    async def compare(self) -> None:
        tracker, machine, world = self.real.tracker, self.machine, self.world
        assert tracker.repeats == machine.repeats, self.told
        for job_id in JOBS:
            record, mirrored = await tracker.find(job_id), machine.find(job_id)
            assert _shape(record) == _shape(mirrored), (self.told, record, mirrored)
            if record is None or mirrored is None:
                continue
            self.asked = [*self.asked[-5:], (record, mirrored)]
            is_tracked = tracker.get(job_id) is not None
            assert is_tracked == (machine.tracked(job_id) is not None), self.told
            assert self.owed(record) == self.mirrored_owed(mirrored), self.told
            if is_tracked:
                assert self.real.fence.allows(record) == mirrored_may_start(
                    world, machine, mirrored
                ), self.told
                assert self.real.beats(record) == may_beat(world, machine, mirrored)

    def owed(self, record: TrackedJob) -> str:
        call = self.real.report._next_call(record)  # noqa: SLF001
        return "" if call is None else call.name

    def mirrored_owed(self, record: TrackedJob) -> str:
        is_repeat = record.job.id in self.machine.repeats
        return self.world.ask(self.world.decisions.call_owed, record, is_repeat)

    def change(self, job_id: str, decision: Any) -> None:
        self.machine = changed(self.world, self.machine, job_id, decision)

    def of(self, *phases: Phase, job_id: str = "J") -> TrackedJob | None:
        """Return the explorer's record of a job, if it is in one of some phases."""
        record = self.machine.tracked(job_id)
        return record if record is not None and record.phase in phases else None

    # The endpoint.

    async def pull(self) -> None:
        job_id = self.chance.choice(["J", "J", "J", "C"])
        self.claims += 1
        of, token = JOBS[job_id], token_of(job_id, self.claims)
        handed = as_handed_out(of, token, bare=False)
        await self.real.tracker.receive(handed, store_texts=lambda: None)
        answer = Answer(status=200, job=of, token=token)
        self.answer(Call(kind=Kind.PULL, machine=0), answer)

    async def report(self) -> None:
        if not self.asked:
            return
        # Mostly about what is; some answers come late.
        late = self.chance.random() < 0.3
        record, mirrored = self.chance.choice(self.asked if late else self.asked[-2:])
        call = self.real.report._next_call(record)  # noqa: SLF001
        if call is None or self.owed(record) != self.mirrored_owed(mirrored):
            # What it owed has changed with what is to be repeated.
            return
        self.draw(can_cancel=call.name == "accept")
        with suppress(RemoteError):
            await self.real.report._pay(record, call)  # noqa: SLF001
        self.answer(Call(kind=Kind(call.name), machine=0, record=mirrored), self.said)

    async def beat(self) -> None:
        job_id = self.chance.choice([*JOBS])
        mirrored = self.machine.tracked(job_id)
        if mirrored is None or not may_beat(self.world, self.machine, mirrored):
            return
        self.draw(can_cancel=True)
        async with anyio.create_task_group() as tasks:
            await self.real.heartbeat._beat(tasks, job_id)  # noqa: SLF001
        self.answer(Call(kind=Kind.BEAT, machine=0, record=mirrored), self.said)

    def draw(self, *, can_cancel: bool) -> None:
        source = self.real.source
        source.status = self.chance.choice(ANSWERS)
        source.cancel = can_cancel and self.chance.random() < 0.2

    @property
    def said(self) -> Answer:
        source = self.real.source
        return Answer(status=source.status, cancel=source.cancel)

    def answer(self, call: Call, answer: Answer) -> None:
        self.state, moments = at_machine(self.world, self.state, call, answer)
        assert not [each for each in moments if each.what == "bug"], self.told

    # The run.

    async def start(self) -> None:
        record = self.of(*STARTABLE, *_TOO_LATE)
        if record is None:
            return
        now = self.real.tracker.get("J")
        assert now is not None
        await self.real.run._start(now, WORKFLOW)  # noqa: SLF001
        self.change("J", self.world.decisions.starting)

    async def have_process(self) -> None:
        record = self.of(Phase.RUNNING)
        if record is None:
            return
        process = ProcessIdentity(pid=1, start_ticks=1, boot_id="")
        await self.real.tracker.decide(
            "J",
            lambda before: Decision(
                Event.ATTEMPT_STARTED, _with_process(before, process)
            ),
        )
        self.change("J", self.world.decisions.with_process)

    async def conclude(self) -> None:
        record = self.of(Phase.RUNNING)
        if record is None or record.attempt is None:
            return
        decisions = self.world.decisions
        if record.attempt.process is None:
            await self._conclude(NeverStarted())
            self.change("J", decisions.undone)
            return
        code, blocks = self.chance.choice(CODES), self.chance.random() < 0.3
        file = self.real.runs.folder("J").events_file(record.attempt.number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"type": "block", "reason": "x"}\n' if blocks else "")
        await self._conclude(Exit(code=code))
        self.change("J", lambda newest: decisions.concluded(newest, code, blocks))

    async def _conclude(self, end: Exit | NeverStarted) -> None:
        await self.real.concluder.conclude("J", end, WORKFLOW, secrets_known=True)

    async def carry_out(self) -> None:
        record = self.of(Phase.ACCEPTED, job_id="C")
        if record is None:
            return
        now = self.real.tracker.get("C")
        assert now is not None
        await self.real.run._cancel_targets(now)  # noqa: SLF001
        ask, decisions = self.world.ask, self.world.decisions
        targets = ask(
            decisions.cancel_targets,
            record.job,
            self.machine.records,
            self.machine.past,
        )
        for each in ask(decisions.carried_out, record, targets):
            if each.phase is not Phase.HISTORY:
                self.machine = self.machine.stored(each)

    # People, and bad luck.

    async def cancel(self) -> None:
        if self.machine.tracked("J") is not None:
            await self.real.tracker.cancel("J", "x")
            self.change("J", self.world.decisions.ended)

    async def park(self) -> None:
        record = self.of(*UNFINISHED)
        may = record is not None and not record.stop_requested
        try:
            await self.real.tracker.park("J", "x")
        except NotPossible:
            assert not may, self.told
            return
        assert may, self.told
        self.change("J", self.world.decisions.parked)

    async def resolve(self) -> None:
        again = self.chance.random() < 0.5
        verdict = None if again else Verdict(outcome=Outcome.SUCCEEDED, summary="")
        may = self.of(Phase.NEEDS_ATTENTION) is not None
        try:
            await self.real.tracker.resolve("J", verdict)
        except NotPossible:
            assert not may, self.told
            return
        assert may, self.told
        event = Event.RESOLVED_RETRY if again else Event.RESOLVED
        decide = self.world.decisions.advanced
        self.change("J", lambda record: decide(record, event, verdict))

    async def give_back(self) -> None:
        await self.real.tracker.give_back("J")
        if self.machine.tracked("J") is not None:
            self.change("J", self.world.decisions.given_back)

    async def kill(self) -> None:
        self.real.kill()
        self.state = dead(self.world, self.state, 0)
        self.machine = self.machine._replace(up=True)

    async def age(self) -> None:
        self.real.clock.at += timedelta(seconds=2 * LEASE_S)
        self.machine = hub_steps._aged(self.machine)  # noqa: SLF001


_ANY = (
    *("pull", "report", "beat", "start", "have_process", "conclude", "cancel"),
    *("park", "resolve", "give_back", "carry_out", "kill", "age"),
)
_SUITS = {
    Phase.PENDING_ACCEPT: ("report",),
    Phase.ACCEPTED: ("start", "give_back"),
    Phase.RELEASING: ("report",),
    Phase.RUNNING: ("have_process", "conclude", "cancel", "park"),
    Phase.RETRY_WAIT: ("start",),
    Phase.NEEDS_ATTENTION: ("resolve",),
    Phase.FINISHING: ("report",),
}
"""What mostly comes next, so that stories get somewhere."""
_LEASED = (*UNFINISHED, Phase.NEEDS_ATTENTION, Phase.FINISHING)
_TOO_LATE = (
    *(Phase.PENDING_ACCEPT, Phase.RELEASING),
    *(Phase.NEEDS_ATTENTION, Phase.FINISHING),
)


def _shape(record: TrackedJob | None) -> object:
    """Return what both have to agree on of a record: all but times, words and the story so far."""
    if record is None:
        return None
    verdict = record.verdict
    attempts = [
        (each.number, each.process is None, each.stop, each.cause, bool(each.ended_at))
        for each in record.attempts
    ]
    return (
        record.phase,
        record.job,
        attempts,
        verdict and (verdict.outcome, verdict.cause),
        bool(record.blocked),
        bool(record.retry_at),
    )


@pytest.mark.parametrize("number", range(STORIES))
async def test_the_explorer_tells_of_a_machine_what_the_machine_does(
    tmp_path: Path, number: int
) -> None:
    await tell(Real(tmp_path), number, Decisions())


async def tell(real: Real, number: int, decisions: Decisions) -> None:
    """Tell a story.

    Fails with AssertionError where the two differ, and with Bug where the explorer's lines know no way on.
    """
    story = Story(real, random.Random(number), decisions)
    try:
        for _ in range(STEPS):
            await story.go_on()
    finally:
        real.store.close()


MISTOLD: Final = (
    "The fence has no age: an accept is believed for ever.",
    "A refused release lets the job start.",
    "A release is sent before it is durable.",
    "A parked job that is tried again starts without a new accept.",
    "Undoing an attempt that never began forgets that its end was wanted.",
    "Heartbeats end before the finish is answered.",
    "A start that comes too late for a parked job is a bug.",
    "A job in history that is handed out again is run anew.",
)
"""Faults of the explorer's own lines about a machine, by their words."""


@pytest.mark.parametrize("words", few(MISTOLD, 4))
async def test_a_line_that_says_something_else_is_noticed(
    tmp_path: Path, words: str
) -> None:
    [fault] = [each for each in FAULTS if each.words == words]
    for number in range(5 * STORIES):
        try:
            await tell(Real(tmp_path / str(number)), number, fault.decisions)
        except (AssertionError, Bug):
            return
    pytest.fail("no story has noticed it")


# The hub.


@define
class HubStory:
    """One story of a hub's jobs, told by its store and by the explorer's lines."""

    database: Database
    chance: random.Random
    world: World = field(init=False)
    state: State = field(init=False)
    now: float = 1000.0
    given: dict[str, tuple[str, str, HubJob]] = field(factory=dict)
    """The newest claim of each job: its machine, its token, and the job before it."""
    told: list[str] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.world = World(Decisions(), one("mirror"))
        self.state = State(hub=Hub(), machines=(Machine(),) * 2, budget=())

    @property
    def store(self) -> HubStore:
        return HubStore(self.database)

    def go_on(self) -> None:
        steps = [
            *[self.submit, self.pull, self.pull] * 2,
            *[self.accept, self.beat, self.finish, self.release] * 2,
            *(self.cancel, self.expire, self.take_back, self.end_cancel_jobs),
        ]
        step = self.chance.choice(steps)
        self.told.append(step.__name__)
        self.now += 1
        step()
        self.compare()

    def compare(self) -> None:
        reader, checks = JobReader(self.database), CheckStore(self.database)
        rows = tuple(each.id for each in self.state.hub.jobs if not each.urgent)
        for mirrored in self.state.hub.jobs:
            kept = reader.get(mirrored.id)
            assert kept is not None
            assert self.shape(kept) == self.shape(mirrored), (self.told, kept, mirrored)
            shown = checks.get(mirrored.id)
            if shown is not None:
                assert shown.is_newest == self.world.ask(
                    self.world.decisions.is_newest, mirrored.id, rows
                )

    def shape(self, job: HubJob) -> object:
        """Return what both have to agree on of a job."""
        cause = "" if job.result_cause in ("", "None") else job.result_cause
        return (
            (job.state, job.machine, job.token_hash, job.lapsed, job.run_id),
            (job.phase, job.cancel_requested, job.only_machine, cause),
            (bool(job.accepts), bool(job.accepted_at)),
            (bool(job.finishes), job.expiries),
        )

    def submit(self) -> None:
        """Submit a job, a newer commit, or a cancel job, as the explorer's scenarios have them."""
        number = len(self.state.hub.jobs)
        of = self.chance.choice(["commit", "commit", "other", "cancel"])
        documents: dict[str, dict[str, Any]] = {
            "commit": {**job("J").document, "sha": f"{number}"},
            "other": {**job("J").document, "event_name": "issue_comment"},
            "cancel": {"command": "cancel", "dag_run_id": self.any_id()},
        }
        document = documents[of]
        document["id"] = job_id = f"{of}{number}"
        new = HubJob(
            id=job_id,
            document=Document(document),
            workflow=str(document.get("dag_name") or ""),
            repository=str(document.get("repository_name") or ""),
            number=Document(document).number,
            urgent=Document(document).is_cancel,
        )
        check = Check(repository="r/x", sha="s", name="w")
        submission = Submission(
            id=job_id,
            document=document,
            payload="null",
            headers="null",
            check=None if new.urgent else check,
        )
        admission = Admission(self.database)
        submitted = admission.submit(submission, now=self.now, most=1000)
        assert submitted is not None
        done = self.world.ask(self.world.decisions.submitted, new, self.state.hub.jobs)
        for each in (done.job, *done.others):
            self.keep(each)

    def any_id(self) -> str:
        return self.chance.choice([*(each.id for each in self.state.hub.jobs), "no"])

    def keep(self, of: HubJob) -> None:
        self.state = self.state.with_job(self.world.plain(of))

    def pull(self) -> None:
        index, wants_cancels = self.chance.choice([0, 1]), self.chance.random() < 0.3
        machine, token = "AB"[index], f"token {self.now}"
        got = self.store.claim(
            machine, token, [] if wants_cancels else None, now=self.now, lease_s=60
        )
        call = Call(kind=Kind.CANCELS if wants_cancels else Kind.PULL, machine=index)
        mirrored = next_job(self.world, self.state, call)
        assert (got and got.job.id) == (mirrored and mirrored.id), self.told
        if got is not None and mirrored is not None:
            self.given[mirrored.id] = machine, token, mirrored
            self.keep(
                self.world.ask(self.world.decisions.claim, mirrored, machine, token)
            )

    def accept(self) -> None:
        self.ask(
            lambda kept, by: claim_rules.accept(
                kept, by, run_id=kept.id, now=self.now, lease_until=self.now + 60
            ),
            self.world.decisions.accept,
        )

    def beat(self) -> None:
        phase = self.chance.choice([each.value for each in Phase])
        self.ask(
            lambda kept, by: claim_rules.beat(
                kept, by, standing=Standing(phase=phase), lease_until=self.now + 60
            ),
            lambda kept, by: self.world.decisions.beat(kept, by, phase),
        )

    def finish(self) -> None:
        status = self.chance.choice(["succeeded", "failed", "aborted"])
        self.ask(
            lambda kept, by: claim_rules.finish(
                kept, by, result=Result(status=status), now=self.now
            ),
            lambda kept, by: self.world.decisions.finish(kept, by, status, ""),
        )

    def release(self) -> None:
        self.ask(
            lambda kept, by: claim_rules.release(kept, by, now=self.now),
            self.world.decisions.release,
        )

    def take_back(self) -> None:
        if self.given:
            job_id = self.chance.choice([*self.given])
            before = JobReader(self.database).get(job_id)
            assert before is not None
            was = self.given[job_id][2]
            self.ask(
                lambda kept, by: claim_rules.take_back(
                    kept, by, before=was, now=self.now
                ),
                lambda kept, by: self.world.decisions.take_back(kept, by, was),
                job_id,
            )
            del self.given[job_id]

    def ask(self, real: Any, mirror: Any, job_id: str = "") -> None:
        """Make a call about a job, mostly under its newest claim."""
        if not self.given:
            return
        job_id = job_id or self.chance.choice([*self.given])
        machine, token, _ = self.given[job_id]
        by = Claim(
            machine=machine,
            token_hash=token if self.chance.random() < 0.8 else "stale",
        )
        refused = mirrored_refused = 0
        try:
            self.store.change(job_id, lambda kept: real(kept, by))
        except HubError as error:
            refused = STATUSES[type(error)]
        known = self.state.hub.find(job_id)
        assert known is not None
        try:
            self.keep(mirror(known, by))
        except HubError as error:
            mirrored_refused = STATUSES[type(error)]
        assert refused == mirrored_refused, self.told

    def cancel(self) -> None:
        unfinished = [
            each
            for each in self.state.hub.jobs
            if each.state not in ENDED and not each.urgent
        ]
        if unfinished:
            of = self.chance.choice(unfinished)
            self.store.change(
                of.id, lambda kept: claim_rules.cancel(kept, now=self.now)
            )
            self.keep(self.world.ask(self.world.decisions.cancel, of))

    def expire(self) -> None:
        """Let every lease, and the patience after it, pass."""
        self.now += 1000
        leases = Leases(seconds=60, patience_s=60, unheard_s=60)
        self.store.expire(
            lambda kept: claim_rules.expire(kept, now=self.now, most=MOST_EXPIRIES),
            now=self.now,
            leases=leases,
        )
        for each in self.state.hub.jobs:
            if each.state in HELD:
                self.keep(self.world.ask(self.world.decisions.expire, each))

    def end_cancel_jobs(self) -> None:
        self.store.end_cancel_jobs(now=self.now)
        for each in self.state.hub.jobs:
            if each.state is HubState.QUEUED and each.urgent and each.only_machine:
                others = tuple(
                    other for other in self.state.hub.jobs if other.id != each.id
                )
                over = self.world.decisions.cancel_job_over
                self.keep(self.world.ask(over, each, others))


@pytest.mark.parametrize("number", few(range(STORIES), 4))
def test_the_explorer_tells_of_a_hub_what_its_store_does(
    database: Database, number: int
) -> None:
    story = HubStory(database, random.Random(number))
    for _ in range(STEPS):
        story.go_on()

"""Decisions between a hub and a machine whose calls and answers are lost, late and doubled: each counts once, for its stay."""

from datetime import UTC, datetime, timedelta

from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.claim_rules import Claim
from dispatchd.hub.domain.decisions.decision import Decision
from dispatchd.hub.domain.decisions.rules import answer, decide, note_sent
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.errors import HubError
from dispatchd.hub.domain.model import HubJob, Standing, State
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import CHOICES, ENDINGS, Outcome, Verdict

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FAILED = Verdict(outcome=Outcome.FAILED, summary="Failed.")
START = HubJob(id="j", document=JobDocument({}), state=State.QUEUED)


@define
class Beat:
    """A heartbeat on its way: the record and the claim that it is of, and its answer once there is one."""

    record: TrackedJob
    answer: Decision | None = None
    is_answered: bool = False


@define
class Both:
    """A hub and a machine, and what is on the way between them."""

    hub: HubJob = START
    here: TrackedJob = field(
        factory=lambda: TrackedJob.received(Job(id="j", workflow="w"), now=NOW)
    )
    claims: int = 0
    beats: list[Beat] = field(factory=list)
    stays: dict[str, str] = field(factory=dict)
    """Each stay so far, and by whom it was ended."""
    decided: dict[tuple[str, int], str] = field(factory=dict)
    """Stay and number of the claim to the decision of the hub that was durable for them."""

    def step(self, name: str, number: int) -> None:
        try:
            getattr(self, name)(number)
        except HubError:
            return

    def _claim(self) -> Claim:
        return Claim(machine="m", token_hash=self.here.job.claim_token)

    def hand_out(self, _: int) -> None:
        if self.hub.state is not State.QUEUED:
            return
        self.claims += 1
        token = f"t{self.claims}"
        self.hub = claim_rules.claim(self.hub, "m", token, now=1, lease_until=9)
        job = evolve(self.here.job, claim_token=token)
        if self.claims == 1:
            self.here = TrackedJob.received(job, now=NOW)
        elif self.here.phase is not Phase.HISTORY:
            self._advance(Event.REDELIVERED, self.here.with_claim(job))

    def expire(self, _: int) -> None:
        if self.hub.state in (State.ACCEPTED, State.RUNNING, State.NEEDS_ATTENTION):
            self.hub = claim_rules.expire(self.hub, now=20, most=99)

    def work(self, number: int) -> None:
        """Accept, start, park: whatever comes next here."""
        match self.here.phase:
            case Phase.PENDING_ACCEPT if self.claims:
                self.hub = claim_rules.accept(
                    self.hub, self._claim(), run_id="r", now=2, lease_until=30
                )
                self._advance(Event.ACCEPT_CONFIRMED)
            case Phase.ACCEPTED:
                self._advance(Event.PARKED if number % 2 else Event.ATTEMPT_STARTING)
            case Phase.RUNNING:
                self._advance(Event.PARKED)
            case _:
                return
        self._note_stay()

    def _note_stay(self) -> None:
        if self.here.phase is Phase.NEEDS_ATTENTION:
            assert self.here.parking not in self.stays
            self.stays[self.here.parking] = ""

    def beat(self, _: int) -> None:
        if self.claims and self.here.phase is not Phase.HISTORY:
            self.beats.append(Beat(self.here))

    def arrive(self, number: int) -> None:
        """Let a heartbeat reach the hub, perhaps late and perhaps once more."""
        if not self.beats:
            return
        beat = self.beats[number % len(self.beats)]
        record = beat.record
        standing = Standing(phase=record.phase.value, parked=record.parking)
        claim = Claim(machine="m", token_hash=record.job.claim_token)
        job = claim_rules.beat(self.hub, claim, standing=standing, lease_until=40)
        self.hub = note_sent(job, standing, now=3)
        beat.answer, beat.is_answered = answer(self.hub, standing), True

    def answered(self, number: int) -> None:
        """Let the answer to a heartbeat reach the machine, perhaps late and perhaps once more."""
        if not self.beats:
            return
        beat = self.beats[number % len(self.beats)]
        found = beat.answer
        if found is None or found.parked != beat.record.parking:
            return
        is_parked = self.here.phase is Phase.NEEDS_ATTENTION
        if is_parked and self.here.is_parked_like(beat.record):
            number = int(self.here.job.claim_token.removeprefix("t"))
            assert self.decided[self.here.parking, number] == found.choice
            self._end_stay("hub", found.choice)

    def resolve_here(self, number: int) -> None:
        if self.here.phase is Phase.NEEDS_ATTENTION:
            self._end_stay("here", CHOICES[number % 3])

    def resolve_there(self, number: int) -> None:
        choice, job = CHOICES[number % 3], self.hub
        decision = Decision(
            choice=choice,
            note="",
            by="alice",
            at=4,
            parked=job.parked,
            claim=job.deliveries,
        )
        self.hub = decide(job, decision, machine="m")
        newest = Decision.of(self.hub)
        assert newest is not None
        self.decided[newest.parked, newest.claim] = newest.choice

    def _end_stay(self, who: str, choice: str) -> None:
        assert self.stays[self.here.parking] == ""
        self.stays[self.here.parking] = who
        if choice in ENDINGS:
            self._advance(Event.RESOLVED, verdict=FAILED)
        else:
            self._advance(Event.RESOLVED_RETRY)

    def _advance(
        self,
        event: Event,
        record: TrackedJob | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        # The clock stands still, or is set back.
        now = NOW - timedelta(seconds=self.claims)
        self.here = (record or self.here).advance(event, now, verdict=verdict)


STEPS = st.sampled_from(
    [
        *("hand_out", "expire", "work", "work", "beat", "beat", "arrive", "arrive"),
        *("answered", "answered", "resolve_here", "resolve_there", "resolve_there"),
    ]
)


@settings(max_examples=300)
@given(st.lists(st.tuples(STEPS, st.integers(0, 11)), min_size=30, max_size=60))
def test_each_decision_counts_once_and_for_the_stay_that_it_was_made_about(
    steps: list[tuple[str, int]],
) -> None:
    both = Both()
    for name in ("hand_out", "work", "work", "work", "beat", "arrive"):
        both.step(name, 0)
    for name, number in steps:
        both.step(name, number)


def test_the_story_of_a_decision_ends_here_by_the_hub() -> None:
    both = Both()
    story = ("hand_out", "work", "work", "work", "beat", "arrive", "resolve_there")
    for name in (*story, "arrive", "answered", "answered"):
        both.step(name, 0)

    assert [*both.stays.values()] == ["hub"]
    assert both.here.phase is Phase.PENDING_ACCEPT

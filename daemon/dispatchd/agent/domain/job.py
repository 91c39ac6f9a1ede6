"""The durable record of a job on this machine."""

from datetime import datetime, timedelta
from typing import Final, Self

from attrs import evolve, frozen
from typing_extensions import override

from dispatchd.agent.domain.executions.identities import (
    BatchJob,
    DagRun,
    EngineRun,
    Identity,
    ProcessIdentity,
    Remote,
)
from dispatchd.agent.domain.exit_table import Contract
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.phase import TRANSITIONS, UNSTARTED, Event, Phase
from dispatchd.errors import InvalidTransition
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict
from dispatchd.protocol.times import utc

STEPS_KEPT: Final = 16
"""Most steps in a record (count): the last ones."""


@frozen(kw_only=True)
class Terms:
    """Settings of a workflow that count when an attempt has ended. The defaults repeat and report nothing.

    `retries` is the number of attempts after the first. A success that lacks one of the artifacts (paths relative to
    the workspace) is parked, or is a failure if `missing_fails`. `report_output` is true if the output may be
    reported, `has_secrets` if the command may have been given secrets.
    """

    retries: int = 0
    required_artifacts: tuple[str, ...] = ()
    missing_fails: bool = False
    report_output: bool = False
    has_secrets: bool = True
    isolation: Isolation = Isolation.NONE


@frozen(kw_only=True)
class Attempt:
    """One process start of a run, with the settings that it was started under.

    A changed configuration doesn't change a running attempt. `inactivity_s` and `output_max_bytes` 0 are no limit.
    `stop` is the reason why the daemon ends it, `stop_at` the time; both are written before the signal.
    `summary` is the sentence about its end, without secrets. Attempts of earlier releases have no `terms` and no
    `summary`. At most one of `process`, `batch_job`, `dag_run` and `engine_run` is set: the attempt's identity. `deadline_at` is
    that of a process; the others have their time from the beginning of the command.
    """

    number: int
    started_at: datetime
    deadline_at: datetime
    contract: Contract = Contract.PLAIN
    inactivity_s: float = 0.0
    kill_grace_s: float = 10.0
    output_max_bytes: int = 0
    terms: Terms | None = None
    process: ProcessIdentity | None = None
    stop: FailureCause | None = None
    stop_at: datetime | None = None
    ended_at: datetime | None = None
    cause: FailureCause | None = None
    summary: str = ""
    batch_job: BatchJob | None = None
    dag_run: DagRun | None = None
    engine_run: EngineRun | None = None

    @property
    def identity(self) -> Identity | None:
        """Identity of its execution; None before that is recorded."""
        return self.process or self.remote

    @property
    def remote(self) -> Remote | None:
        """Identity of its execution on an engine beside this machine's own processes; None if it has none there."""
        return self.batch_job or self.dag_run or self.engine_run

    def identified(self, identity: Identity) -> "Attempt":
        """Return the attempt with its identity."""
        match identity:
            case ProcessIdentity():
                return evolve(self, process=identity)
            case BatchJob():
                return evolve(self, batch_job=identity)
            case DagRun():
                return evolve(self, dag_run=identity)
            case EngineRun():
                return evolve(self, engine_run=identity)


@frozen(kw_only=True)
class Step:
    """One entry of a job's history: the event, its time, and the phase that it led to."""

    at: datetime
    event: Event
    phase: Phase

    @override
    def __str__(self) -> str:
        return f"{utc(self.at)} {self.event} -> {self.phase}"


@frozen(kw_only=True)
class TrackedJob:
    """The durable record of a job, from pull until its finish has been acknowledged.

    `attempts` are oldest first, `steps` the last `STEPS_KEPT`, oldest first. `retry_at` is set in
    `retry_wait` only. `blocked` is the reason why a person has to decide: it is set in `needs_attention`, and
    while a run is being ended for it. `verdict` is set from `finishing` on. A record in history without a
    verdict is a job that was handed back, with none of it running.
    """

    job: Job
    run_id: str
    phase: Phase
    received_at: datetime
    changed_at: datetime
    attempts: tuple[Attempt, ...] = ()
    start_failures: int = 0
    """Failed starts in a row, until an attempt has ended (count)."""
    retry_at: datetime | None = None
    blocked: str = ""
    verdict: Verdict | None = None
    steps: tuple[Step, ...] = ()

    @classmethod
    def received(cls, job: Job, *, now: datetime) -> Self:
        """Return the first record of a job. The run's id is the job's, so that a job has one run."""
        return cls(
            job=job,
            run_id=job.id,
            phase=Phase.PENDING_ACCEPT,
            received_at=now,
            changed_at=now,
        )

    def come_again(self, job: Job, *, now: datetime) -> Self:
        """Return the first record of a job that was handed back and has been handed out again.

        Its earlier attempts keep their numbers, and count. Its time is later than that of the record before.
        """
        later = max(now, self.changed_at + timedelta.resolution)
        return evolve(self.received(job, now=later), attempts=self.attempts)

    def advance(
        self, event: Event, now: datetime, *, verdict: Verdict | None = None
    ) -> Self:
        """Return the record after an event.

        Args:
            event: What happened.
            now: When, as an aware UTC time.
            verdict: The end of the run, for the events that lead to `finishing`.

        Raises:
            InvalidTransition: The table has no such row; nothing has changed.
        """
        phase = TRANSITIONS.get((self.phase, event))
        if phase is None:
            story = ", ".join(str(step) for step in self.steps)
            raise InvalidTransition(
                job_id=self.job.id, phase=self.phase, event=event, story=story
            )
        # Of two records of a job the one changed last is valid, even if the clock was set back between them.
        is_back = self.phase is Phase.HISTORY and phase is not Phase.HISTORY
        is_later = is_back or (event is Event.PARKED and phase is not self.phase)
        least = self.changed_at + timedelta.resolution if is_later else self.changed_at
        now = max(now, least)
        if event is Event.REJECTED and verdict is not None:
            verdict = self._not_again(verdict)
        steps = _kept((*self.steps, Step(at=now, event=event, phase=phase)), phase)
        # The first verdict stands: a message that arrives late can't rewrite how a run ended.
        decided = self.verdict or (verdict if phase is Phase.FINISHING else None)
        retry_at = self.retry_at if phase is Phase.RETRY_WAIT else None
        return evolve(
            self,
            phase=phase,
            changed_at=now,
            steps=steps,
            verdict=decided,
            retry_at=retry_at,
            blocked=self.blocked if phase in _MAY_BE_BLOCKED else "",
        )

    def _not_again(self, rejection: Verdict) -> Verdict:
        """Return the verdict of a job that can't be run (any more): after an attempt it ends as that one did."""
        attempt = self.attempt
        if attempt is None:
            return rejection
        ended = attempt.summary or f"Attempt {attempt.number} has failed."
        return Verdict(
            outcome=Outcome.FAILED,
            cause=attempt.cause,
            summary=f"{ended} It isn't tried again. {rejection.summary}",
        )

    @property
    def attempt(self) -> Attempt | None:
        """The newest attempt, or None before the first."""
        return self.attempts[-1] if self.attempts else None

    def with_attempt(self, attempt: Attempt) -> Self:
        """Return the record with this attempt added, or in place of the one with the same number."""
        others = tuple(
            other for other in self.attempts if other.number != attempt.number
        )
        return evolve(self, attempts=(*others, attempt))

    def with_remark(self, remark: str) -> Self:
        """Return the record with one more sentence in the summary of its verdict, if it has one."""
        if self.verdict is None:
            return self
        summary = f"{self.verdict.summary} {remark}"
        return evolve(self, verdict=evolve(self.verdict, summary=summary))

    def without_attempt(self, number: int) -> Self:
        """Return the record without an attempt that never ran."""
        return evolve(
            self,
            attempts=tuple(
                attempt for attempt in self.attempts if attempt.number != number
            ),
        )

    def with_claim(self, job: Job) -> Self:
        """Return the record with the claim of a newer delivery of the same job."""
        return evolve(
            self,
            job=evolve(
                self.job,
                claim_token=job.claim_token,
                lease_s=job.lease_s,
                extensions=job.extensions,
                # A release that didn't know forks may have stored the job without `from_fork`.
                from_fork=self.job.from_fork or job.from_fork,
            ),
        )

    @property
    def queued_at(self) -> datetime:
        """Time from which the job waits for its first attempt: the pull, or the last retry that a person chose."""
        resolved = [
            step.at for step in self.steps if step.event is Event.RESOLVED_RETRY
        ]
        return max([self.received_at, *resolved])

    @property
    def parking(self) -> str:
        """Name of the present stay in `needs_attention`, a different one each time; empty if the job isn't parked.

        It is empty, too, where an earlier release has dropped the step.
        """
        step = _parked_by(self.steps) if self.phase is Phase.NEEDS_ATTENTION else None
        return "" if step is None else step.at.isoformat()

    def is_parked_like(self, other: Self) -> bool:
        """Return whether the job is still parked as in another record of it, under the same claim."""
        is_same_claim = self.job.claim_token == other.job.claim_token
        return bool(self.parking) and self.parking == other.parking and is_same_claim

    @property
    def is_claim_accepted(self) -> bool:
        """True if an accept of the newest claim has been confirmed, as far as the steps show it."""
        newest = (
            step.event
            for step in reversed(self.steps)
            if step.event in {Event.ACCEPT_CONFIRMED, Event.REDELIVERED}
        )
        return next(newest, Event.ACCEPT_CONFIRMED) is Event.ACCEPT_CONFIRMED

    @property
    def was_given_back(self) -> bool:
        """True if the job left without a verdict, so that it may be handed out again."""
        return self.phase is Phase.HISTORY and self.verdict is None

    @property
    def is_unstarted(self) -> bool:
        """True if no process of the job has existed, so that it can be handed back."""
        return self.phase in UNSTARTED and not self.attempts

    @property
    def may_go_back(self) -> bool:
        """True if its endpoint takes the job back from this machine."""
        # A cancel is for a run of this machine: no other one could carry it out.
        return (
            self.is_unstarted
            and not self.job.is_cancel
            and "release" in self.job.extensions
        )

    @property
    def is_owed_again(self) -> bool:
        """True if a restart from the record before this one leads here again, so that this one needs no put of its own.

        A daemon that has just started asks for every claim with a lease. An attempt without a process never began.
        """
        event = self.steps[-1].event if self.steps else None
        return event is Event.ATTEMPT_STARTING or (
            event is Event.ACCEPT_CONFIRMED and self.job.lease_s is not None
        )

    @property
    def stop_requested(self) -> bool:
        """True if the daemon has decided to end the running attempt."""
        return (
            self.phase is Phase.RUNNING
            and self.attempt is not None
            and self.attempt.stop is not None
        )

    @property
    def is_cancelled(self) -> bool:
        """True if the run is being ended, or has ended, because of a cancel."""
        if self.verdict is not None:
            return self.verdict.cause is FailureCause.CANCELLED
        attempt = self.attempt
        return (
            self.stop_requested
            and attempt is not None
            and (attempt.stop is FailureCause.CANCELLED)
        )

    def after_answer(self, event: Event, now: datetime) -> Self:
        """Return the record after an answer of the endpoint about the job's newest claim.

        If a claim is lost before an attempt has a process, the start ends: only running attempts continue.
        """
        attempt = self.attempt
        is_starting = (
            self.phase is Phase.RUNNING
            and attempt is not None
            and attempt.identity is None
            and attempt.stop is None
        )
        if attempt is None or not is_starting or event not in _CLAIM_LOST:
            return self.advance(event, now)
        undone = self.without_attempt(attempt.number)
        return undone.advance(Event.ATTEMPT_NEVER_STARTED, now).advance(event, now)

    def ending(self, cause: FailureCause, now: datetime) -> Self:
        """Return the record with its running attempt, if it has one, marked to be ended.

        The first cause stands, except before a cancel: whoever cancels doesn't want another attempt.
        """
        attempt = self.attempt
        if self.phase is not Phase.RUNNING or attempt is None:
            return self
        if attempt.stop and cause is not FailureCause.CANCELLED:
            return self
        stop_at = attempt.stop_at or now
        return self.with_attempt(evolve(attempt, stop=cause, stop_at=stop_at))


_CLAIM_LOST: Final = (Event.ACCEPT_REFUSED, Event.LEASE_LOST)

_MAY_BE_BLOCKED: Final = (Phase.RUNNING, Phase.NEEDS_ATTENTION)


def _parked_by(steps: tuple[Step, ...]) -> Step | None:
    """Return the step that has parked a parked job, or None if it is not among these."""
    parked_by: Step | None = None
    for step in steps:
        if step.phase is not Phase.NEEDS_ATTENTION:
            parked_by = None
        elif parked_by is None and step.event is Event.PARKED:
            parked_by = step
    return parked_by


def _kept(steps: tuple[Step, ...], phase: Phase) -> tuple[Step, ...]:
    """Return the last steps; while a job is parked, the one that has parked it is among them."""
    kept = steps[-STEPS_KEPT:]
    parked_by = _parked_by(steps) if phase is Phase.NEEDS_ATTENTION else None
    if parked_by is None or parked_by in kept:
        return kept
    return (parked_by, *kept[1:])


def cancelled(summary: str) -> Verdict:
    """Return the verdict of a run that somebody ended before it began."""
    return Verdict(
        outcome=Outcome.ABORTED, cause=FailureCause.CANCELLED, summary=summary
    )

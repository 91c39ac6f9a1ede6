"""Decisions about a running job, from its newest record, the evidence of its attempt and its workflow. Pure."""

from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import evolve, frozen

from dispatchd.agent.domain.exit_table import Contract, Ending, Then
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.domain.verdict import Evidence, Judgement, judge, never_started
from dispatchd.agent.domain.workflow import Workflow, terms_of
from dispatchd.agent.tracking.tracker import Decision
from dispatchd.errors import RunError
from dispatchd.protocol.backoff import RETRY_CAP_S, after_asked_s, full_jitter_s
from dispatchd.protocol.outcome import Exit, Verdict
from dispatchd.protocol.report import WITHHELD, shortened
from dispatchd.protocol.result import RunResult
from dispatchd.redaction.redactor import Redactor


@frozen(kw_only=True)
class Gathered:
    """Evidence of an attempt, and whether its secrets are known, so that its texts can be redacted."""

    evidence: Evidence
    secrets_known: bool
    redactor: Redactor | None = None
    """Removes the secrets and the command's masks; None where no command has run."""
    is_silent: bool = False
    """True if its command has written nothing to stdout and stderr."""


@frozen(kw_only=True)
class Pace:
    """Time of a decision, and the wait before another attempt."""

    now: datetime
    draw: Callable[[], float]
    """Returns a random number from [0, 1)."""
    wait_s: float
    """Upper bound of the first wait (seconds); each failure doubles it."""

    def again(
        self, record: TrackedJob, failures: int, asked_s: float | None = None
    ) -> TrackedJob:
        """Return the record with the time of its next try set, after a wait that grows with the number of failures.

        The wait is no shorter than the one asked for (`asked_s`, seconds), up to the cap.
        """
        draw = self.draw()
        delay_s = full_jitter_s(failures, draw, base_s=self.wait_s, cap_s=RETRY_CAP_S)
        if asked_s is not None:
            delay_s = min(max(delay_s, after_asked_s(asked_s, draw)), RETRY_CAP_S)
        return evolve(record, retry_at=self.now + timedelta(seconds=delay_s))


def nothing_ran(contract: Contract) -> Gathered:
    """Return the evidence of an attempt whose command never ran."""
    evidence = Evidence(
        end=Exit(code=None), contract=contract, story=Story(), duration_s=0.0
    )
    return Gathered(evidence=evidence, secrets_known=True)


def judged(
    newest: TrackedJob, gathered: Gathered, scrub: Callable[[str], str]
) -> Judgement:
    """Return the judgement of a job's newest attempt; `scrub` removes the secrets from a text."""
    evidence = evolve(gathered.evidence, parked_for=newest.blocked)
    if not gathered.secrets_known:
        evidence = _without_texts(evidence)
    evidence = evolve(evidence, story=evidence.story.shown(scrub))
    stop = newest.attempt.stop if newest.attempt is not None else None
    judgement = judge(evidence, stop)
    return evolve(judgement, summary=shortened(scrub(judgement.summary)))


def decided(
    newest: TrackedJob, workflow: Workflow | None, judgement: Judgement, pace: Pace
) -> Decision:
    """Return what becomes of a job whose attempt is over."""
    ruling = judgement.ruling
    ended = _with_end(newest, judgement, pace.now)
    if ruling.then is Then.PARK or ruling.outcome is None:
        return Decision(Event.PARKED, evolve(ended, blocked=judgement.summary))
    retries = terms_of(newest.attempt, workflow).retries
    if ruling.then is Then.RETRY and len(newest.attempts) <= retries:
        return Decision(Event.ATTEMPT_FAILED, pace.again(ended, len(ended.attempts)))
    verdict = Verdict(
        outcome=ruling.outcome, cause=ruling.cause, summary=judgement.summary
    )
    return Decision(Event.DECIDED, ended, verdict)


def not_started(
    newest: TrackedJob,
    workflow: Workflow,
    ending: Ending,
    why: str,
    *,
    error: RunError,
    pace: Pace,
) -> Decision:
    """Return what becomes of a job whose newest attempt could not get a process.

    Args:
        newest: The job.
        workflow: Its workflow.
        ending: The kind of failure.
        why: The reason, without secrets.
        error: The failure itself; a refusal is not tried again.
        pace: Time, and the wait before the next start.
    """
    starts = newest.start_failures + 1
    failed = never_started(workflow.contract, ending, why, starts=starts)
    may_pass = failed.ruling.then is Then.START_AGAIN and not error.refused
    if newest.attempt is None or not may_pass or starts > workflow.start_retries:
        return decided(newest, workflow, failed, pace)
    again = evolve(newest.without_attempt(newest.attempt.number), start_failures=starts)
    return Decision(Event.START_FAILED, pace.again(again, starts, error.retry_after_s))


def _with_end(record: TrackedJob, judgement: Judgement, now: datetime) -> TrackedJob:
    if record.attempt is None:
        return record
    ended = evolve(
        record.attempt,
        ended_at=now,
        cause=judgement.ruling.cause,
        summary=judgement.summary,
    )
    return evolve(record.with_attempt(ended), start_failures=0)


def _without_texts(evidence: Evidence) -> Evidence:
    """Return the evidence without any text of the command itself."""
    result, story, end = evidence.result, evidence.story, evidence.end
    if isinstance(result, RunResult):
        result = evolve(result, summary=WITHHELD, exit_reason="withheld")
    blocked = WITHHELD if story.blocked is not None else None
    return evolve(
        evidence,
        end=evolve(end, note=WITHHELD if end.note else ""),
        result=result,
        story=Story(
            blocked=blocked,
            malformed=story.malformed,
            left_out=story.left_out,
            bytes_left_out=story.bytes_left_out,
        ),
    )

"""Conclude: from everything that an attempt left behind to its verdict, another attempt, or a person.

The decision is made under the job's lock on the newest record: a cancel that arrives while the evidence is
read still counts. The report is written, without secrets, before the record says that there is one.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from attrs import define, evolve, field, frozen

from dispatchd.agent.domain.exit_table import Contract, Ending, Then
from dispatchd.agent.domain.isolation import denial
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.domain.verdict import Evidence, Judgement, judge, never_started
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.runs.report_builder import compose
from dispatchd.agent.runs.workspaces import Workspaces
from dispatchd.agent.store import reports
from dispatchd.agent.store.evidence import (
    Stories,
    missing_artifacts,
    read_result,
    read_tail,
)
from dispatchd.agent.store.runs import RunFolder, Runs
from dispatchd.agent.tracking.context import Context
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.tracker import Decision, Tracker
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import RunError, StoreUnavailable
from dispatchd.process.holes import cut_middle, hole_bytes
from dispatchd.protocol.backoff import RETRY_CAP_S, after_asked_s, full_jitter_s
from dispatchd.protocol.outcome import Exit, FailureCause, NeverStarted, Verdict
from dispatchd.protocol.report import WITHHELD, shortened
from dispatchd.protocol.result import NoResult, RunResult
from dispatchd.redaction.known_secrets import KnownSecrets

_LOOKED_THROUGH: Final = 64 * 1024
"""Size of the end of an output that is searched for messages about a denied access (bytes)."""


@frozen(kw_only=True)
class _Found:
    """Evidence of an attempt, and whether its secrets are known, so that its texts can be redacted."""

    evidence: Evidence
    secrets_known: bool


@define(kw_only=True)
class Concluder:
    """Decides how attempts end, and leaves no private code behind."""

    tracker: Tracker
    runs: Runs
    workspaces: Workspaces
    known: KnownSecrets
    context: Context
    stories: Stories = field(factory=Stories)
    """Events of the runs, as far as they have been read."""
    _threads: OwnThreads = field(factory=OwnThreads, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def conclude(
        self,
        job_id: str,
        end: Exit | NeverStarted,
        workflow: Workflow | None,
        *,
        secrets_known: bool,
    ) -> None:
        """Decide the outcome of a job's newest attempt.

        Args:
            job_id: The job; it is running.
            end: How the attempt ended.
            workflow: The workflow that it ran; None if it is no longer configured.
            secrets_known: True if the secrets that the run was given are known, so that its texts can be
                redacted.
        """
        record = self.tracker.get(job_id)
        if record is None or record.attempt is None:
            return
        attempt = record.attempt
        if isinstance(end, NeverStarted):
            await self._undo(record, attempt, workflow)
            return
        # `from_fork` doesn't count here: it may have become known after the start.
        secret_free = workflow is not None and not workflow.secret_variables
        known = secrets_known or secret_free
        # A stop doesn't wait for the reading of evidence, however large: the next daemon reads it again.
        found = await self._threads.run(
            job_id,
            lambda: self._read(record, attempt, end, workflow, known=known),
            within_s=None,
        )
        await self._decide(
            job_id,
            lambda newest: self._decision(
                newest, workflow, self._judged(newest, found)
            ),
        )
        run = self.runs.folder(record.run_id)
        self.stories.forget(run.events_file(attempt.number))
        await self.workspaces.clear_scratch(record.run_id, attempt.number)

    async def fail_to_start(
        self, record: TrackedJob, workflow: Workflow, ending: Ending, error: RunError
    ) -> None:
        """Decide about a job whose newest attempt could not get a process.

        Nothing has run, so another start is safe. It is tried again, unless the error is a refusal.
        """
        why = self.known.scrub(str(error))
        nothing = _nothing_ran(workflow.contract)

        def decision(newest: TrackedJob) -> Decision:
            if newest.stop_requested or newest.attempt is None:
                # Whoever ended it meanwhile doesn't want another attempt.
                judgement = self._judged(newest, nothing)
                return self._decision(newest, workflow, judgement)
            starts = newest.start_failures + 1
            failed = never_started(workflow.contract, ending, why, starts=starts)
            may_pass = failed.ruling.then is Then.START_AGAIN and not error.refused
            if not may_pass or starts > workflow.start_retries:
                return self._decision(newest, workflow, failed)
            self._log.warning(
                "start_failed",
                reason=why,
                starts_left=workflow.start_retries + 1 - starts,
                **job_context(newest),
            )
            again = evolve(
                newest.without_attempt(newest.attempt.number), start_failures=starts
            )
            return Decision(
                Event.START_FAILED, self._due_again(again, starts, error.retry_after_s)
            )

        await self._decide(record.job.id, decision)

    async def _undo(
        self, record: TrackedJob, attempt: Attempt, workflow: Workflow | None
    ) -> None:
        """Revert an attempt that never began. If somebody has ended it, that is its end instead."""
        nothing = _nothing_ran(attempt.contract)

        def decision(newest: TrackedJob) -> Decision:
            if newest.stop_requested:
                return self._decision(newest, workflow, self._judged(newest, nothing))
            return Decision(
                Event.ATTEMPT_NEVER_STARTED, newest.without_attempt(attempt.number)
            )

        await self._decide(record.job.id, decision)

    def _read(
        self,
        record: TrackedJob,
        attempt: Attempt,
        end: Exit,
        workflow: Workflow | None,
        *,
        known: bool,
    ) -> _Found:
        """Gather the evidence, and write the report. Blocks."""
        run = self.runs.folder(record.run_id)
        headless = attempt.contract is Contract.HEADLESS
        result = read_result(run.result_file(attempt.number)) if headless else None
        wanted = [
            *(workflow.required_artifacts if workflow is not None else ()),
            *(result.artifacts if isinstance(result, RunResult) else ()),
        ]
        missing = missing_artifacts(run.workspace, wanted)
        if wanted and not missing and run.private_mark.exists():
            missing = self._keep_artifacts(record, wanted)
        try:
            self._write_report(record, attempt, result, workflow, known=known)
        except StoreUnavailable as error:
            # The command may have left anything there; its job must end all the same.
            self._log.error("not_stored", error=str(error), **job_context(record))
        evidence = Evidence(
            end=end,
            contract=attempt.contract,
            result=result,
            story=self.stories.whole(run.events_file(attempt.number)),
            missing=missing,
            output_left_out=self._limit_output(run, attempt),
            denial=_denial(run.output_file(attempt.number), workflow),
            missing_fails=workflow is not None and workflow.missing_fails,
            duration_s=(self.context.clock.now() - attempt.started_at).total_seconds(),
        )
        return _Found(evidence=evidence, secrets_known=known)

    def _keep_artifacts(
        self, record: TrackedJob, wanted: Sequence[str]
    ) -> tuple[str, ...]:
        """Keep the artifacts of a workspace that is about to be removed. Return those that can't be kept. Blocks."""
        try:
            return self.runs.keep_artifacts(record.run_id, wanted)
        except StoreUnavailable as error:
            self._log.error("not_stored", error=str(error), **job_context(record))
            return tuple(wanted)

    def _limit_output(self, run: RunFolder, attempt: Attempt) -> int:
        """Cut the output written since the last look. Return the size of the part left out (bytes). Blocks."""
        if not attempt.output_max_bytes:
            return 0
        path = run.output_file(attempt.number)
        # On a file system without holes the runner of its attempt has ended the run for it.
        with suppress(OSError):
            cut_middle(path, attempt.output_max_bytes)
        return hole_bytes(path)

    def _write_report(
        self,
        record: TrackedJob,
        attempt: Attempt,
        result: RunResult | NoResult | None,
        workflow: Workflow | None,
        *,
        known: bool,
    ) -> None:
        run = self.runs.folder(record.run_id)
        composed = compose(
            run,
            attempt.number,
            result,
            self.known.redactor if known else None,
            with_output=workflow is None or workflow.report_output,
        )
        if composed.left_out:
            self._log.warning(
                "left_out_of_report",
                reasons=list(composed.left_out),
                **job_context(record),
            )
        reports.write(run, attempt.number, composed.report)

    def _judged(self, newest: TrackedJob, found: _Found) -> Judgement:
        evidence = evolve(found.evidence, parked_for=newest.blocked)
        if not found.secrets_known:
            evidence = _without_words(evidence)
        stop = newest.attempt.stop if newest.attempt is not None else None
        judgement = judge(evidence, stop)
        summary = self.known.scrub(judgement.summary)
        return evolve(judgement, summary=shortened(summary))

    async def _decide(
        self, job_id: str, decision: Callable[[TrackedJob], Decision]
    ) -> None:
        after = await self.tracker.decide(job_id, decision)
        if not after.blocked:
            await self.workspaces.clear(job_id)

    def _decision(
        self, newest: TrackedJob, workflow: Workflow | None, judgement: Judgement
    ) -> Decision:
        budget = workflow.retries if workflow is not None else 0
        ruling = judgement.ruling
        ended = _with_end(newest, ruling.cause, self.context.clock.now())
        if ruling.then is Then.PARK or ruling.outcome is None:
            parked = evolve(ended, blocked=judgement.summary)
            return Decision(Event.PARKED, parked)
        if ruling.then is Then.RETRY and len(newest.attempts) <= budget:
            self._log.warning(
                "attempt_failed",
                reason=judgement.summary,
                attempts_left=budget + 1 - len(newest.attempts),
                **job_context(newest),
            )
            return Decision(
                Event.ATTEMPT_FAILED, self._due_again(ended, len(ended.attempts))
            )
        verdict = Verdict(
            outcome=ruling.outcome, cause=ruling.cause, summary=judgement.summary
        )
        return Decision(Event.DECIDED, ended, verdict)

    def _due_again(
        self, record: TrackedJob, failures: int, asked_s: float | None = None
    ) -> TrackedJob:
        """Return the record with the time of its next try set, after a wait that grows with the number of failures.

        The wait is no shorter than the one asked for (`asked_s`, seconds), up to the cap.
        """
        draw = self.context.random.random()
        delay_s = full_jitter_s(
            failures,
            draw,
            base_s=self.context.config.limits.retry_wait_s,
            cap_s=RETRY_CAP_S,
        )
        if asked_s is not None:
            delay_s = min(max(delay_s, after_asked_s(asked_s, draw)), RETRY_CAP_S)
        return evolve(
            record, retry_at=self.context.clock.now() + timedelta(seconds=delay_s)
        )


def _nothing_ran(contract: Contract) -> _Found:
    """Return the evidence of an attempt whose command never ran."""
    evidence = Evidence(
        end=Exit(code=None), contract=contract, story=Story(), duration_s=0.0
    )
    return _Found(evidence=evidence, secrets_known=True)


def _with_end(
    record: TrackedJob, cause: FailureCause | None, now: datetime
) -> TrackedJob:
    if record.attempt is None:
        return record
    return record.with_attempt(evolve(record.attempt, ended_at=now, cause=cause))


def _denial(output_file: Path, workflow: Workflow | None) -> str:
    """Return a message in an output about a denied access, where the run's isolation may be why. Blocks.

    An output that isn't reported gives none.
    """
    if workflow is None or not workflow.report_output:
        return ""
    text, _ = read_tail(output_file, _LOOKED_THROUGH)
    return denial(workflow.isolation, text)


def _without_words(evidence: Evidence) -> Evidence:
    """Return the evidence without any text of the command itself."""
    result, story = evidence.result, evidence.story
    if isinstance(result, RunResult):
        result = evolve(result, summary=WITHHELD, exit_reason="withheld")
    blocked = WITHHELD if story.blocked is not None else None
    return evolve(
        evidence,
        result=result,
        story=Story(
            blocked=blocked,
            malformed=story.malformed,
            left_out=story.left_out,
            bytes_left_out=story.bytes_left_out,
        ),
    )

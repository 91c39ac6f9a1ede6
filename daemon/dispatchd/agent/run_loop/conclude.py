"""Conclude: from everything that an attempt left behind to its verdict, another attempt, or a person.

The decision is made under the job's lock on the newest record: a cancel that arrives while the evidence is
read still counts. The report is written, without secrets, before the record says that there is one.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from attrs import define, field

from dispatchd.agent.domain.exit_table import Contract, Ending
from dispatchd.agent.domain.isolation import denial
from dispatchd.agent.domain.job import Attempt, Terms, TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.domain.verdict import Evidence
from dispatchd.agent.domain.workflow import Workflow, terms_of
from dispatchd.agent.run_loop.decisions import (
    Gathered,
    Pace,
    decided,
    judged,
    not_started,
    nothing_ran,
)
from dispatchd.agent.run_loop.report_builder import Timeline, compose
from dispatchd.agent.run_loop.workspaces import Workspaces
from dispatchd.agent.store import reports
from dispatchd.agent.store.artifacts.snapshots import Bounds, Owner, Wanted
from dispatchd.agent.store.durable import sync_folder
from dispatchd.agent.store.evidence import (
    Stories,
    ended_at,
    masks_of,
    missing_artifacts,
    note_masks,
    read_result,
    read_tail,
)
from dispatchd.agent.store.runs import RunFolder, Runs
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.log_watch import LogWatch
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Decision, Tracker
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import RunError, StoreUnavailable
from dispatchd.linux.file_holes import cut_middle, hole_bytes
from dispatchd.linux.folder_tree import sync_tree
from dispatchd.protocol.extensions import ARTIFACTS
from dispatchd.protocol.outcome import Exit, NeverStarted
from dispatchd.protocol.result import NoResult, RunResult
from dispatchd.redaction.known_secrets import KnownSecrets
from dispatchd.redaction.redactor import Redactor

_UNTOLD: Final = "[withheld]"
"""Stands for an artifact that a command has named, where its secrets are not known."""

_COPIED_WITHIN_S: Final = 60.0
"""Longest time in which artifacts are copied (seconds): the finish waits for it, and not for the endpoint to have them."""

_LOOKED_THROUGH: Final = 64 * 1024
"""Size of the end of an output that is searched for messages about a denied access (bytes)."""


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
    logs: LogWatch = field(factory=LogWatch)
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
        terms = terms_of(attempt, workflow)
        known = secrets_known or not terms.has_secrets
        # A stop doesn't wait for the reading of evidence, however large: the next daemon reads it again.
        gathered = await self._threads.run(
            job_id,
            lambda: self._read(record, attempt, end, workflow, known=known),
            within_s=None,
        )
        if gathered.is_silent:
            self.logs.silence(record, attempt)
        await self._decide(
            job_id,
            lambda newest: self._decided(newest, workflow, gathered),
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
        nothing = nothing_ran(workflow.contract)

        def decision(newest: TrackedJob) -> Decision:
            if newest.stop_requested or newest.attempt is None:
                # Whoever ended it meanwhile doesn't want another attempt.
                return self._decided(newest, workflow, nothing)
            made = not_started(
                newest, workflow, ending, why, error=error, pace=self._pace()
            )
            if made.event is Event.START_FAILED:
                self._log.warning(
                    "start_failed",
                    reason=why,
                    starts_left=workflow.start_retries + 1 - made.record.start_failures,
                    **job_context(newest),
                )
            return made

        await self._decide(record.job.id, decision)

    async def _undo(
        self, record: TrackedJob, attempt: Attempt, workflow: Workflow | None
    ) -> None:
        """Revert an attempt that never began. If somebody has ended it, that is its end instead."""
        nothing = nothing_ran(attempt.contract)

        def decision(newest: TrackedJob) -> Decision:
            if newest.stop_requested:
                return self._decided(newest, workflow, nothing)
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
    ) -> Gathered:
        """Gather the evidence, copy the artifacts, and write the report. Blocks."""
        run = self.runs.folder(record.run_id)
        terms = terms_of(attempt, workflow)
        timeline = self._timeline(record, attempt)
        headless = attempt.contract is Contract.HEADLESS
        result = read_result(run.result_file(attempt.number)) if headless else None
        named = result.artifacts if isinstance(result, RunResult) else ()
        artifacts = [*dict.fromkeys((*terms.required_artifacts, *named))]
        missing = missing_artifacts(run.workspace, artifacts)
        if artifacts and not missing and run.private_mark.exists():
            missing = self._keep_artifacts(record, artifacts)
        if not known:
            # The others are words of the command.
            own = set(terms.required_artifacts)
            missing = tuple(path if path in own else _UNTOLD for path in missing)
        if (
            workflow is not None
            and workflow.report_artifacts
            and ARTIFACTS in record.job.extensions
        ):
            self._copy_artifacts(record, attempt, workflow, artifacts)
        masks = masks_of(run.output_file(attempt.number))
        redactor = self.known.redactor.also(masks)
        try:
            self._write_report(
                record, attempt, result, terms, timeline, redactor if known else None
            )
        except StoreUnavailable as error:
            # The command may have left anything there; its job must end all the same.
            self._log.error("not_stored", error=str(error), **job_context(record))
        evidence = Evidence(
            end=end,
            contract=attempt.contract,
            result=result,
            story=timeline.story,
            missing=missing,
            output_left_out=self._limit_output(run, attempt),
            denial=_denial(run.output_file(attempt.number), terms),
            missing_fails=terms.missing_fails,
            duration_s=(timeline.ends - attempt.started_at).total_seconds(),
        )
        return Gathered(
            evidence=evidence,
            secrets_known=known,
            redactor=redactor,
            is_silent=_is_empty(run.output_file(attempt.number)),
        )

    def _keep_artifacts(
        self, record: TrackedJob, artifacts: Sequence[str]
    ) -> tuple[str, ...]:
        """Keep the artifacts of a workspace that is about to be removed. Return those that can't be kept. Blocks."""
        try:
            lost = self.runs.keep_artifacts(record.run_id, artifacts)
            kept = self.runs.folder(record.run_id).artifacts
            if kept.is_dir():
                sync_tree(kept)
                sync_folder(kept.parent)
        except (StoreUnavailable, OSError) as error:
            self._log.error("not_stored", error=str(error), **job_context(record))
            return tuple(artifacts)
        return lost

    def _copy_artifacts(
        self,
        record: TrackedJob,
        attempt: Attempt,
        workflow: Workflow,
        paths: Sequence[str],
    ) -> None:
        """Copy what is sent to the endpoint later, before the workspace is removed or another attempt changes it. Blocks."""
        clock, config = self.context.clock, self.context.config
        late_at = clock.since_boot() + _COPIED_WITHIN_S
        wanted = Wanted(paths=tuple(paths), patterns=workflow.artifacts)
        if not (wanted.paths or wanted.patterns) and attempt.number == 1:
            return
        try:
            kept = self.runs.snapshots.take(
                Owner(job_id=record.job.id, attempt=attempt.number),
                self.runs.folder(record.run_id).workspace,
                wanted,
                Bounds(
                    most_bytes=workflow.artifacts_max_bytes,
                    min_free_bytes=config.min_free_bytes,
                    is_late=lambda: clock.since_boot() > late_at,
                ),
            )
        except OSError as error:
            self._log.error(
                "artifacts_not_copied", error=str(error), **job_context(record)
            )
            return
        self._log.info(
            "artifacts_copied", files=kept.files, bytes=kept.size, **job_context(record)
        )
        if kept.left_out:
            self._log.warning(
                "artifacts_left_out",
                reasons=list(kept.left_out),
                **job_context(record),
            )

    def _limit_output(self, run: RunFolder, attempt: Attempt) -> int:
        """Cut the output written since the last look. Return the size of the part left out (bytes). Blocks."""
        if not attempt.output_max_bytes:
            return 0
        path = run.output_file(attempt.number)
        # On a file system without holes the runner of its attempt has ended the run for it.
        with suppress(OSError, StoreUnavailable):
            cut_middle(path, attempt.output_max_bytes, note_masks)
        return hole_bytes(path)

    def _timeline(self, record: TrackedJob, attempt: Attempt) -> Timeline:
        run, now = self.runs.folder(record.run_id), self.context.clock.now()
        # A daemon that was away concludes later than the attempt has ended.
        at = ended_at(run.attempt(attempt.number))
        return Timeline(
            story=self.stories.whole(run.events_file(attempt.number)),
            begins=min(each.started_at for each in (*record.attempts, attempt)),
            ends=at if at is not None and attempt.started_at <= at <= now else now,
        )

    def _write_report(
        self,
        record: TrackedJob,
        attempt: Attempt,
        result: RunResult | NoResult | None,
        terms: Terms,
        timeline: Timeline,
        redactor: Redactor | None,
    ) -> None:
        run = self.runs.folder(record.run_id)
        composed = compose(
            run,
            attempt.number,
            result,
            redactor,
            timeline=timeline,
            with_output=terms.report_output,
        )
        if composed.left_out:
            self._log.warning(
                "left_out_of_report",
                reasons=list(composed.left_out),
                **job_context(record),
            )
        reports.write(run, attempt.number, composed.report)

    def _decided(
        self, newest: TrackedJob, workflow: Workflow | None, gathered: Gathered
    ) -> Decision:
        redactor = gathered.redactor or self.known.redactor
        judgement = judged(newest, gathered, redactor.scrub)
        made = decided(newest, workflow, judgement, self._pace())
        if made.event is Event.ATTEMPT_FAILED:
            self._log.warning(
                "attempt_failed",
                reason=judgement.summary,
                attempts_left=terms_of(newest.attempt, workflow).retries
                + 1
                - len(newest.attempts),
                **job_context(newest),
            )
        return made

    def _pace(self) -> Pace:
        return Pace(
            now=self.context.clock.now(),
            draw=self.context.random.random,
            wait_s=self.context.config.limits.retry_wait_s,
        )

    async def _decide(
        self, job_id: str, decision: Callable[[TrackedJob], Decision]
    ) -> None:
        after = await self.tracker.decide(job_id, decision)
        if not after.blocked:
            await self.workspaces.clear(job_id)


def _is_empty(file: Path) -> bool:
    with suppress(OSError):
        return file.lstat().st_size == 0
    return False


def _denial(output_file: Path, terms: Terms) -> str:
    """Return a message in an output about a denied access, where the run's isolation may be why. Blocks.

    An output that isn't reported gives none.
    """
    if not terms.report_output:
        return ""
    text, _ = read_tail(output_file, _LOOKED_THROUGH)
    return denial(terms.isolation, text)

"""Logs: send the log of each attempt to endpoints that take it, live while somebody watches, whole at the end.

Nothing waits for a log: the job is finished by its own loop, and the rest of its log may follow for an hour. What the
endpoint has is its own to say, in each answer; from there a log continues after a cut, or a restart of either side.
"""

from datetime import timedelta
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskGroup, TaskStatus
from attrs import define, field

from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.domain.workflow import ReportLog, terms_of
from dispatchd.agent.loops.logs.text import LogText
from dispatchd.agent.store.log_debts import LogDebts
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.log_watch import Key, key_of
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.ports import Source
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.concurrency.keyed_tasks import KeyedTasks
from dispatchd.concurrency.retry import Retry
from dispatchd.errors import JobClosed, RemoteError, TooLarge
from dispatchd.protocol.extensions import LOG
from dispatchd.protocol.report import LogChunk
from dispatchd.redaction.known_secrets import KnownSecrets
from dispatchd.redaction.redactor import Redactor

_LOOP: Final = "logs"

_LOOK_S: Final = 0.5
"""Time between two looks at the log of a live attempt that somebody watches (seconds)."""

_CALLS_AT_ONCE: Final = 2
"""Chunks under way at the same time (count): more important calls come through beside them."""

_LONGEST_PAUSE_S: Final = 15.0
"""Longest pause between two tries of a chunk (seconds)."""

_AFTERWARDS: Final = timedelta(hours=1)
"""Time after the end of a job for which the rest of its log is still sent."""

_MOST_FAILURES: Final = 300
"""Most failures in a row of the log of an attempt that is over (count)."""

_MOST_REPAIRS: Final = 3
"""Most times that a log is sent again because the endpoint has another text (count)."""

_STARTED: Final = (
    Phase.ACCEPTED,
    Phase.RUNNING,
    Phase.RETRY_WAIT,
    Phase.NEEDS_ATTENTION,
    Phase.FINISHING,
)
"""Phases of tracked jobs that may have had attempts."""


@define(kw_only=True)
class LogLoop:
    """Sends logs, those of each job in the order of its attempts."""

    source: Source
    tracking: Tracking
    debts: LogDebts
    known: KnownSecrets
    """Secrets of this machine, for the logs of runs without any of their own."""
    _owed: set[str] = field(factory=set, init=False)
    """Jobs with attempts whose log may not have been sent."""
    _resumed: set[str] = field(factory=set, init=False)
    """Those of them of which an earlier daemon may have sent a part."""
    _over: set[Key] = field(factory=set, init=False)
    """Attempts of those whose log needs no further calls."""
    _paused: set[Key] = field(factory=set, init=False)
    """Live attempts that have written more than is sent live."""
    _texts: dict[Key, LogText] = field(factory=dict, init=False)
    _work: KeyedTasks[str] = field(init=False)
    _turns: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_CALLS_AT_ONCE), init=False
    )
    _reader: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(1), init=False
    )
    """One text is read at a time: that takes the processor."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_work.default
    def _new_work(self) -> KeyedTasks[str]:
        return KeyedTasks(_LOOP, self.context.bugs)

    @property
    def context(self) -> Context:
        """Context of all loops."""
        return self.tracking.context

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Send until cancelled."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            self._resumed |= set(await to_thread.run_sync(self.debts.list))
            self._owed |= self._resumed
            await self.context.bugs.rounds(_LOOP, partial(self._round, tasks))

    async def _round(self, tasks: TaskGroup) -> None:
        bell = self.tracking.tracker.changed.next
        started = self.tracking.tracker.in_phase(*_STARTED)
        for record in started:
            if LOG in record.job.extensions and self._next(record) is not None:
                self._owed.add(record.job.id)
        known = {record.job.id for record in started}
        self.tracking.logs.forget_all_but(known | self._owed)
        for job_id in self._owed - {*self._work}:
            tracked = self.tracking.tracker.get(job_id)
            if tracked is None or self._next(tracked) is not None:
                self._work.start(
                    tasks,
                    job_id,
                    partial(self._send_all, job_id),
                    on_end=self.tracking.tracker.changed.notify,
                )
        self.context.bugs.worked(_LOOP)
        await bell.wait()

    def _next(self, record: TrackedJob) -> Attempt | None:
        """Return the first attempt of a job whose log is to be sent now; None if there is none."""
        watched = self.tracking.logs.is_watched(record.job.id)
        for attempt in record.attempts:
            key = key_of(record, attempt)
            if key in self._over or (
                self.tracking.logs.is_silent(key) and key not in self._texts
            ):
                continue
            mode = self._mode(record, attempt)
            if _is_live(record, attempt):
                known = self.tracking.logs.redactor(key) is not None
                is_due = watched and known and mode is not ReportLog.NEVER
                return attempt if is_due and key not in self._paused else None
            if mode is ReportLog.FULL or (mode is ReportLog.TAIL and watched):
                return attempt
        return None

    def _mode(self, record: TrackedJob, attempt: Attempt) -> ReportLog:
        """Return how much of the log of an attempt may be sent, now and when it began."""
        workflow = self.context.config.workflows.get(record.job.workflow)
        if not terms_of(attempt, workflow).report_output:
            return ReportLog.NEVER
        return ReportLog.TAIL if workflow is None else workflow.report_log

    async def _send_all(self, job_id: str) -> None:
        """Send the logs of a job that are due."""
        if self.tracking.tracker.get(job_id) is not None:
            await to_thread.run_sync(self.debts.add, job_id)
        while True:
            record = await self.tracking.tracker.find(job_id)
            attempt = None if record is None else self._next(record)
            if record is None or attempt is None:
                if record is None or record.phase is Phase.HISTORY:
                    await self._settle(job_id)
                return
            try:
                await self._send(record, attempt)
            except (JobClosed, TooLarge) as error:
                self._log.warning(
                    "log_refused", error=str(error), **job_context(record)
                )
                for each in record.attempts:
                    await self._end(record, each)

    async def _settle(self, job_id: str) -> None:
        """Forget a job whose logs need no further calls."""
        await to_thread.run_sync(self.debts.remove, job_id)
        self._owed.discard(job_id)
        self._resumed.discard(job_id)
        for keys in (self._over, self._paused):
            keys -= {key for key in keys if key[0] == job_id}
        for key in [key for key in self._texts if key[0] == job_id]:
            del self._texts[key]

    async def _end(self, record: TrackedJob, attempt: Attempt) -> None:
        """Note that the log of an attempt needs no further calls; a restarted daemon knows it too."""
        key = key_of(record, attempt)
        self._over.add(key)
        self._paused.discard(key)
        self._texts.pop(key, None)
        self.tracking.logs.forget(key)
        run = self.tracking.runs.folder(record.run_id)
        await to_thread.run_sync(self.debts.pay, run, attempt.number)

    async def _send(self, record: TrackedJob, attempt: Attempt) -> None:
        """Send the log of an attempt: as long as somebody watches it live, or to its end.

        Raises:
            JobClosed: The endpoint takes no logs of this job.
            TooLarge: It takes nothing further.
        """
        key = key_of(record, attempt)
        text = await self._text(record, attempt)
        repairs = Retry(self.context.random, cap_s=_LONGEST_PAUSE_S)
        while text is not None:
            record = await self.tracking.tracker.find(record.job.id) or record
            live = _is_live(record, attempt)
            if live and _is_enough(attempt, text):
                self._paused.add(key)
            if not _counts(record, attempt) or (live and self._next(record) is None):
                return
            more = await to_thread.run_sync(
                text.look if live else text.finish, limiter=self._reader
            )
            chunk = text.chunk(attempt.number)
            if chunk is not None and await self._has_all(
                record, attempt, text, chunk, repairs
            ):
                break
            if live and not more:
                await anyio.sleep(_LOOK_S)
        await self._end(record, attempt)

    async def _has_all(
        self,
        record: TrackedJob,
        attempt: Attempt,
        text: LogText,
        chunk: LogChunk,
        repairs: Retry,
    ) -> bool:
        """Send a chunk. Return whether the log needs no further chunks.

        Raises:
            JobClosed: The endpoint takes no logs of this job.
            TooLarge: It takes nothing further.
        """
        stored = await self._call(record, attempt, chunk)
        if stored is None or await to_thread.run_sync(text.sent, chunk, stored):
            return True
        live = _is_live(record, attempt)
        if stored > chunk.offset and not chunk.whole:
            if live:
                repairs.worked()
            return False
        # The endpoint has another text than the machine, which sends its own again.
        pause_s = repairs.failed()
        if not live and repairs.failures > _MOST_REPAIRS:
            why = "the endpoint keeps another text"
            self._log.warning("log_not_sent", error=why, **job_context(record))
            return True
        await anyio.sleep(pause_s)
        return False

    async def _text(self, record: TrackedJob, attempt: Attempt) -> LogText | None:
        """Return the text of an attempt, from where the endpoint has it; None if none of it may be sent any more.

        Raises:
            JobClosed: The endpoint takes no logs of this job.
        """
        key = key_of(record, attempt)
        if key in self._texts:
            return self._texts[key]
        run = self.tracking.runs.folder(record.run_id)
        is_resumed = record.job.id in self._resumed
        if is_resumed and await to_thread.run_sync(
            self.debts.is_paid, run, attempt.number
        ):
            return None
        path, redactor = (
            run.output_file(attempt.number),
            self._redactor(record, attempt),
        )
        saved = self.debts.saved(run, attempt.number)
        if redactor is None and saved.exists():
            # An earlier daemon has taken the secrets out.
            path, redactor = saved, self.known.redactor
        if redactor is None:
            self._log.warning(
                "log_withheld",
                reason="its secrets are not known any more",
                **job_context(record),
            )
            return None
        text = self._texts[key] = LogText(path, redactor)
        stored: int | None = 0
        if is_resumed:
            question = LogChunk(attempt=attempt.number, offset=0)
            stored = await self._call(record, attempt, question)
        if stored is None:
            return None
        text.restart(stored)
        return text

    def _redactor(self, record: TrackedJob, attempt: Attempt) -> Redactor | None:
        """Return what removes the secrets from a log; None if they are not known."""
        known = self.tracking.logs.redactor(key_of(record, attempt))
        workflow = self.context.config.workflows.get(record.job.workflow)
        if known is not None or terms_of(attempt, workflow).has_secrets:
            return known
        return self.known.redactor

    async def _call(
        self, record: TrackedJob, attempt: Attempt, chunk: LogChunk
    ) -> int | None:
        """Send a chunk until it is answered; return up to where the endpoint has the log, or None to give up.

        Raises:
            JobClosed: The endpoint takes no logs of this job.
            TooLarge: It takes nothing further.
        """
        retry = Retry(self.context.random, cap_s=_LONGEST_PAUSE_S)
        while True:
            try:
                async with self._turns:
                    answer = await self.source.log(record, chunk)
            except (JobClosed, TooLarge):
                raise
            except RemoteError as error:
                pause_s = retry.failed(error.retry_after_s)
                newest = await self.tracking.tracker.find(record.job.id) or record
                if self._gives_up(newest, attempt, retry.failures):
                    self._log.warning(
                        "log_not_sent", error=str(error), **job_context(record)
                    )
                    return None
                self._log.info(
                    "log_delayed",
                    error=str(error),
                    retry_in_s=round(pause_s, 2),
                    **job_context(record),
                )
                await self._save(newest, attempt)
                await anyio.sleep(pause_s)
            else:
                self.tracking.logs.note(record.job.id, watching=answer.watching)
                return answer.offset

    async def _save(self, record: TrackedJob, attempt: Attempt) -> None:
        """Take the secrets out of a log that can't be sent now, while they are known: a restart forgets them."""
        text = self._texts.get(key_of(record, attempt))
        saved = self.debts.saved(
            self.tracking.runs.folder(record.run_id), attempt.number
        )
        if text is None or _is_live(record, attempt) or saved.exists():
            return
        try:
            await to_thread.run_sync(text.save, saved, limiter=self._reader)
        except OSError as error:
            self._log.warning(
                "log_not_saved", error=error.strerror, **job_context(record)
            )

    def _gives_up(self, record: TrackedJob, attempt: Attempt, failures: int) -> bool:
        """Return whether a log that couldn't be sent is given up."""
        if _is_live(record, attempt):
            return False
        late = self.context.clock.now() - record.changed_at > _AFTERWARDS
        return failures >= _MOST_FAILURES or (record.phase is Phase.HISTORY and late)


def _counts(record: TrackedJob, attempt: Attempt) -> bool:
    """Return whether an attempt is one of its job, as one that never began isn't."""
    return any(each.started_at == attempt.started_at for each in record.attempts)


def _is_live(record: TrackedJob, attempt: Attempt) -> bool:
    return (
        record.phase is Phase.RUNNING and attempt.number == record.attempts[-1].number
    )


def _is_enough(attempt: Attempt, text: LogText) -> bool:
    """Return whether the rest of a live attempt waits for its end: its middle may be cut out by then."""
    return bool(attempt.output_max_bytes) and text.size > attempt.output_max_bytes

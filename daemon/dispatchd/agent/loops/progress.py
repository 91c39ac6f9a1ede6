"""Progress: new progress events of running jobs, sent to the endpoint once each."""

from pathlib import Path

import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.domain.run.events import Progress
from dispatchd.agent.store.evidence import Stories
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.linux.untrusted_files import read_regular, write_new


@define
class _Cursor:
    """Position of an attempt's events, and the number of its progress events that were sent."""

    path: Path
    file: Path
    sent: int
    seen: int = 0


@define
class ProgressFeed:
    """Reads events on demand; nothing watches the files."""

    _runs: Runs
    _stories: Stories
    _cursors: dict[str, _Cursor] = field(factory=dict, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def news(self, record: TrackedJob) -> Progress | None:
        """Return the progress of a job's run, or None if it was sent already or there is no run."""
        attempt = record.attempt
        if record.phase is not Phase.RUNNING or attempt is None:
            self.forget(record.job.id)
            return None
        return await to_thread.run_sync(self._read, record, attempt.number)

    def note_sent(self, record: TrackedJob) -> None:
        """Record that the endpoint has the newest progress; a restarted daemon knows it too."""
        cursor = self._cursors.get(record.job.id)
        if cursor is None:
            return
        cursor.sent = cursor.seen
        try:
            write_new(cursor.file, str(cursor.sent).encode())
        except OSError as error:
            # At worst a restarted daemon sends it again.
            self._log.debug(
                "progress_note_failed", error=error.strerror, **job_context(record)
            )

    def forget(self, job_id: str) -> None:
        """Forget a job that has ended."""
        over = self._cursors.pop(job_id, None)
        if over is not None:
            self._stories.forget(over.path)

    def _read(self, record: TrackedJob, number: int) -> Progress | None:
        run = self._runs.folder(record.run_id)
        path = run.events_file(number)
        cursor = self._cursors.get(record.job.id)
        if cursor is None or cursor.path != path:
            self.forget(record.job.id)
            file = run.sent_file(number)
            cursor = _Cursor(path, file, _number_in(file))
            self._cursors[record.job.id] = cursor
        story = self._stories.so_far(path)
        cursor.seen = story.progress_events
        return story.progress if story.progress_events > cursor.sent else None


def _number_in(file: Path) -> int:
    try:
        return int(read_regular(file, 20) or b"0")
    except (OSError, ValueError):
        return 0

"""Watchers of the logs of runs, and the redactors of live attempts: the logs' loop needs both from others."""

from collections.abc import Set as AbstractSet
from datetime import datetime

from attrs import define, field

from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.concurrency.notifier import Notifier
from dispatchd.protocol.extensions import LOG
from dispatchd.redaction.redactor import Redactor

Key = tuple[str, datetime]
"""An attempt: the id of its job, and its start. One that never began leaves its number to the next."""


def key_of(record: TrackedJob, attempt: Attempt) -> Key:
    """Return the key of an attempt."""
    return record.job.id, attempt.started_at


@define
class LogWatch:
    """Jobs whose log somebody watches, and the redactors of attempts whose log the endpoint takes.

    The secrets of a run are forgotten at its end. Its redactor stays here until its log has been sent.
    """

    changed: Notifier = field(factory=Notifier)
    _watched: set[str] = field(factory=set, init=False)
    _redactors: dict[Key, Redactor] = field(factory=dict, init=False)
    _silent: set[Key] = field(factory=set, init=False)
    """Attempts that have ended and written nothing: they have no log."""

    def is_watched(self, job_id: str) -> bool:
        """Return whether somebody watches the log of a job."""
        return job_id in self._watched

    def note(self, job_id: str, *, watching: bool) -> None:
        """Note what the endpoint says about watchers of a job's log."""
        if watching is (job_id in self._watched):
            return
        if watching:
            self._watched.add(job_id)
        else:
            self._watched.discard(job_id)
        self.changed.notify()

    def begin(self, record: TrackedJob, attempt: Attempt, redactor: Redactor) -> None:
        """Store the redactor of a live attempt, which knows all secrets that its command was given."""
        if LOG in record.job.extensions:
            self._redactors[key_of(record, attempt)] = redactor
            self.changed.notify()

    def silence(self, record: TrackedJob, attempt: Attempt) -> None:
        """Note that an attempt has ended and written nothing. Called before its job's next phase."""
        self._silent.add(key_of(record, attempt))

    def is_silent(self, key: Key) -> bool:
        """Return whether an attempt has ended and written nothing."""
        return key in self._silent

    def redactor(self, key: Key) -> Redactor | None:
        """Return the redactor of an attempt; None if it isn't known here."""
        return self._redactors.get(key)

    def forget(self, key: Key) -> None:
        """Forget the redactor of an attempt whose log has been sent."""
        self._redactors.pop(key, None)

    def forget_all_but(self, job_ids: AbstractSet[str]) -> None:
        """Forget every job but some, with all that is known of its attempts."""
        self._watched &= job_ids
        self._silent -= {key for key in self._silent if key[0] not in job_ids}
        for key in [key for key in self._redactors if key[0] not in job_ids]:
            del self._redactors[key]

"""What the logs of runs need of others: who watches them, and the redactors of live attempts."""

from attrs import define, field

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.concurrency.notifier import Notifier
from dispatchd.protocol.extensions import LOG
from dispatchd.redaction.redactor import Redactor

Key = tuple[str, int]
"""An attempt: the id of its job, and its number."""


@define
class LogWatch:
    """Jobs whose log somebody watches, and the redactors of attempts whose log the endpoint takes.

    The secrets of a run are forgotten at its end. Its redactor stays here until its log has been sent.
    """

    changed: Notifier = field(factory=Notifier)
    _watched: set[str] = field(factory=set, init=False)
    _redactors: dict[Key, Redactor] = field(factory=dict, init=False)

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

    def begin(self, record: TrackedJob, number: int, redactor: Redactor) -> None:
        """Store the redactor of a live attempt, which knows all secrets that its command was given."""
        if LOG in record.job.extensions:
            self._redactors[record.job.id, number] = redactor
            self.changed.notify()

    def redactor(self, key: Key) -> Redactor | None:
        """Return the redactor of an attempt; None if it isn't known here."""
        return self._redactors.get(key)

    def forget(self, key: Key) -> None:
        """Forget the redactor of an attempt whose log has been sent."""
        self._redactors.pop(key, None)

    def forget_job(self, job_id: str) -> None:
        """Forget a job that has ended, and all redactors of its attempts."""
        self._watched.discard(job_id)
        for key in [key for key in self._redactors if key[0] == job_id]:
            del self._redactors[key]

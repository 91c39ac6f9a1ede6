"""News of jobs, as hub processes tell them each other: which job has changed, and for which machine it is there."""

import json
from typing import Final, Self

from attrs import frozen

from dispatchd.hub.model import HELD, HubJob, State

_ANY: Final = ""

ANYTHING: Final = "*"
"""Text of news that something has changed, whatever it is: everybody who waits is to look."""

_LONGEST: Final = 7000
"""Longest news (bytes): NOTIFY of PostgreSQL takes 8000."""


@frozen(kw_only=True)
class News:
    """News of one job; an empty machine or workflow means any.

    Of a job that isn't queued, `machine` is the one that has it and is to end it; empty for none.
    """

    job_id: str
    is_queued: bool = True
    """Whether the job is there for a machine."""
    workflow: str = _ANY
    machine: str = _ANY
    repository: str | None = None
    """That of a queued job; None where it isn't known, as of news from another process."""

    @classmethod
    def of(cls, job: HubJob) -> Self:
        """Return the news of a job."""
        if job.state is not State.QUEUED:
            is_to_end = job.state in HELD and job.cancel_requested
            holder = job.machine if is_to_end else _ANY
            return cls(job_id=job.id, is_queued=False, machine=holder)
        return cls(
            job_id=job.id,
            # A cancel job is for any workflow.
            workflow=_ANY if job.urgent else job.workflow,
            machine=job.only_machine,
            repository=job.repository,
        )

    def text(self, origin: str) -> str:
        """Return the news as text, with the process that tells it; ANYTHING where that is too long to be sent."""
        text = json.dumps(
            [origin, self.job_id, self.is_queued, self.workflow, self.machine]
        )
        return text if len(text) <= _LONGEST else ANYTHING

    @classmethod
    def read(cls, text: str) -> tuple[str, Self]:
        """Return the process that has told a text, and the news."""
        origin, job_id, is_queued, workflow, machine = json.loads(text)
        news = cls(
            job_id=job_id, is_queued=is_queued, workflow=workflow, machine=machine
        )
        return origin, news

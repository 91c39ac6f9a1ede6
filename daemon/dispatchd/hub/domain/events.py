"""News of jobs between hub processes: the job that has changed, and the machine that it is for."""

import json
from typing import Final, Self

from attrs import frozen

from dispatchd.hub.domain.decisions.decision import waiting
from dispatchd.hub.domain.model import HELD, HubJob, State

_ANY: Final = ""

ANYTHING: Final = "*"
"""Text of news that anything may have changed: all waiting requests have to look."""

_LONGEST: Final = 7000
"""Longest text of news (bytes): NOTIFY of PostgreSQL accepts 8000."""


@frozen(kw_only=True)
class News:
    """News of one job; an empty machine or workflow means any.

    For a job that isn't queued, `machine` is the one that has it and is to end it, or to carry out a decision about it;
    empty for none.
    """

    job_id: str
    is_queued: bool = True
    """True if a machine can get the job."""
    workflow: str = _ANY
    machine: str = _ANY
    repository: str | None = None
    """Repository of a queued job; None if it isn't known, as in news from another process."""

    @classmethod
    def of(cls, job: HubJob) -> Self:
        """Return the news of a job."""
        if job.state is not State.QUEUED:
            is_to_end = job.state in HELD and job.cancel_requested
            holder = job.machine if is_to_end or waiting(job) else _ANY
            return cls(job_id=job.id, is_queued=False, machine=holder)
        return cls(
            job_id=job.id,
            # A cancel job is for any workflow.
            workflow=_ANY if job.urgent else job.workflow,
            machine=job.only_machine,
            repository=job.repository,
        )

    def text(self, origin: str) -> str:
        """Return the news as text, with the id of the sending process; ANYTHING if the text is too long."""
        text = json.dumps(
            [origin, self.job_id, self.is_queued, self.workflow, self.machine]
        )
        return text if len(text) <= _LONGEST else ANYTHING

    @classmethod
    def read(cls, text: str) -> tuple[str, Self]:
        """Return the id of the process that sent a text, and the news in it."""
        origin, job_id, is_queued, workflow, machine = json.loads(text)
        news = cls(
            job_id=job_id, is_queued=is_queued, workflow=workflow, machine=machine
        )
        return origin, news

"""Progress of a schedule, and the run that is to be made a job now."""

import json
import re
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Final, Self

from attrs import asdict, evolve, fields_dict, frozen

from dispatchd.hub.domain.schedules.plan import Plan

MOST_COUNTED: Final = 1000
"""Largest number of missed runs that is counted; more count as so many."""

LATE_S: Final = 60.0
"""Delay from which a run counts as missed and caught up (seconds)."""

_JOB_ID: Final = re.compile(r"schedule-(?P<name>.+)-[0-9]{8}T[0-9]{6}Z")

SET_BACK_S: Final = 60.0
"""Lead of the newest decision over the clock from which the clock counts as set back (seconds)."""


@frozen(kw_only=True)
class Progress:
    """Progress of a schedule, as the database has it for all hub processes. Times are seconds since the epoch."""

    cron: str
    """Expression by which the hub process goes that started last; empty if the schedule is disabled there."""
    timezone: str
    until: float
    """Time up to which all due times have been decided."""
    due_at: float = 0
    """Due time of the last run; 0 before the first one."""
    fired_at: float = 0
    """Time at which the last run was made a job."""
    job_id: str = ""
    """Job of the last run."""
    missed: int = 0
    """Runs before the last one that were left out because the hub was away (count, at most `MOST_COUNTED`)."""
    terms: str = ""
    """Digest of what its jobs are, as the hub process has it that started last; empty as an earlier release stores it."""
    decided_before: float = 0
    """Time up to which all due times had been decided when the clock was set back; 0 if it wasn't."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the progress that a text has. What a newer release has added to it is left out."""
        known = fields_dict(cls)
        stored = json.loads(text).items()
        return cls(**{name: value for name, value in stored if name in known})

    @property
    def text(self) -> str:
        """The progress as a text."""
        return json.dumps(asdict(self))

    @property
    def plan(self) -> Plan:
        """Plan by which it goes."""
        return Plan(cron=self.cron, timezone=self.timezone)

    @property
    def next_at(self) -> float | None:
        """Next due time; None for none."""
        return self.plan.next_after(self.until) if self.cron else None


@frozen(kw_only=True)
class Due:
    """Run that is to be made a job now."""

    at: float
    """Its due time (seconds since the epoch)."""
    missed: int
    """Runs before it that are left out (count)."""


def begun(
    before: Progress | None, plan: Plan, *, now: float, terms: str = ""
) -> Progress:
    """Return the progress of a schedule at the start of a hub process.

    A new plan counts from now on. With the plan of before, runs that were missed are caught up.
    """
    if before is None:
        return Progress(cron=plan.cron, timezone=plan.timezone, until=now, terms=terms)
    if before.plan == plan:
        return evolve(before, terms=terms)
    return evolve(
        before, cron=plan.cron, timezone=plan.timezone, until=now, terms=terms
    )


def was_set_back(progress: Progress, *, now: float) -> bool:
    """Return whether the clock was set back since the newest decision."""
    return progress.until > now + SET_BACK_S


def set_back(progress: Progress, *, now: float) -> Progress:
    """Return the progress after the clock was set back: runs are due from now on."""
    before = max(progress.until, progress.decided_before)
    return evolve(progress, until=now, decided_before=before)


def is_right_again(progress: Progress, *, now: float) -> bool:
    """Return whether a clock that was set back is later than before: in between nothing is left to decide.

    A machine without a battery for its clock starts in 1970, and has the right time after a moment. The hub may have
    removed the jobs of runs of long ago; they are not to be made once more.
    """
    return progress.until < progress.decided_before < now - LATE_S


def right_again(progress: Progress) -> Progress:
    """Return the progress once the clock is right again."""
    return evolve(progress, until=progress.decided_before, decided_before=0)


def due_now(progress: Progress, *, now: float) -> Due | None:
    """Return the run that is due: the newest one that isn't decided; None for none."""
    plan = progress.plan
    at = plan.newest(progress.until, now)
    if at is None:
        return None
    earlier = takewhile(lambda due: due < at, plan.after(progress.until))
    return Due(at=at, missed=sum(1 for _ in islice(earlier, MOST_COUNTED)))


def fired(progress: Progress, due: Due, job_id: str, *, now: float) -> Progress:
    """Return the progress after a run was made a job."""
    return evolve(
        progress,
        until=due.at,
        due_at=due.at,
        fired_at=now,
        job_id=job_id,
        missed=due.missed,
    )


def schedule_of(job_id: str) -> str:
    """Return the name of the schedule whose jobs have ids of this form; empty for another form."""
    match = _JOB_ID.fullmatch(job_id)
    return match["name"] if match else ""


def job_id_of(name: str, due_at: float) -> str:
    """Return the id of the job of a run. The same run always has the same one, so that it is never two jobs."""
    return f"schedule-{name}-{datetime.fromtimestamp(due_at, UTC):%Y%m%dT%H%M%SZ}"

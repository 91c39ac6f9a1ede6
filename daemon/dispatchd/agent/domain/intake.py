"""Intake of new jobs on this machine, as its operator set it.

A drain empties the machine: jobs that have not started are handed back, jobs that have started run to their end,
and the deadline ends the rest. A pause only stops new jobs. Both last until a resume, over restarts.
"""

from datetime import datetime
from enum import StrEnum

from attrs import frozen


class Mode(StrEnum):
    """Intake mode; the values are those on disk and on the control socket."""

    PULLING = "pulling"
    """New jobs are taken."""
    PAUSED = "paused"
    """No new job is taken; the jobs that the machine has continue."""
    DRAINING = "draining"
    """No new job is taken. Jobs that have not started are handed back; the others run to their end."""


@frozen(kw_only=True)
class Intake:
    """Intake as the operator set it. `until` is when a drain ends the jobs that still run (None: never)."""

    mode: Mode = Mode.PULLING
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def blocked_reason(self) -> str:
        """Reason why no job is pulled, in words; empty if jobs are pulled."""
        if self.mode is Mode.PULLING:
            return ""
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.mode} by an operator{why}; `dispatchd resume` ends that"

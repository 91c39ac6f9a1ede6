"""Whether this machine takes new jobs, by the will of its operator.

A drain empties the machine: what has not started goes back, what has started ends, and after the deadline it
is ended. A pause only takes nothing new. Both last until a resume, over restarts.
"""

from datetime import datetime
from enum import StrEnum

from attrs import frozen


class Mode(StrEnum):
    """What an operator wants; the values are those on disk and on the control socket."""

    PULLING = "pulling"
    """Jobs are taken."""
    PAUSED = "paused"
    """None is taken; what was taken goes on."""
    DRAINING = "draining"
    """None is taken; what has not started is handed back, the rest ends."""


@frozen(kw_only=True)
class Intake:
    """The will of the operator; `until` is when a drain ends what still runs (None: never)."""

    mode: Mode = Mode.PULLING
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def obstacle(self) -> str:
        """Why no job is pulled, in words; empty if they are."""
        if self.mode is Mode.PULLING:
            return ""
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.mode} by an operator{why}; `dispatchd resume` ends that"

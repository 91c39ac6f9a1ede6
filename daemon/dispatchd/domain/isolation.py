"""What keeps a run from what isn't its own."""

from enum import StrEnum


class Isolation(StrEnum):
    """What stands between a run and the rest of the machine."""

    SANDBOX = "sandbox"
    """The kernel's wall around each process of it: Landlock, a filter of system calls, no new privileges."""
    NONE = "none"
    """Nothing: it may do whatever the daemon's user may."""

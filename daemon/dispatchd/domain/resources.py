"""What an attempt may take of the machine, and what it has taken."""

from attrs import frozen


@frozen(kw_only=True)
class Resources:
    """Limits of one attempt with all its processes; 0 is none. They count where a control group carries them."""

    memory_bytes: int = 0
    pids: int = 0
    cpu_weight: int = 0
    """As cpu.weight of cgroup v2: 1 to 10000, 100 is usual."""


@frozen(kw_only=True)
class Usage:
    """What an attempt has taken, as far as its control group knows; None is not known."""

    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    pids_refused: int = 0
    """Number of process starts that its limit (`pids_max`) refused."""
    oom_kills: int = 0
    """How many of its processes the kernel has ended for want of memory (count)."""

"""Resources of an attempt: its limits and its usage."""

from attrs import frozen


@frozen(kw_only=True)
class Resources:
    """Limits of one attempt with all its processes; 0 is none. They apply where a control group enforces them."""

    memory_bytes: int = 0
    pids: int = 0
    cpu_weight: int = 0
    """Weight as in cpu.weight of cgroup v2: 1 to 10000, 100 is the default."""


@frozen(kw_only=True)
class Usage:
    """Resources that an attempt used, as its control group counted them; None is unknown."""

    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    pids_refused: int = 0
    """Process starts that its limit (`pids_max`) refused (count)."""
    oom_kills: int = 0
    """Processes of it that the kernel ended for lack of memory (count)."""

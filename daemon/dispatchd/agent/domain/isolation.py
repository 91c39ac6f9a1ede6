"""Isolation of runs: walls, networks and home folders that a workflow can choose."""

from enum import StrEnum
from typing import Final


class Isolation(StrEnum):
    """Wall between a run and the rest of the machine."""

    SANDBOX = "sandbox"
    """Kernel restrictions on each of its processes: Landlock, a filter of system calls, no new privileges."""
    BUBBLEWRAP = "bubblewrap"
    """Namespaces of its own, made by bwrap(1): other files and processes are invisible."""
    CONTAINER = "container"
    """A container of an image, run by podman(1)."""
    NONE = "none"
    """No wall: the run may do whatever the daemon's user may."""


class Network(StrEnum):
    """Network of a run, where its isolation can choose."""

    HOST = "host"
    """Network of the machine; for a container the one that podman gives it."""
    NONE = "none"
    """No network but a loopback of its own."""


class PullPolicy(StrEnum):
    """Condition for fetching the image of a container from its registry."""

    NEVER = "never"
    MISSING = "missing"
    """Fetch if the machine doesn't have it."""
    ALWAYS = "always"


class Home(StrEnum):
    """Home folder of an isolated run."""

    ATTEMPT = "attempt"
    """A folder of the attempt's own, removed when the attempt has ended."""
    WORKFLOW = "workflow"
    """A folder that all runs of the workflow share, except those of code from forks."""


CHOOSES_NETWORK = frozenset({Isolation.BUBBLEWRAP, Isolation.CONTAINER})
"""Isolations that can run without a network."""

_DENIALS: Final = (
    *("permission denied", "operation not permitted", "read-only file system"),
    *("accessdeniedexception", "no new privileges"),
)
"""Messages of programs about a denied access, in lower case: EACCES, EPERM and EROFS (errno(3)), Java, sudo."""


def denial(isolation: Isolation, output: str) -> str:
    """Return the message in an output about a denied access, where an isolation may be why; else an empty text."""
    if isolation is Isolation.NONE:
        return ""
    said = output.lower()
    return next((message for message in _DENIALS if message in said), "")

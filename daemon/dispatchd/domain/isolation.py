"""Isolation of runs: the walls, networks and homes that a workflow can choose."""

from enum import StrEnum


class Isolation(StrEnum):
    """Wall between a run and the rest of the machine."""

    SANDBOX = "sandbox"
    """The kernel's wall around each process of it: Landlock, a filter of system calls, no new privileges."""
    BUBBLEWRAP = "bubblewrap"
    """Namespaces of its own, made by bwrap(1): other files and processes aren't there at all."""
    CONTAINER = "container"
    """A container of an image, run by podman(1)."""
    NONE = "none"
    """Nothing: it may do whatever the daemon's user may."""


class Network(StrEnum):
    """Network of a run, where its isolation can choose."""

    HOST = "host"
    """That of the machine; for a container the one that podman gives it."""
    NONE = "none"
    """None but a loopback of its own."""


class PullPolicy(StrEnum):
    """When the image of a container is fetched from its registry."""

    NEVER = "never"
    MISSING = "missing"
    """When the machine doesn't have it."""
    ALWAYS = "always"


class Home(StrEnum):
    """Home folder of an isolated run."""

    ATTEMPT = "attempt"
    """A folder of the attempt's own, removed when it has ended."""
    WORKFLOW = "workflow"
    """A folder that all runs of the workflow share, but those of code from forks."""


CHOOSES_NETWORK = frozenset({Isolation.BUBBLEWRAP, Isolation.CONTAINER})
"""The isolations that can take the network away."""

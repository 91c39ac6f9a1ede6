"""A thing that a job may ask for, as the machine's owner configured it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

DEFAULT_KILL_GRACE_S: Final = 10.0
"""Seconds between SIGTERM and SIGKILL where nothing else is configured."""


@frozen(kw_only=True)
class Workflow:
    """What a workflow runs, and within which limits.

    `command` is the argument vector, its first item an absolute path. `env` is set in the child
    beside what the job gives. `max_duration_s` and `kill_grace_s` are seconds; `max_retries` counts
    the attempts after the first, used by retry-safe failures only.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    max_duration_s: float
    kill_grace_s: float
    max_retries: int

    @property
    def program(self) -> Path:
        """The file that is executed."""
        return Path(self.command[0])

"""Port for engines of third parties: four calls, from which the daemon makes attempts that start at most once.

A package names its class by an entry point of the group `dispatchd.engines`; the entry point's name is the `kind` of
engines in the configuration. The class has an attribute `Settings`, an attrs class for the table
`[engines.NAME.settings]`, and is called with one of these. docs/engines.md has an example (your own engine).

The engine executes a script that the daemon writes. The script decides by a file whether its attempt begins, runs the
command in a session of its own, ends it at SIGTERM, and leaves its exit code. So an engine has three duties: execute a
script once, say how it is, and signal it.
"""

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from dispatchd.errors import EngineRefused, EngineSilent

__all__ = ["EngineKind", "EngineRefused", "EngineSilent", "Executor", "Found", "State"]


class State(StrEnum):
    """State of a script at its engine."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    """The engine does nothing more for it. A script that still runs is ended, and its attempt is lost."""


@frozen(kw_only=True)
class Found:
    """News of a script.

    `code` is its exit code as a POSIX shell reports it (128 + n for signal n), where it has ended and the engine knows
    that: one that learns it later says that the script runs until then. `words` is its state in the engine's own words,
    for people; `where` is the node or the worker that has it; `reason` says why it waits, or how it ended.
    `is_stopped` is true if it ended because somebody stopped it, `is_given_up` if the engine has lost sight of it, so
    that it may still run.
    """

    state: State
    code: int | None = None
    words: str = ""
    where: str = ""
    reason: str = ""
    is_stopped: bool = False
    is_given_up: bool = False


class Executor(Protocol):
    """One engine of the configuration.

    A call that raises EngineSilent says that nobody knows what came of it, and one that raises EngineRefused that
    nothing came of it. Any other exception counts as EngineSilent, and so does a call that takes more than 20 seconds,
    which is cancelled, and left behind if it continues. Calls may be concurrent; they run in a thread of the engine's own,
    with an asyncio event loop. An engine outlives the daemon: no state that matters is in its process.
    """

    async def submit(self, name: str, script: Path) -> None:
        """Have `/bin/sh SCRIPT` executed, as the daemon's user, under a name that no other start has.

        It may be repeated where an answer was lost, and then executes nothing more. Whatever executes the script must
        see it under this path. Output goes nowhere: the script has files for it.
        """
        ...

    async def find(self, name: str) -> Found | None:
        """Return the news of a script; None if the engine itself says that it knows none of this name."""
        ...

    async def stop(self, name: str) -> None:
        """Take a script out of the queue, or send it SIGTERM if it runs. May be repeated.

        EngineRefused says that there is nothing to stop. The end is `find`'s to say.
        """
        ...

    async def names(self, prefix: str) -> Collection[str]:
        """Return the names, with a beginning, of all scripts that wait or run."""
        ...


class EngineKind(Protocol):
    """Content of an entry point: a class."""

    @property
    def Settings(self) -> type:  # noqa: N802  # it is a class
        """An attrs class. Its attributes have the types of TOML's values; mistakes are raised as ValueError."""
        ...

    def __call__(self, settings: Any, /) -> Executor:  # noqa: ANN401  # an instance of Settings
        """Return the engine with its settings. It is called at the start of the daemon, in its main thread, and asks nobody."""
        ...

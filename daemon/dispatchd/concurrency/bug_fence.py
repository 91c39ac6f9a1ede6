"""The bug fence: the only place that catches every exception, so that a bug ends nothing else.

Each loop of the daemon and of the hub runs its rounds in here. A round that raises is logged as a bug with its
context, counted, and repeated with back-off. Until a round works again, the loop is listed in `failing`.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random, SystemRandom
from typing import Never

import anyio
import structlog
from attrs import define, field

from dispatchd.concurrency.retry import Retry
from dispatchd.protocol.backoff import CAP_S


@define
class Containment:
    """The outcome of a fenced block: `bug` is the type of the exception that it raised; empty if it raised none."""

    bug: str = field(default="", init=False)

    def note(self, error: BaseException) -> None:
        """Record the exception that the block raised."""
        self.bug = _described(error)


@define
class BugFence:
    """Contains the bugs of one program. All of its loops share one object."""

    random: Random = field(factory=SystemRandom)
    """Draws the jitter of pauses, after bugs and elsewhere."""
    failing: dict[str, str] = field(factory=dict, init=False)
    """Loops and items in back-off after a bug, by name such as `prune` or `report job-1`, with the type of its exception."""
    met: Counter[str] = field(factory=Counter, init=False)
    """Bugs so far, by loop (count)."""

    async def rounds(
        self,
        loop: str,
        act: Callable[[], Awaitable[None]],
        *,
        on_pause: Callable[[float], None] | None = None,
        longest_s: float = CAP_S,
    ) -> Never:
        """Run the rounds of a loop until cancelled.

        A round that has done its work and waits for more, for however long, calls `worked` first.

        Args:
            loop: The loop's name.
            act: One round; it waits for the work of the next one.
            on_pause: Called with the length of a pause (seconds) before it begins.
            longest_s: Longest pause after a bug (seconds).
        """
        while True:
            await self.complete(loop, act, on_pause=on_pause, longest_s=longest_s)

    async def complete(
        self,
        loop: str,
        act: Callable[[], Awaitable[None]],
        *,
        item: str = "",
        on_pause: Callable[[float], None] | None = None,
        longest_s: float = CAP_S,
    ) -> None:
        """Complete one action: repeat it with back-off while it raises.

        Args:
            loop: The name of the loop that it belongs to.
            act: The action.
            item: The subject of the action, such as a job's id; empty for a round of the loop itself.
            on_pause: Called with the length of a pause (seconds) before it begins.
            longest_s: Longest pause after a bug (seconds).
        """
        retry = Retry(self.random, cap_s=longest_s)
        try:
            while not await self._works(loop, act, item):
                delay_s = retry.failed()
                if on_pause is not None:
                    on_pause(delay_s)
                await anyio.sleep(delay_s)
        finally:
            self.worked(loop, item)

    @contextmanager
    def contained(
        self,
        loop: str,
        about: Mapping[str, object] | None = None,
        *,
        passing: tuple[type[Exception], ...] = (),
    ) -> Iterator[Containment]:
        """Log an exception in a block as a bug, and continue behind the block.

        Args:
            loop: The name of the loop that the block belongs to.
            about: The subject of the block, such as a job's id, as keys for the log.
            passing: Exceptions that the block raises on purpose; they are no bugs, and pass.
        """
        containment = Containment()
        try:
            yield containment
        except passing:
            raise
        except Exception as error:  # the fence
            containment.note(error)
            self.met[loop] += 1
            log = structlog.get_logger()
            log.exception("bug_contained", **{"loop": loop, **(about or {})})

    @contextmanager
    def named(self, loop: str, item: str = "") -> Iterator[Containment]:
        """Contain a bug like `contained`, and list the loop in `failing` until such a block works again."""
        with self.contained(loop, {"item": item} if item else None) as containment:
            yield containment
        if containment.bug:
            self.failing[_name(loop, item)] = containment.bug
        else:
            self.worked(loop, item)

    def worked(self, loop: str, item: str = "") -> None:
        """Remove a name from `failing`: its work is done, or is not tried any more."""
        self.failing.pop(_name(loop, item), None)

    @property
    def messages(self) -> list[str]:
        """Current failures, one sentence each."""
        return [
            f"{name} has met a bug and is tried again; the log has details ({bug})"
            for name, bug in sorted(self.failing.items())
        ]

    async def _works(
        self, loop: str, act: Callable[[], Awaitable[None]], item: str
    ) -> bool:
        with self.named(loop, item) as containment:
            await act()
        return not containment.bug


def _name(loop: str, item: str) -> str:
    return f"{loop} {item}".rstrip()


def _described(error: BaseException) -> str:
    """Return the type of an exception. Its text may hold secrets: it is only in the log, which is scrubbed."""
    # The first leaf of a group: the exception of a task of the round.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__

"""Guard around an engine of a third party: whatever goes wrong in it is silence, and ends nothing else."""

from collections.abc import Awaitable, Callable, Collection
from math import inf
from pathlib import Path
from typing import Final, TypeVar

import anyio
from attrs import evolve, frozen

from dispatchd.agent.engines.port import Executor, Found, State
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.protocol.times import duration

T = TypeVar("T")

_WITHIN_S: Final = 20.0
"""Longest time of one call (seconds)."""

_QUOTED: Final = 200
"""Longest part of a message that is quoted (characters)."""

_CODES: Final = range(256)


def said(error: BaseException) -> str:
    """Return an exception in one line."""
    return f"{type(error).__name__}: {quoted(str(error))}".removesuffix(": ")


def quoted(text: str) -> str:
    """Return the beginning of a text in one line."""
    return " ".join(text.split())[:_QUOTED]


@frozen
class Guarded:
    """An engine of a third party. Implements `port.Executor`, and raises EngineSilent and EngineRefused alone."""

    _executor: Executor
    _kind: str

    async def submit(self, name: str, script: Path) -> None:
        """Have a script executed."""
        await self._carried("submit", lambda: self._executor.submit(name, script))

    async def find(self, name: str) -> Found | None:
        """Return the news of a script; None if the engine knows none of this name."""
        found: object = await self._carried("find", lambda: self._executor.find(name))
        if found is None:
            return None
        if not isinstance(found, Found):
            raise self._nonsense("find", found)
        is_code = found.code is None or (
            type(found.code) is int and found.code in _CODES
        )
        texts = (found.words, found.where, found.reason)
        is_text = all(isinstance(each, str) for each in texts)
        if found.state not in set(State) or not is_code or not is_text:
            raise self._nonsense("find", found)
        return evolve(
            found,
            words=quoted(found.words),
            where=quoted(found.where),
            reason=quoted(found.reason),
        )

    async def stop(self, name: str) -> None:
        """Order the end of a script."""
        await self._carried("stop", lambda: self._executor.stop(name))

    async def names(self, prefix: str) -> Collection[str]:
        """Return the names of all scripts that wait or run."""
        names: object = await self._carried(
            "names", lambda: self._executor.names(prefix)
        )
        if not isinstance(names, list | tuple | set | frozenset):
            raise self._nonsense("names", names)
        return [
            each for each in names if isinstance(each, str) and each.startswith(prefix)
        ]

    async def _carried(self, call: str, carried: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a call.

        Raises:
            EngineSilent: It took too long, or raised.
            EngineRefused: It refused.
        """
        about = f"{call} of the engine {self._kind}"
        try:
            with anyio.fail_after(_WITHIN_S):
                return await _own_end(carried)
        except (EngineSilent, EngineRefused):
            raise
        except TimeoutError as error:
            message = f"{about} took more than {duration(_WITHIN_S)}"
            raise EngineSilent(message) from error
        except (Exception, SystemExit) as error:
            message = f"{about} raised {said(error)}"
            raise EngineSilent(message) from error

    def _nonsense(self, call: str, answer: object) -> EngineSilent:
        return EngineSilent(
            f"{call} of the engine {self._kind} returned {answer!r:.60}"
        )


async def _own_end(carried: Callable[[], Awaitable[T]]) -> T:
    """Return the answer to a call.

    Raises:
        EngineSilent: It ended as if it had been cancelled, and nobody has cancelled it.
    """
    try:
        return await carried()
    except anyio.get_cancelled_exc_class() as error:
        if anyio.current_effective_deadline() == -inf:
            raise
        message = "a call was cancelled within the engine"
        raise EngineSilent(message) from error


class Gone:
    """Stands in for an engine that is no longer configured: it knows nothing. Implements `port.Executor`."""

    async def submit(self, _name: str, _script: Path) -> None:
        """Refuse a script.

        Raises:
            EngineRefused: Always.
        """
        raise _REFUSED

    async def find(self, _name: str) -> Found | None:
        """Know nothing."""
        return None

    async def stop(self, _name: str) -> None:
        """Refuse an order; scripts end by their own files.

        Raises:
            EngineRefused: Always.
        """
        raise _REFUSED

    async def names(self, _prefix: str) -> Collection[str]:
        """Know nothing."""
        return ()


_REFUSED: Final = EngineRefused("it is no longer configured")

"""Guard around an engine of a third party: whatever goes wrong in it is silence, and ends nothing else."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from dispatchd.agent.engines.plugin.own_loop import OwnLoop
from dispatchd.agent.engines.plugin.texts import quoted, shown
from dispatchd.agent.engines.port import Executor, Found, State
from dispatchd.errors import EngineRefused, EngineSilent

_WITHIN_S: Final = 20.0
"""Longest time of one call (seconds)."""

_CODES: Final = range(256)


@frozen
class Guarded:
    """An engine of a third party. Implements `port.Executor`, and raises EngineSilent and EngineRefused alone.

    Calls are carried out in a thread of its own, where their answers are checked, and copied into objects of ours.
    """

    _executor: Executor
    _kind: str
    _within_s: float = _WITHIN_S
    _loop: OwnLoop = field(init=False)

    @_loop.default
    def _new_loop(self) -> OwnLoop:
        return OwnLoop(self._kind)

    async def submit(self, name: str, script: Path) -> None:
        """Have a script executed."""

        async def carried() -> None:
            await self._executor.submit(name, script)

        await self._loop.run("submit", carried, within_s=self._within_s)

    async def find(self, name: str) -> Found | None:
        """Return the news of a script; None if the engine knows none of this name."""

        async def carried() -> Found | None:
            found: object = await self._executor.find(name)
            try:
                return None if found is None else _copied(found)
            except _ODD as error:
                raise self._nonsense("find", found) from error

        return await self._loop.run("find", carried, within_s=self._within_s)

    async def stop(self, name: str) -> None:
        """Order the end of a script."""

        async def carried() -> None:
            await self._executor.stop(name)

        await self._loop.run("stop", carried, within_s=self._within_s)

    async def names(self, prefix: str) -> Collection[str]:
        """Return the names of all scripts that wait or run."""

        async def carried() -> frozenset[str]:
            names: object = await self._executor.names(prefix)
            if not isinstance(names, list | tuple | set | frozenset):
                raise self._nonsense("names", names)
            ours = (str.__str__(each) for each in names if isinstance(each, str))
            return frozenset(each for each in ours if each.startswith(prefix))

        return await self._loop.run("names", carried, within_s=self._within_s)

    def _nonsense(self, call: str, answer: object) -> EngineSilent:
        return EngineSilent(
            f"{call} of the engine {self._kind} returned {shown(answer)}"
        )


_ODD: Final = (TypeError, ValueError, AttributeError)


def _copied(found: object) -> Found:
    """Return a checked copy of an engine's answer.

    Raises:
        TypeError: It, or a part of it, is something else.
        ValueError: A part of it has a value that there isn't.
    """
    if not isinstance(found, Found):
        raise TypeError
    code = found.code
    if code is not None and (type(code) is not int or code not in _CODES):
        raise ValueError
    return Found(
        # From its text as well, because who writes "ended" means that.
        state=State(found.state),
        code=code,
        words=quoted(found.words),
        where=quoted(found.where),
        reason=quoted(found.reason),
        is_stopped=_is_true(found.is_stopped),
        is_given_up=_is_true(found.is_given_up),
    )


def _is_true(flag: Any) -> bool:  # noqa: ANN401  # nobody has checked it
    if type(flag) is not bool:
        raise TypeError
    return flag


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

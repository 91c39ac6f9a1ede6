"""Listings: one squeue(1) for all jobs of this machine, shared by everybody who waits for news of one.

Whoever waits first asks; the others get the same answer. Nothing asks while nobody waits.
"""

import os
from collections.abc import Callable, Mapping
from typing import Final

import anyio
from attrs import define, field, frozen

from dispatchd.agent.engines.slurm.commands import Commands
from dispatchd.agent.engines.slurm.states import FORMAT, Row, parsed
from dispatchd.agent.engines.starts import PREFIX
from dispatchd.errors import EngineRefused, EngineSilent

_YOUNG_S: Final = 300.0
"""Time after a start in which questions come fastest (seconds)."""

_RECENT_S: Final = 3600.0
"""Time after a start in which questions come at half of the longest distance (seconds)."""

_SOON_S: Final = 1.0
"""Shortest time between two questions, also for somebody in a hurry (seconds)."""


@frozen(kw_only=True)
class Listing:
    """Jobs with a prefix of ours, as the controller knew them; or the reason why it didn't answer."""

    asked_at: float
    rows: Mapping[str, tuple[Row, ...]] = field(factory=dict)
    silence: str = ""

    def row(self, name: str, job_id: int) -> Row | None:
        """Return a job; None if the controller doesn't know it."""
        rows = self.rows.get(name, ())
        return next(
            (row for row in rows if row.job_id == job_id), rows[0] if rows else None
        )


@define
class Listings:
    """Asks for listings: every `poll_s` seconds, three times as rarely after 5 minutes without a start, then six times."""

    _commands: Commands
    _poll_s: float
    _now: Callable[[], float]
    _last: Listing = field(init=False)
    _started_at: float = field(init=False)
    _hurry: anyio.Event = field(factory=anyio.Event, init=False)
    _lock: anyio.Lock = field(factory=anyio.Lock, init=False)

    @_last.default
    def _none_yet(self) -> Listing:
        return Listing(asked_at=float("-inf"))

    @_started_at.default
    def _start(self) -> float:
        return self._now()

    def note_start(self) -> None:
        """Note that an attempt was started, or is being ended: news of it is due soon."""
        self._started_at = self._now()
        self._hurry.set()
        self._hurry = anyio.Event()

    async def newer(self, than: float, *, at_once: bool = False) -> Listing:
        """Return a listing that was asked for after a moment (seconds of the clock), when it is time for one."""
        async with self._lock:
            while self._last.asked_at <= than:
                left_s = self._due_s(at_once=at_once)
                if left_s <= 0:
                    self._last = await self.ask()
                    break
                hurry = self._hurry
                with anyio.move_on_after(left_s):
                    await hurry.wait()
                    at_once = True
            return self._last

    async def ask(self) -> Listing:
        """Ask the controller now."""
        asked_at = self._now()
        user = str(os.getuid())
        try:
            text = await self._commands.run(
                *("squeue", "-h", "-a", "-t", "all", "-u", user, "-O", FORMAT)
            )
            rows: dict[str, tuple[Row, ...]] = {}
            for row in parsed(text, PREFIX):
                rows[row.name] = (*rows.get(row.name, ()), row)
        except (EngineSilent, EngineRefused, ValueError) as error:
            return Listing(asked_at=asked_at, silence=str(error))
        return Listing(asked_at=asked_at, rows=rows)

    def _due_s(self, *, at_once: bool) -> float:
        """Return the time until the next question (seconds)."""
        now = self._now()
        quiet_s = now - self._started_at
        times = 1 if quiet_s < _YOUNG_S else 3 if quiet_s < _RECENT_S else 6
        distance_s = _SOON_S if at_once else self._poll_s * times
        return self._last.asked_at + distance_s - now

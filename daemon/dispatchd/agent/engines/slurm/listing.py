"""Listings: one squeue(1) for all jobs of this machine, shared by everybody who waits for news of one.

One of those who wait asks, and wakes those for whom there is news: a thousand jobs that all wait cost little more than
one. Nothing asks while nobody waits.
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

_RAREST: Final = 6.0
"""Longest time between two questions, as a multiple of the shortest (count)."""

_PART: Final = 4.0
"""Divisor: the time between two questions is that since the last start, divided by this (count)."""

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


def distance(poll_s: float, quiet_s: float) -> float:
    """Return the time between two questions (seconds), by the shortest one and the time since the last start."""
    return min(max(poll_s, quiet_s / _PART), _RAREST * poll_s)


@define(eq=False)
class _Waiter:
    """Somebody who waits for news of a job, from after a moment (seconds of the clock)."""

    name: str
    job_id: int
    known: Row | None
    than: float
    woken: anyio.Event = field(factory=anyio.Event)

    def is_concerned(self, listing: Listing) -> bool:
        """Return whether a listing has news, or a job in it that isn't simply in its queue or on its node."""
        if listing.asked_at <= self.than:
            return False
        row = listing.row(self.name, self.job_id)
        return row is None or row.is_held or row.is_final or row != self.known


@define
class Listings:
    """Asks for listings: `poll_s` seconds after a start, then ever more rarely, up to six times as long."""

    _commands: Commands
    _poll_s: float
    _now: Callable[[], float]
    _last: Listing = field(init=False)
    _lines: dict[str, Row] = field(factory=dict, init=False)
    """Jobs of the last listing by their lines, most of which come again."""
    _started_at: float = field(init=False)
    _urgent_at: float = field(default=float("-inf"), init=False)
    _rung: anyio.Event = field(factory=anyio.Event, init=False)
    _waiters: dict[_Waiter, None] = field(factory=dict, init=False)
    _asker: _Waiter | None = field(default=None, init=False)

    @_last.default
    def _none_yet(self) -> Listing:
        return Listing(asked_at=float("-inf"))

    @_started_at.default
    def _start(self) -> float:
        return self._now()

    def note_start(self) -> None:
        """Note that an attempt was started: news of it comes soon."""
        self._started_at = self._now()
        self._ring()

    def hurry(self) -> None:
        """Note that somebody can't wait, as an attempt is being ended."""
        self._urgent_at = self._now()
        self.note_start()

    async def news(
        self, name: str, job_id: int, known: Row | None, than: float
    ) -> Listing:
        """Return a listing that was asked for after a moment, and in which a job needs a look.

        Args:
            name: Name of the job.
            job_id: Its number.
            known: Its newest row.
            than: The moment (seconds of the clock).
        """
        waiter = _Waiter(name, job_id, known, than)
        self._waiters[waiter] = None
        try:
            while not waiter.is_concerned(self._last):
                if self._asker is None:
                    self._asker = waiter
                if self._asker is waiter:
                    await self._ask_when_due()
                else:
                    await waiter.woken.wait()
                    waiter.woken = anyio.Event()
            return self._last
        finally:
            del self._waiters[waiter]
            if self._asker is waiter:
                self._asker = next(iter(self._waiters), None)
                if self._asker is not None:
                    self._asker.woken.set()

    async def _ask_when_due(self) -> None:
        while (left_s := self._due_s()) > 0:
            rung = self._rung
            with anyio.move_on_after(left_s):
                await rung.wait()
        self._last = await self.ask()
        for waiter in self._waiters:
            if waiter.is_concerned(self._last):
                waiter.woken.set()

    async def ask(self) -> Listing:
        """Ask the controller now."""
        asked_at = self._now()
        user = str(os.getuid())
        try:
            text = await self._commands.run(
                *("squeue", "-h", "-a", "-t", "all", "-u", user, "-O", FORMAT)
            )
            self._lines = parsed(text, PREFIX, self._lines)
        except (EngineSilent, EngineRefused, ValueError) as error:
            return Listing(asked_at=asked_at, silence=str(error))
        rows: dict[str, tuple[Row, ...]] = {}
        for row in self._lines.values():
            rows[row.name] = (*rows.get(row.name, ()), row)
        return Listing(asked_at=asked_at, rows=rows)

    def _due_s(self) -> float:
        """Return the time until the next question (seconds)."""
        asked_at = self._last.asked_at
        if asked_at <= self._urgent_at:
            distance_s = _SOON_S
        else:
            distance_s = distance(self._poll_s, asked_at - self._started_at)
        return asked_at + distance_s - self._now()

    def _ring(self) -> None:
        self._rung.set()
        self._rung = anyio.Event()

"""Listings: one squeue(1) for all jobs of this machine, shared by everybody who waits for news of one.

One of those who wait asks, and wakes those for whom there is news. Jobs in the cluster's queue are rows of a listing, and
one caller waits for all of them. Nothing asks while nobody waits.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
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

_PART_OF_QUEUE: Final = 2.0
"""The same while all jobs wait in the queue: limits count from the beginning, whenever that is seen."""

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


def distance(poll_s: float, quiet_s: float, *, all_wait: bool = False) -> float:
    """Return the time between two questions (seconds), by the shortest one and the time since the last start."""
    part = _PART_OF_QUEUE if all_wait else _PART
    return min(max(poll_s, quiet_s / part), _RAREST * poll_s)


@define(eq=False)
class _Waiter:
    """Somebody who waits for a listing of a kind."""

    is_concerned: Callable[[Listing], bool]
    in_queue: bool = False
    """True if it waits for jobs in the cluster's queue alone."""
    woken: anyio.Event = field(factory=anyio.Event)


def _has_news(
    name: str, job_id: int, known: Row | None, than: float, listing: Listing
) -> bool:
    """Return whether a listing has news of a job, or the job in it isn't simply in its queue or on its node."""
    if listing.asked_at <= than:
        return False
    row = listing.row(name, job_id)
    return row is None or row.is_held or row.is_final or row != known


@define
class Listings:
    """Asks for listings: `poll_s` seconds after a start, then ever more rarely, up to six times as long."""

    _commands: Commands
    _poll_s: float
    _now: Callable[[], float]
    last: Listing = field(init=False)
    """The newest listing that somebody waited for."""
    _text: str = field(default="", init=False)
    """The last listing as squeue(1) printed it; mostly it comes again."""
    _lines: dict[str, Row] = field(factory=dict, init=False)
    """Jobs of the last listing by their lines, most of which come again."""
    _rows: Mapping[str, tuple[Row, ...]] = field(factory=dict, init=False)
    _started_at: float = field(init=False)
    _urgent_at: float = field(default=float("-inf"), init=False)
    _rung: anyio.Event = field(factory=anyio.Event, init=False)
    _waiters: dict[_Waiter, None] = field(factory=dict, init=False)
    _asker: _Waiter | None = field(default=None, init=False)

    @last.default
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
        # Whoever asks for jobs in the queue alone does so more rarely.
        self._ring()
        concern = partial(_has_news, name, job_id, known, than)
        return await self._until(_Waiter(concern))

    async def after(self, than: float) -> Listing:
        """Return a listing that was asked for after a moment (seconds of the clock), for jobs in the queue."""
        is_later = _Waiter(lambda listing: listing.asked_at > than, in_queue=True)
        return await self._until(is_later)

    async def _until(self, waiter: _Waiter) -> Listing:
        self._waiters[waiter] = None
        try:
            while not waiter.is_concerned(self.last):
                if self._asker is None:
                    self._asker = waiter
                if self._asker is waiter:
                    await self._ask_when_due()
                else:
                    await waiter.woken.wait()
                    waiter.woken = anyio.Event()
            return self.last
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
        self.last = await self.ask()
        for waiter in self._waiters:
            if waiter.is_concerned(self.last):
                waiter.woken.set()

    async def ask(self) -> Listing:
        """Ask the controller now."""
        asked_at = self._now()
        user = str(os.getuid())
        try:
            text = await self._commands.run(
                *("squeue", "-h", "-a", "-t", "all", "-u", user, "-O", FORMAT)
            )
            if text != self._text:
                self._read(text)
        except (EngineSilent, EngineRefused, ValueError) as error:
            return Listing(asked_at=asked_at, silence=str(error))
        return Listing(asked_at=asked_at, rows=self._rows)

    def _read(self, text: str) -> None:
        self._lines = parsed(text, PREFIX, self._lines)
        rows: dict[str, tuple[Row, ...]] = {}
        for row in self._lines.values():
            rows[row.name] = (*rows.get(row.name, ()), row)
        self._rows, self._text = rows, text

    def _due_s(self) -> float:
        """Return the time until the next question (seconds)."""
        asked_at = self.last.asked_at
        if asked_at <= self._urgent_at:
            distance_s = _SOON_S
        else:
            quiet_s = asked_at - self._started_at
            all_wait = all(waiter.in_queue for waiter in self._waiters)
            distance_s = distance(self._poll_s, quiet_s, all_wait=all_wait)
        return asked_at + distance_s - self._now()

    def _ring(self) -> None:
        self._rung.set()
        self._rung = anyio.Event()

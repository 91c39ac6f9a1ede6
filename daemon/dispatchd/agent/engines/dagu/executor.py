"""Runs of one DAG of one server, as an `Executor`: an id of ours is enqueued, and nothing else.

Dagu 1.30 takes a run out of its queue before a worker has it. If that worker dies before it has written anything, the
run is in no queue, says `queued` for ever, and can't be dequeued: it is one that Dagu doesn't know any more. To be wrong
about that is harmless, since whoever takes the claim decides whether such a run ever begins.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Self

import anyio
from attrs import define, field

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.dagu.client import Client
from dispatchd.agent.engines.port import Found
from dispatchd.agent.engines.submitted.ends import Words
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.linux.clock import MachineTime, TimeSource

WORDS: Final = Words(
    engine="Dagu",
    execution="Dagu run",
    controller="its server",
    unfound="does its DAG set another one?",
    unbegun=" Does its DAG run it?",
)


_LOST_AFTER_S: Final = 60.0
"""Time in which a run that waits is in no queue, after which nobody has it (seconds)."""

_LISTED_FOR_S: Final = 10.0
"""Time for which a list of the queue serves all runs that wait (seconds)."""


@define
class DaguExecutor:
    """One DAG. Its only step executes the script of the run, whose place it knows by the run's id."""

    client: Client
    dag: str
    _time: TimeSource = field(factory=MachineTime)
    _unqueued: dict[str, float] = field(factory=dict, init=False)
    """Times since which runs that wait are in no queue, by their ids (seconds)."""
    _queue: frozenset[str] | None = field(default=None, init=False)
    _listed_at: float | None = field(default=None, init=False)
    _listing: anyio.Lock = field(factory=anyio.Lock, init=False)

    @classmethod
    def of(
        cls, entry: EngineEntry, config_folder: Path, environment: Mapping[str, str]
    ) -> Self:
        """Return the DAG of an engine of the configuration, which is in a folder."""
        key_file = config_folder / entry.key_file if entry.key_file else None
        return cls(Client(entry.url, key_file, environment), entry.dag)

    async def submit(self, name: str, _script: Path) -> None:
        """Enqueue a run."""
        await self.client.enqueue(self.dag, name)

    async def find(self, name: str) -> Found | None:
        """Return a run; None if the server says that it knows none, or has lost it."""
        run = await self.client.find(self.dag, name)
        if run is None or not run.is_waiting:
            self._unqueued.pop(name, None)
            return None if run is None else run.found()
        return None if await self._is_lost(name) else run.found()

    async def _is_lost(self, name: str) -> bool:
        """Return whether a run that waits has been in no queue for too long."""
        async with self._listing:
            now = self._time.monotonic()
            if self._listed_at is None or now - self._listed_at >= _LISTED_FOR_S:
                self._listed_at = now
                try:
                    self._queue = await self.client.queued(self.dag)
                except (EngineSilent, EngineRefused):
                    self._queue = None
        if self._queue is None:
            return False
        if name in self._queue:
            self._unqueued.pop(name, None)
            return False
        return now - self._unqueued.setdefault(name, now) >= _LOST_AFTER_S

    async def stop(self, name: str) -> None:
        """Order the end of a run, or take it out of the queue."""
        try:
            await self.client.stop(self.dag, name)
        except EngineRefused:
            await self.client.dequeue(self.dag, name)

    async def names(self, prefix: str) -> Collection[str]:
        """Return the ids of all runs that wait or run."""
        ids = await self.client.unfinished(self.dag)
        return [each for each in ids if each.startswith(prefix)]

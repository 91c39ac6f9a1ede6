"""Runs of one DAG of one server, as an `Executor`: an id of ours is enqueued, and nothing else."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.dagu.client import Client
from dispatchd.agent.engines.port import Found
from dispatchd.agent.engines.submitted.ends import Words
from dispatchd.errors import EngineRefused

WORDS: Final = Words(
    engine="Dagu",
    execution="Dagu run",
    controller="its server",
    unfound="does its DAG set another one?",
    unbegun=" Does its DAG run it?",
)


@frozen
class DaguExecutor:
    """One DAG. Its only step executes the script of the run, whose place it knows by the run's id."""

    client: Client
    dag: str

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
        """Return a run; None if the server says that it knows none."""
        run = await self.client.find(self.dag, name)
        return None if run is None else run.found()

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

"""Engines: each attempt goes to its own, by its identity, whatever is configured by now.

Comes from the run loop, which knows one engine; goes to `local/` and, where one is configured or a record names it,
to `slurm/`, which nothing imports before.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import define, field

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.job import BatchJob, Identity, ProcessIdentity
from dispatchd.agent.domain.launch import LOCAL, Launch
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.linux.clock import MachineTime
from dispatchd.protocol.outcome import (
    Cleared,
    Exit,
    NeverStarted,
    Unreachable,
    Usage,
)

if TYPE_CHECKING:
    from dispatchd.agent.engines.slurm.engine import SlurmEngine

_GONE: Final = EngineEntry()
"""Settings of an engine that is in records, and no longer in the configuration: enough to follow its attempts."""


@define
class Engines:
    """Gives each attempt to its engine. Implements `tracking.ports.Engine`."""

    local: LocalEngine
    current: CurrentConfig
    owned: Callable[[], Iterable[BatchJob]] = field(default=tuple)
    """Returns the batch jobs of all running records."""
    _batch: dict[str, "SlurmEngine"] = field(factory=dict, init=False)

    @property
    def inherited(self) -> Mapping[str, str]:
        """Variables of the daemon's own environment that every run gets."""
        return self.local.inherited

    def batch(self, name: str) -> "SlurmEngine":
        """Return a batch engine by its name."""
        if name not in self._batch:
            from dispatchd.agent.engines.slurm.engine import SlurmEngine  # noqa: PLC0415  # costs nothing where there is none

            config = self.current.config
            self._batch[name] = SlurmEngine.of(
                name,
                config.engines.get(name, _GONE),
                config.state_folder,
                self.local,
                self._owned_names,
                MachineTime(),
            )
        return self._batch[name]

    def _owned_names(self) -> set[str]:
        return {job.name for job in self.owned()}

    async def start(
        self, launch: Launch, record: Callable[[Identity], Awaitable[None]]
    ) -> None:
        """Start an attempt on the engine that its launch names."""
        if launch.engine == LOCAL:
            await self.local.start(launch, record)
        else:
            await self.batch(launch.engine).start(launch, record)

    def weakness(self, isolation: Isolation) -> str:
        """Return the reason why an isolation doesn't protect the rest of this machine; empty if it does."""
        return self.local.weakness(isolation)

    async def recall(self, process: Identity, folder: Path) -> bool:
        """Load the secrets of an attempt that another daemon started. Return False if they are lost."""
        match process:
            case ProcessIdentity():
                return await self.local.recall(process, folder)
            case BatchJob():
                return await self.batch(process.engine).recall(process, folder)

    def forget(self, folder: Path) -> None:
        """Forget the secrets of an attempt that has been concluded, and whatever else is known of it."""
        self.local.forget(folder)
        for engine in self._batch.values():
            engine.forget(folder)

    def queue_timeout_s(self, process: Identity) -> float:
        """Return the longest time of an attempt in its engine's queue (seconds); 0 for no limit."""
        match process:
            case ProcessIdentity():
                return 0.0
            case BatchJob():
                return self.batch(process.engine).settings.queue_timeout_s

    async def permit(self, process: Identity, folder: Path, left_s: float) -> None:
        """Let an attempt that has not begun begin within a time (seconds), and not later."""
        if isinstance(process, BatchJob):
            await self.batch(process.engine).permit(process, folder, left_s)

    async def withdraw(self, process: Identity, folder: Path) -> None:
        """Take an attempt back if it has not begun."""
        if isinstance(process, BatchJob):
            await self.batch(process.engine).withdraw(process, folder)

    async def until_begun(self, process: Identity, folder: Path) -> int | None:
        """Wait until an attempt's command has begun, or it has ended."""
        match process:
            case ProcessIdentity():
                return None
            case BatchJob():
                return await self.batch(process.engine).until_begun(process, folder)

    async def observe(
        self, process: Identity, folder: Path
    ) -> Exit | NeverStarted | Unreachable:
        """Wait for the end of an attempt."""
        match process:
            case ProcessIdentity():
                return await self.local.observe(process, folder)
            case BatchJob():
                return await self.batch(process.engine).observe(process, folder)

    def describe(self, process: Identity) -> str:
        """Return where an attempt is and what it waits for, in words; empty for a process of this machine."""
        match process:
            case ProcessIdentity():
                return ""
            case BatchJob():
                return self.batch(process.engine).describe(process)

    def has_ended(self, process: Identity) -> bool:
        """Return whether an attempt has ended, observed or not."""
        match process:
            case ProcessIdentity():
                return self.local.has_ended(process)
            case BatchJob():
                return self.batch(process.engine).has_ended(process)

    async def stop(self, process: Identity, grace_s: float) -> bool:
        """End an attempt. Return whether force was needed."""
        match process:
            case ProcessIdentity():
                return await self.local.stop(process, grace_s)
            case BatchJob():
                return await self.batch(process.engine).stop(process)

    def usage(self, folder: Path) -> Usage | None:
        """Return the resources that an ended attempt used; None if they are unknown."""
        return self.local.usage(folder)

    async def clear(self, process: Identity, folder: Path) -> Cleared:
        """End everything that an attempt left behind."""
        match process:
            case ProcessIdentity():
                return await self.local.clear(process, folder)
            case BatchJob():
                return await self.batch(process.engine).clear(process, folder)

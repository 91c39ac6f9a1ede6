"""Engines: each attempt goes to its own, by its identity, whatever is configured by now.

Comes from the run loop, which knows one engine; goes to `local/` and, where one is configured or a record names it,
to `slurm/` or to `submitted/`, which executes by `dagu/` or `plugin/`. Nothing imports them before.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.keys import EngineEntry, EngineKind
from dispatchd.agent.domain.executions.identities import (
    BatchJob,
    DagRun,
    EngineRun,
    Identity,
    ProcessIdentity,
    Remote,
    Submitted,
)
from dispatchd.agent.domain.isolation import Isolation
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
    from dispatchd.agent.engines.submitted.engine import SubmittedEngine

_GONE: Final = EngineEntry()
"""Settings of an engine that is in records, and no longer in the configuration: enough to follow its attempts."""


@define
class Engines:
    """Gives each attempt to its engine. Implements `tracking.ports.Engine`."""

    local: LocalEngine
    current: CurrentConfig
    owned: Callable[[], Iterable[Remote]] = field(default=tuple)
    """Returns the identities of all running records that aren't processes of this machine's own."""
    _slurm: dict[str, "SlurmEngine"] = field(factory=dict, init=False)
    _submitted: dict[tuple[str, ...], "SubmittedEngine"] = field(
        factory=dict, init=False
    )
    """Engines by their names, their kinds, and what else tells two of a name apart."""

    @property
    def inherited(self) -> Mapping[str, str]:
        """Variables of the daemon's own environment that every run gets."""
        return self.local.inherited

    def open(self) -> None:
        """Open every engine of a third party, so that one that can't be used is known at the start.

        Raises:
            ConfigError: Its package or its settings can't be used.
        """
        for name, entry in self.current.config.engines.items():
            if entry.is_foreign:
                self.configured(name)

    def configured(self, name: str) -> "SlurmEngine | SubmittedEngine":
        """Return an engine of the configuration by its name.

        Raises:
            ConfigError: Its package or its settings can't be used.
        """
        entry = self.current.config.engines.get(name, _GONE)
        match entry.kind:
            case EngineKind.SLURM:
                return self.slurm(name)
            case EngineKind.DAGU:
                return self._dagu(name, entry)
            case kind:
                return self._foreign(name, kind)

    def slurm(self, name: str) -> "SlurmEngine":
        """Return a Slurm engine by its name."""
        if name not in self._slurm:
            from dispatchd.agent.engines.slurm.engine import SlurmEngine  # noqa: PLC0415  # costs nothing where there is none

            config = self.current.config
            entry = config.engines.get(name, _GONE)
            self._slurm[name] = SlurmEngine.of(
                name,
                entry if entry.kind == EngineKind.SLURM else _GONE,
                config.state_folder,
                self.local,
                self._owned_names,
                MachineTime(),
            )
        return self._slurm[name]

    def _dagu(self, name: str, gone: EngineEntry) -> "SubmittedEngine":
        """Return a Dagu engine by its name; `gone` are its settings where it is no longer configured."""
        entry = self.current.config.engines.get(name, gone)
        if entry.kind != EngineKind.DAGU:
            entry = gone
        # A run stays one of the DAG that it was made for.
        key = (name, EngineKind.DAGU, gone.dag)
        if key not in self._submitted:
            from dispatchd.agent.engines.dagu import opened  # noqa: PLC0415  # costs nothing where there is none

            self._submitted[key] = opened.engine(
                name,
                evolve(entry, dag=gone.dag),
                self.current.config,
                self.local,
                self._owned_names,
            )
        return self._submitted[key]

    def _foreign(self, name: str, kind: str) -> "SubmittedEngine":
        """Return an engine of a third party by its name and its entry point.

        Raises:
            ConfigError: Its package or its settings can't be used.
        """
        key = (name, kind)
        if key not in self._submitted:
            from dispatchd.agent.engines.plugin import opened  # noqa: PLC0415  # costs nothing where there is none

            self._submitted[key] = opened.engine(
                name, kind, self.current.config, self.local, self._owned_names
            )
        return self._submitted[key]

    def _of(self, run: Submitted) -> "SubmittedEngine":
        match run:
            case DagRun():
                gone = EngineEntry(kind=EngineKind.DAGU, url=run.url, dag=run.dag)
                return self._dagu(run.engine, gone)
            case EngineRun():
                return self._foreign(run.engine, run.kind)

    def _batch(self, job: BatchJob) -> "SlurmEngine":
        return self.slurm(job.engine)

    def _owned_names(self) -> set[str]:
        return {identity.name for identity in self.owned()}

    async def start(
        self, launch: Launch, record: Callable[[Identity], Awaitable[None]]
    ) -> None:
        """Start an attempt on the engine that its launch names."""
        if launch.engine == LOCAL:
            await self.local.start(launch, record)
        else:
            await self.configured(launch.engine).start(launch, record)

    def weakness(self, isolation: Isolation) -> str:
        """Return the reason why an isolation doesn't protect the rest of this machine; empty if it does."""
        return self.local.weakness(isolation)

    async def recall(self, process: Identity, folder: Path) -> bool:
        """Load the secrets of an attempt that another daemon started. Return False if they are lost."""
        match process:
            case ProcessIdentity():
                return await self.local.recall(process, folder)
            case BatchJob():
                return await self._batch(process).recall(process, folder)
            case DagRun() | EngineRun():
                return await self._of(process).recall(process, folder)

    def forget(self, folder: Path) -> None:
        """Forget the secrets of an attempt that has been concluded, and whatever else is known of it."""
        self.local.forget(folder)
        for slurm in self._slurm.values():
            slurm.forget(folder)
        for submitted in self._submitted.values():
            submitted.forget(folder)

    def queue_timeout_s(self, process: Identity) -> float:
        """Return the longest time of an attempt in its engine's queue (seconds); 0 for no limit."""
        match process:
            case ProcessIdentity():
                return 0.0
            case BatchJob():
                return self._batch(process).settings.queue_timeout_s
            case DagRun() | EngineRun():
                return self._of(process).queue_timeout_s

    async def permit(self, process: Identity, folder: Path, left_s: float) -> None:
        """Let an attempt that has not begun begin within a time (seconds), and not later."""
        match process:
            case ProcessIdentity():
                pass
            case BatchJob():
                await self._batch(process).permit(process, folder, left_s)
            case DagRun() | EngineRun():
                await self._of(process).permit(process, folder, left_s)

    async def withdraw(self, process: Identity, folder: Path) -> bool:
        """Take an attempt back if it has not begun; return whether it never will."""
        match process:
            case ProcessIdentity():
                return False
            case BatchJob():
                return await self._batch(process).withdraw(process, folder)
            case DagRun() | EngineRun():
                return await self._of(process).withdraw(process, folder)

    async def has_begun(self, process: Identity, folder: Path) -> bool:
        """Return whether an attempt has begun, or nobody can tell now."""
        match process:
            case ProcessIdentity():
                return True
            case BatchJob():
                return await self._batch(process).has_begun(process, folder)
            case DagRun() | EngineRun():
                return await self._of(process).has_begun(process, folder)

    def waits(self, process: Identity) -> bool:
        """Return whether an attempt waits in the queue of an engine that tells of all of them at once."""
        return isinstance(process, BatchJob) and self._batch(process).waits(process)

    async def until_told(self, engine: str) -> None:
        """Wait until such an engine has said something new about its queue."""
        await self.slurm(engine).until_told()

    async def until_begun(self, process: Identity, folder: Path) -> int | None:
        """Wait until an attempt's command has begun, or it has ended."""
        match process:
            case ProcessIdentity():
                return None
            case BatchJob():
                return await self._batch(process).until_begun(process, folder)
            case DagRun() | EngineRun():
                return await self._of(process).until_begun(process, folder)

    async def observe(
        self, process: Identity, folder: Path
    ) -> Exit | NeverStarted | Unreachable:
        """Wait for the end of an attempt."""
        match process:
            case ProcessIdentity():
                return await self.local.observe(process, folder)
            case BatchJob():
                return await self._batch(process).observe(process, folder)
            case DagRun() | EngineRun():
                return await self._of(process).observe(process, folder)

    def describe(self, process: Identity) -> str:
        """Return where an attempt is and what it waits for, in words; empty for a process of this machine."""
        match process:
            case ProcessIdentity():
                return ""
            case BatchJob():
                return self._batch(process).describe(process)
            case DagRun() | EngineRun():
                return self._of(process).describe(process)

    def has_ended(self, process: Identity) -> bool:
        """Return whether an attempt has ended, observed or not."""
        match process:
            case ProcessIdentity():
                return self.local.has_ended(process)
            case BatchJob():
                return self._batch(process).has_ended(process)
            case DagRun() | EngineRun():
                return self._of(process).has_ended(process)

    async def stop(self, process: Identity, grace_s: float) -> bool:
        """End an attempt. Return whether force was needed."""
        match process:
            case ProcessIdentity():
                return await self.local.stop(process, grace_s)
            case BatchJob():
                return await self._batch(process).stop(process)
            case DagRun() | EngineRun():
                return await self._of(process).stop(process, grace_s)

    def usage(self, folder: Path) -> Usage | None:
        """Return the resources that an ended attempt used; None if they are unknown."""
        return self.local.usage(folder)

    async def clear(self, process: Identity, folder: Path) -> Cleared:
        """End everything that an attempt left behind."""
        match process:
            case ProcessIdentity():
                return await self.local.clear(process, folder)
            case BatchJob():
                return await self._batch(process).clear(process, folder)
            case DagRun() | EngineRun():
                return await self._of(process).clear(process, folder)

"""An engine of a third party in a daemon. Where it is no longer configured, its attempts are followed by their files."""

from collections.abc import Callable
from typing import Final

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.config.load import Config
from dispatchd.agent.domain.executions.identities import EngineRun
from dispatchd.agent.engines.plugin.entry_points import opened
from dispatchd.agent.engines.plugin.guard import Gone
from dispatchd.agent.engines.port import Executor
from dispatchd.agent.engines.starts import Supplier, prefix_of
from dispatchd.agent.engines.submitted.ends import Words
from dispatchd.agent.engines.submitted.engine import SubmittedEngine
from dispatchd.agent.engines.submitted.site import Site
from dispatchd.linux.clock import MachineTime

FOLDER: Final = "engines"
"""Folder of the short ways to starts, in the state folder."""


def engine(
    name: str,
    kind: str,
    config: Config,
    supplier: Supplier,
    owned: Callable[[], set[str]],
) -> SubmittedEngine:
    """Return an engine by its name in the configuration and its entry point.

    Raises:
        ConfigError: It is configured, and its package or its settings can't be used.
    """
    entry = config.engines.get(name)
    is_gone = entry is None or entry.kind != kind
    if entry is None or is_gone:
        entry = EngineEntry(kind=kind)
    executor: Executor = Gone() if is_gone else opened(name, entry, config.file)
    gone = f"{kind}, which is no longer configured,"
    words = Words(
        engine=gone if is_gone else kind,
        execution=f"{kind} run",
        controller="its engine",
    )
    site = Site(
        engine=name,
        folder=config.state_folder / FOLDER,
        prefix=prefix_of(config.state_folder, name),
        time=MachineTime(),
        executor=executor,
        words=words,
        poll_s=entry.poll_s,
    )

    def identity(run: str, limit_s: float) -> EngineRun:
        return EngineRun(engine=name, kind=kind, name=run, limit_s=limit_s)

    return SubmittedEngine(entry.queue_timeout_s, site, supplier, owned, identity)

"""The Dagu engine of a daemon: attempts as runs of one DAG, under ids of ours."""

from collections.abc import Callable

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.config.load import Config
from dispatchd.agent.domain.executions.identities import DagRun
from dispatchd.agent.engines.dagu.executor import WORDS, DaguExecutor
from dispatchd.agent.engines.starts import Supplier, prefix_of
from dispatchd.agent.engines.submitted.engine import SubmittedEngine
from dispatchd.agent.engines.submitted.site import Site
from dispatchd.linux.clock import MachineTime


def engine(
    name: str,
    entry: EngineEntry,
    config: Config,
    supplier: Supplier,
    owned: Callable[[], set[str]],
) -> SubmittedEngine:
    """Return a Dagu engine by its name in the configuration, with its settings."""
    site = Site(
        engine=name,
        folder=config.state_folder / "dagu",
        prefix=prefix_of(config.state_folder, name),
        time=MachineTime(),
        executor=DaguExecutor.of(entry, config.file.parent, supplier.environment),
        words=WORDS,
        poll_s=entry.poll_s,
    )

    def identity(run: str, limit_s: float) -> DagRun:
        return DagRun(
            engine=name, url=entry.url, dag=entry.dag, name=run, limit_s=limit_s
        )

    return SubmittedEngine(entry.queue_timeout_s, site, supplier, owned, identity)

"""Check of a Dagu engine, for `dispatchd doctor`: its server, this machine's key, its DAG."""

from collections.abc import Mapping
from typing import Final

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.config.load import Config
from dispatchd.agent.engines.dagu.executor import DaguExecutor
from dispatchd.errors import EngineRefused, EngineSilent

_NOBODY: Final = "dd-nobody"
"""Id that no run has."""


async def check(
    name: str, settings: EngineEntry, config: Config, environment: Mapping[str, str]
) -> tuple[bool, str]:
    """Return whether an engine can be used, and what was found, in a sentence."""
    executor = DaguExecutor.of(settings, config.file.parent, environment)
    try:
        await executor.find(_NOBODY)
        has_dag = await executor.client.knows(settings.dag)
    except (EngineSilent, EngineRefused) as error:
        return False, f"{name}: {error}: see docs/engines.md"
    if not has_dag:
        return (
            False,
            f"{name}: {settings.url} has no DAG {settings.dag}: see docs/engines.md",
        )
    shared = f"whoever executes the DAG must see {config.state_folder}"
    return (
        True,
        f"{name}: {settings.url} answers and has the DAG {settings.dag}; {shared}",
    )

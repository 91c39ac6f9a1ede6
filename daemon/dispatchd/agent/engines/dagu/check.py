"""Check of a Dagu engine, for `dispatchd doctor`: its server, this machine's key, its DAG."""

from collections.abc import Mapping

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.dagu.site import Home, Site
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.linux.clock import MachineTime


async def check(
    name: str, settings: EngineEntry, home: Home, environment: Mapping[str, str]
) -> tuple[bool, str]:
    """Return whether an engine can be used, and what was found, in a sentence."""
    site = Site.of(name, settings, home, environment, MachineTime())
    try:
        await site.client.find(settings.dag, site.new_name())
        has_dag = await site.client.knows(settings.dag)
    except (EngineSilent, EngineRefused) as error:
        return False, f"{name}: {error}: see docs/engines.md"
    if not has_dag:
        return (
            False,
            f"{name}: {settings.url} has no DAG {settings.dag}: see docs/engines.md",
        )
    shared = f"whoever executes the DAG must see {home.state}"
    return (
        True,
        f"{name}: {settings.url} answers and has the DAG {settings.dag}; {shared}",
    )

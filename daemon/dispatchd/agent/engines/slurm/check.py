"""Check of a Slurm engine, for `dispatchd doctor`: its commands, its controller, its partition."""

from collections.abc import Mapping
from pathlib import Path

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.slurm.site import Site
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.linux.clock import MachineTime


async def check(
    name: str, settings: EngineEntry, state_folder: Path, environment: Mapping[str, str]
) -> tuple[bool, str]:
    """Return whether an engine can be used, and what was found, in a sentence."""
    site = Site.of(name, settings, state_folder, environment, MachineTime())
    partition = (f"--partition={settings.partition}",) if settings.partition else ()
    try:
        version = (await site.commands.run("sinfo", "--version")).strip()
        nodes = await site.commands.run("sinfo", "-h", "-o", "%D %T", *partition)
    except (EngineSilent, EngineRefused) as error:
        return False, f"{name}: {error}: see slurm.conf(5) and docs/engines.md"
    if not nodes.strip():
        where = f"partition {settings.partition}" if settings.partition else "cluster"
        return False, f"{name}: the {where} has no nodes: see sinfo(1)"
    listing = await site.listings.ask()
    if listing.silence:
        return False, f"{name}: {listing.silence}: see docs/engines.md"
    found = ", ".join(nodes.strip().splitlines())
    shared = f"every node must see {state_folder}"
    return True, f"{name}: {version} answers, nodes: {found}; {shared}"

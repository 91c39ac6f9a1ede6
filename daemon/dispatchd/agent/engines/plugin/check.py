"""Check of an engine of a third party, for `dispatchd doctor`: its package, its settings, an answer of it."""

from typing import Final

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.config.load import Config
from dispatchd.agent.engines.plugin.entry_points import opened
from dispatchd.errors import ConfigError, EngineRefused, EngineSilent

_NOBODY: Final = "dd-nobody"
"""Name that no start has."""


async def check(name: str, entry: EngineEntry, config: Config) -> tuple[bool, str]:
    """Return whether an engine can be used, and what was found, in a sentence."""
    try:
        await opened(name, entry, config.file).find(_NOBODY)
    except (ConfigError, EngineSilent, EngineRefused) as error:
        return False, f"{name}: {error}: see docs/engines.md"
    to_do = f"dispatchd engine check {name} tries it"
    return True, f"{name}: the engine {entry.kind} answers; {to_do}"

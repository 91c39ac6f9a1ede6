"""Check of an engine of the configuration, whatever its kind: one question that changes nothing."""

from collections.abc import Mapping

from dispatchd.agent.config.keys import EngineEntry, EngineKind
from dispatchd.agent.config.load import Config


async def checked(
    name: str, entry: EngineEntry, config: Config, environment: Mapping[str, str]
) -> tuple[bool, str]:
    """Return whether an engine can be used, and what was found, in a sentence."""
    match entry.kind:
        case EngineKind.SLURM:
            from dispatchd.agent.engines.slurm.check import check  # noqa: PLC0415  # only where there is one

            return await check(name, entry, config.state_folder, environment)
        case EngineKind.DAGU:
            from dispatchd.agent.engines.dagu import check as dagu  # noqa: PLC0415  # likewise

            return await dagu.check(name, entry, config, environment)
        case _:
            from dispatchd.agent.engines.plugin import check as plugin  # noqa: PLC0415  # likewise

            return await plugin.check(name, entry, config)

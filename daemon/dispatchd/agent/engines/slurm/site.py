"""The cluster as this machine uses it: its commands, its listings, and the names and places of our jobs there."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.slurm.commands import Commands
from dispatchd.agent.engines.slurm.listing import Listings
from dispatchd.agent.engines.starts import Starts, prefix_of
from dispatchd.linux.clock import TimeSource

_TIME: Final = re.compile(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?")
"""Time limit as sbatch(1) takes it: days before a hyphen, then one to three numbers."""


@frozen(kw_only=True)
class Site(Starts):
    """One cluster, for one engine of the configuration."""

    settings: EngineEntry
    commands: Commands
    listings: Listings

    @classmethod
    def of(
        cls,
        engine: str,
        settings: EngineEntry,
        state_folder: Path,
        environment: Mapping[str, str],
        time: TimeSource,
        installation: str = "",
    ) -> Self:
        """Return the site of an engine for a daemon; without its id for somebody who starts nothing."""
        commands = Commands(environment)
        return cls(
            engine=engine,
            settings=settings,
            folder=state_folder / "slurm",
            prefix=prefix_of(state_folder, engine, installation),
            former_prefix=prefix_of(state_folder, engine),
            commands=commands,
            listings=Listings(commands, settings.poll_s, time.monotonic),
            time=time,
        )

    def limit_s(self, longest_s: float) -> float:
        """Return the time limit of a job (seconds): the owner's, or one beyond the daemon's own limit."""
        found = _TIME.fullmatch(self.settings.time)
        if found is None:
            return longest_s + 120.0
        days, *numbers = (int(text) if text else None for text in found.groups())
        given = [number for number in numbers if number is not None]
        if days is not None:
            hours, minutes, seconds = (*given, 0, 0)[:3]
        elif len(given) == 1:
            hours, minutes, seconds = 0, given[0], 0
        else:
            hours, minutes, seconds = (0, *given)[-3:]
        limit_s = float((days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)
        # Zero is no limit (sbatch(1), --time).
        return limit_s or longest_s + 120.0

    async def cancel(self, name: str, *, pending_only: bool = False) -> None:
        """Order the end of a job, by the name that is its alone. Says nothing about what came of it.

        Raises:
            EngineSilent: The order may not have arrived.
            EngineRefused: Likewise, for another reason.
        """
        state = ("--state=PENDING",) if pending_only else ()
        await self.commands.run("scancel", "--quiet", *state, f"--name={name}")

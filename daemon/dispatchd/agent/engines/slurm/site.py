"""The cluster as this machine uses it: its commands, its listings, and the names and places of our jobs there."""

import re
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.slurm.claims import Files, remove
from dispatchd.agent.engines.slurm.commands import Commands
from dispatchd.agent.engines.slurm.listing import PREFIX, Listings
from dispatchd.linux.clock import TimeSource

_TIME: Final = re.compile(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?")
"""Time limit as sbatch(1) takes it: days before a hyphen, then one to three numbers."""


@frozen(kw_only=True)
class Site:
    """One cluster, for one engine of the configuration."""

    engine: str
    settings: EngineEntry
    folder: Path
    """Folder of short ways to attempts: paths in it hold nothing of a job."""
    prefix: str
    """Beginning of the names of all jobs that come from this state folder."""
    commands: Commands
    listings: Listings
    time: TimeSource

    @classmethod
    def of(
        cls,
        engine: str,
        settings: EngineEntry,
        state_folder: Path,
        environment: Mapping[str, str],
        time: TimeSource,
    ) -> Self:
        """Return the site of an engine for a daemon."""
        place = f"{socket.gethostname()}:{state_folder}:{engine}"
        digest = sha256(place.encode(errors="surrogateescape")).hexdigest()[:12]
        prefix = f"{PREFIX}{digest}-"
        commands = Commands(environment)
        return cls(
            engine=engine,
            settings=settings,
            folder=state_folder / "slurm",
            prefix=prefix,
            commands=commands,
            listings=Listings(commands, settings.poll_s, time.monotonic),
            time=time,
        )

    def now(self) -> datetime:
        """Return the wall-clock time."""
        return datetime.fromtimestamp(self.time.wall(), UTC)

    def new_name(self) -> str:
        """Return a name that no job has had."""
        return self.prefix + secrets.token_hex(8)

    def link(self, name: str) -> Path:
        """Return the short way to a job's files."""
        return self.folder / name

    def names(self) -> set[str]:
        """Return the names of all jobs that have files here. Blocks."""
        try:
            return {path.name for path in self.folder.iterdir()}
        except OSError:
            return set()

    def remove_start(self, name: str) -> None:
        """Remove the launch of a start that nobody owns, and the short way to it. Blocks."""
        with suppress(OSError):
            Files(self.link(name)).remove_launch()
        remove(self.link(name))

    def files(self, name: str, attempt_folder: Path) -> Files:
        """Return a job's files."""
        return Files(attempt_folder / name)

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
        return float((days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)

    async def cancel(self, name: str, *, pending_only: bool = False) -> None:
        """Order the end of a job, by the name that is its alone. Says nothing about what came of it.

        Raises:
            EngineSilent: The order may not have arrived.
            EngineRefused: Likewise, for another reason.
        """
        state = ("--state=PENDING",) if pending_only else ()
        await self.commands.run("scancel", "--quiet", *state, f"--name={name}")

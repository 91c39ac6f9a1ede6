"""The server as this machine uses it: its API, and the names and files of our runs there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from attrs import frozen

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.claims import Files
from dispatchd.agent.engines.dagu.client import Client
from dispatchd.agent.engines.dagu.script import START, STOP, start_script
from dispatchd.agent.engines.starts import Starts, prefix_of
from dispatchd.linux.clock import TimeSource
from dispatchd.linux.untrusted_files import write_new


@frozen(kw_only=True)
class Home:
    """Folders of the daemon: its state, and its configuration, from which files are named."""

    state: Path
    config: Path

    @property
    def runs(self) -> Path:
        """Folder of the short ways to the files of runs."""
        return self.state / "dagu"


@frozen(kw_only=True)
class Site(Starts):
    """One DAG of one server, for one engine of the configuration."""

    settings: EngineEntry
    client: Client

    @classmethod
    def of(
        cls,
        engine: str,
        settings: EngineEntry,
        home: Home,
        environment: Mapping[str, str],
        time: TimeSource,
    ) -> Self:
        """Return the site of an engine for a daemon."""
        key_file = home.config / settings.key_file if settings.key_file else None
        return cls(
            engine=engine,
            settings=settings,
            folder=home.runs,
            prefix=prefix_of(home.state, engine),
            client=Client(settings.url, key_file, environment),
            time=time,
        )

    def lay_out(
        self, name: str, folder: Path, launch: str, *, has_secrets: bool
    ) -> None:
        """Write the files of a start. Blocks.

        Raises:
            OSError: The disk refuses it.
        """
        link = self.link(name)
        files = Files.create(folder / name, link)
        files.write_launch(launch, has_secrets=has_secrets)
        write_new(files.folder / START, start_script(link).encode())


def order_stop(files: Files, grace_s: float) -> None:
    """Let the script of a run end its command, whatever Dagu does. Blocks.

    Raises:
        OSError: The disk refuses it.
    """
    aside = files.folder / f"{STOP}.aside"
    aside.write_text(f"{max(0, round(grace_s))}\n")
    aside.replace(files.folder / STOP)

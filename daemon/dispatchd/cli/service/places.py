"""The places of a service: its unit, its files, its configuration and its state."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

from dispatchd.cli.brand import brand, branded
from dispatchd.cli.service.shipped import drop_ins, shipped
from dispatchd.drop_ins import drop_in_folder
from dispatchd.errors import UsageError
from dispatchd.protocol import toml_text
from dispatchd.redaction.escapes import written_out

_PROGRAM: Final = "/opt/dispatchd/bin/dispatchd"
"""The program in the units as they are shipped."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TAKEN: Final = ("config", "hub")
"""Names of instances whose configuration or state would be the service's or the hub's."""

_PLAIN_PATH: Final = re.compile(r"/[\w./+@-]+", re.ASCII)
"""A path that means itself in a unit (systemd.syntax(7))."""

_STARTER: Final = """\
# What this machine is to do. Every option with its default: config.example.toml.
# `dispatchd join URL KEY` writes where its jobs come from, into a file in {drop_ins}/.
{store}
[workflows.hello]
command = ["/bin/sh", "-c", "echo hello from $(uname -n)"]
"""


@frozen(kw_only=True)
class Service:
    """A service: the hub, the daemon, or the instance `name` of it; of one user, or of the system.

    Fields other than `name` are absolute folders. `root` is the top of the tree to write to.
    """

    is_hub: bool
    is_user: bool
    name: str
    root: Path
    config_home: Path
    state_home: Path

    @property
    def unit(self) -> str:
        """Name of the unit."""
        return self.unit_file.replace("@.", f"@{self.name}.")

    @property
    def unit_file(self) -> str:
        """Name of the unit's file: for an instance that of the template."""
        if self.is_hub:
            return f"{brand().name}-hub.service"
        return f"{brand().name}{'@' if self.name else ''}.service"

    @property
    def unit_folder(self) -> Path:
        """Folder of units."""
        above = self.config_home / "systemd"
        return self._below(above / ("user" if self.is_user else "system"))

    @property
    def config(self) -> Path:
        """The configuration file."""
        if self.is_hub:
            return self._state / "hub.toml"
        return self._below(
            self.config_home / brand().name / f"{self.name or 'config'}.toml"
        )

    @property
    def examples(self) -> Path:
        """Folder of the examples."""
        return self._below(self.config_home / brand().name / "examples")

    @property
    def _state(self) -> Path:
        name = "hub" if self.is_hub else self.name
        folder = f"{brand().name}-{name}" if name else brand().name
        return self._below(self.state_home / folder)

    def owned(self) -> list[Path]:
        """Return what a person, the daemon and its runs have made: configuration, state, caches."""
        paths = [self.config, drop_in_folder(self.config), self._state]
        if not (self.is_user or self.is_hub):
            paths.append(self._below(Path("/var/cache", self._state.name)))
        if self.is_hub:
            paths = [self._state]
        return [path for path in paths if path.exists()]

    def files(self, program: str) -> Iterator[tuple[Path, str]]:
        """Yield each file that comes out of the package, and its text.

        Raises:
            UsageError: The program's path can't be written into a unit.
        """
        if _PLAIN_PATH.fullmatch(program) is None:
            reason = f"{program!r} must be an absolute path of letters, digits and . _ - + @ /"
            raise UsageError(cannot="write the unit", reason=reason)
        kind = self.unit_file.removeprefix(brand().name)
        unit = f"{'user/' if self.is_user else ''}dispatchd{kind}"
        parts = shipped(unit).split(_PROGRAM)
        text = program.join(map(brand().file_text, parts))
        yield self.unit_folder / self.unit_file, text
        yield from self.shared()

    def shared(self) -> Iterator[tuple[Path, str]]:
        """Yield the files that all services of this machine, or of this user, have in common."""
        if not self.is_user:
            for folder in ("sysusers.d", "tmpfiles.d"):
                name, text = f"{folder}/dispatchd.conf", brand().file_text
                file = self.config_home / text(name)
                yield self._below(file), text(shipped(name))
            for name in drop_ins():
                yield self._example(name)
        for name in ("config.example.toml", "alerts.yml"):
            yield self._example(name)

    def _example(self, name: str) -> tuple[Path, str]:
        text = brand().file_text
        return self.examples / text(name), text(shipped(name))

    def starter(self) -> str:
        """Return a first configuration of a daemon."""
        # The system's instances have a folder each from systemd.
        apart = self.is_user and bool(self.name)
        return starter(
            self.config, self.state_home / self._state.name if apart else None
        )

    def inside(self, path: Path) -> Path:
        """Return a path as it is named inside of `root`."""
        return Path("/") / path.relative_to(self.root)

    def _below(self, path: Path) -> Path:
        return self.root / path.relative_to("/")


def starter(config: Path, store: Path | None = None) -> str:
    """Return a first configuration of a daemon, with a state folder if the usual one isn't its."""
    folder = "" if store is None else toml_text.quoted(str(store))
    return branded(_STARTER).format(
        drop_ins=written_out(drop_in_folder(config).name),
        store=folder and f"\n[store]\nfolder = {folder}\n",
    )


def service_of(*, is_hub: bool, is_user: bool, name: str, root: Path) -> Service:
    """Return the service that options name.

    Raises:
        UsageError: There can't be one of that name.
    """
    if name and is_hub:
        raise UsageError(cannot="name the hub", reason="a machine has one hub service")
    if name and (_NAME.fullmatch(name) is None or name in _TAKEN):
        reason = "use letters, digits, - and _, and neither 'config' nor 'hub'"
        raise UsageError(cannot=f"name an instance {name!r}", reason=reason)
    config_home, state_home = Path("/etc"), Path("/var/lib")
    if is_user:
        import platformdirs

        config_home = platformdirs.user_config_path()
        # systemd's %S is another folder before release 254; the hub's unit names this one.
        state_home = platformdirs.user_state_path()
        if is_hub:
            state_home = Path.home() / ".local" / "state"
    return Service(
        is_hub=is_hub,
        is_user=is_user,
        name=name,
        root=root,
        config_home=config_home.absolute(),
        state_home=state_home.absolute(),
    )

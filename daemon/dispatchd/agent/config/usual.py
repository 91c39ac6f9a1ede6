"""The usual places of a program's configuration and of its daemon's folders; and the configuration, loaded with them."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import evolve

from dispatchd.agent.config.load import Config, Places, load
from dispatchd.brand import Brand
from dispatchd.protocol.job import Json

_ETC: Final = Path("/etc")
_STATE: Final = Path("/var/lib")
_RUNTIME: Final = Path("/run")
"""Folders of the units' configuration, state and socket, in folders called NAME, or NAME-INSTANCE for INSTANCE.toml."""

_FILE: Final = "config.toml"

_SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Folders in which programs are searched if the daemon has no PATH."""


def own_file(brand: Brand) -> Path:
    """Return the configuration file of this user.

    Raises:
        RuntimeError: The user has no home.
    """
    import platformdirs  # noqa: PLC0415  # not needed by who names the file

    return platformdirs.user_config_path(brand.name) / _FILE


def usual_file(brand: Brand) -> Path:
    """Return the configuration file of a program that was given none."""
    # Another user's home, as after sudo, is as good as none; and a user without an entry in passwd(5) has none.
    with suppress(RuntimeError):
        file = own_file(brand)
        if os.access(file, os.F_OK):
            return file
    return _ETC / brand.name / _FILE


def usual_places(file: Path, environment: Mapping[str, str], brand: Brand) -> Places:
    """Return the default folders of a file's daemon.

    The service has folders that systemd made (systemd.exec(5), STATE_DIRECTORY and RUNTIME_DIRECTORY). A command has
    to find them without these variables.
    """
    import platformdirs  # noqa: PLC0415  # as above

    state = environment.get("STATE_DIRECTORY", "").split(":")[0]
    runtime = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if file.absolute().parent == _ETC / brand.name:
        name = brand.name if file.name == _FILE else f"{brand.name}-{file.stem}"
        state = state or str(_STATE / name)
        # Without the service the folder doesn't exist.
        if os.access(_RUNTIME / name, os.F_OK):
            runtime = runtime or str(_RUNTIME / name)
    if not state:
        # The service's, for a user who has no home.
        state = str(_STATE / brand.name)
        with suppress(RuntimeError):
            state = str(platformdirs.user_state_path(brand.name))
    return Places(
        state_folder=Path(state),
        control_folder=Path(runtime or state),
        credentials_folder=unit_credentials(brand),
    )


def unit_credentials(brand: Brand) -> Path:
    """Return the folder in which systemd puts the credentials of the service (systemd.exec(5))."""
    return Path(f"/run/credentials/{brand.name}.service")


def load_here(
    file: Path,
    environment: Mapping[str, str],
    brand: Brand,
    *,
    document: Mapping[str, Json] | None = None,
    elsewhere: bool = False,
) -> Config:
    """Read and check a configuration, with this machine's usual folders where it names none.

    Args:
        file: The file; for a `document` the place that its paths are relative to, and that problems are said of.
        environment: Variables of this process.
        brand: The brand of the program.
        document: The tables of the configuration, if they are not in a file.
        elsewhere: True if it is for another machine.

    Raises:
        ConfigError: It can't be used.
    """
    config = load(
        file,
        defaults=usual_places(file, environment, brand),
        search_path=environment.get("PATH") or _SEARCH_PATH,
        credentials_folder=environment.get("CREDENTIALS_DIRECTORY", ""),
        elsewhere=elsewhere,
        document=document,
    )
    return evolve(config, brand=brand)

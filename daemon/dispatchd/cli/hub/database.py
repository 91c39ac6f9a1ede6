"""The hub's database, for commands on the machine where the hub runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dispatchd.errors import NotReachable

if TYPE_CHECKING:
    from dispatchd.hub.config.load import Settings
    from dispatchd.hub.storage.database import Database
    from dispatchd.hub.storage.migrate import Migrating


def open_database(
    config_file: Path, progress: "Callable[[Migrating], None]" = lambda _: None
) -> "tuple[Settings, Database]":
    """Return the settings of a hub, and its database, migrated; only `dispatchd hub init` makes one."""
    from dispatchd.hub.config.load import load
    from dispatchd.hub.storage.database import Database

    settings = load(config_file)
    return settings, Database.open(settings.database_url, progress, must_exist=True)


@contextmanager
def busy_is_said(cannot: str) -> Iterator[None]:
    """Report an unusable database as the reason why a command can't do something.

    Raises:
        NotReachable: The database can't be used.
    """
    from dispatchd.hub.domain.errors import StorageBusy

    try:
        yield
    except StorageBusy as error:
        raise NotReachable(cannot=cannot, reason=str(error)) from error


def require_extra() -> None:
    """Check that the packages for a hub are installed.

    Raises:
        NotReachable: One is missing.
    """
    for name in ("alembic", "cronsim", "psycopg", "sqlalchemy", "starlette", "uvicorn"):
        if find_spec(name) is None:
            reason = f"{name} is not installed; install the release's wheel with [hub] behind its name"
            raise NotReachable(cannot="use a hub", reason=reason)

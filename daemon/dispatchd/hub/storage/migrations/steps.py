"""Migrations one by one, by Alembic. Its import takes longer than the rest of a start."""

from functools import cache
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from dispatchd.hub.storage.migrations.fill import Fill


def after(revision: str) -> str:
    """Return the number of the migration that comes after one; after nothing, the first."""
    return min(number for number in _modules() if number > revision)


def fills() -> dict[str, Fill]:
    """Return the data steps, each by the number of its migration."""
    by_number = {
        number: getattr(module, "FILL", None) for number, module in _modules().items()
    }
    return {number: fill for number, fill in by_number.items() if fill is not None}


def upgrade(db: Connection, revision: str) -> None:
    """Run the migration with a number, in the transaction of a connection whose database has the one before."""
    config = _config()
    config.attributes["connection"] = db
    command.upgrade(config, revision)


@cache
def _modules() -> dict[str, Any]:
    scripts = ScriptDirectory.from_config(_config())
    return {script.revision: script.module for script in scripts.walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "dispatchd.hub.storage:migrations")
    config.set_main_option("path_separator", "os")
    return config

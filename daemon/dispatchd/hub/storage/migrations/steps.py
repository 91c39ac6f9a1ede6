"""Migrations one by one, by Alembic. Its import takes longer than the rest of a start."""

from functools import cache
from typing import Any

from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
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
    context = MigrationContext.configure(db)
    with Operations.context(context):
        _modules()[revision].upgrade()
    context.stamp(_scripts(), revision)


@cache
def _modules() -> dict[str, Any]:
    return {script.revision: script.module for script in _scripts().walk_revisions()}


@cache
def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "dispatchd.hub.storage:migrations")
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)

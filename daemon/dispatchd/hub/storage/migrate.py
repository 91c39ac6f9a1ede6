"""Migration of an older database to this release, by Alembic. Its import takes longer than the rest of a start."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def upgrade(db: Connection) -> None:
    """Run the migrations that a database lacks, in its transaction.

    Raises:
        CommandError: A newer release has migrated it (alembic.util).
    """
    config = Config()
    config.set_main_option("script_location", "dispatchd.hub.storage:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = db
    command.upgrade(config, "head")

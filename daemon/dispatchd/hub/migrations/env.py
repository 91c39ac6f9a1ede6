"""Alembic's way in: the steps run on the connection that `hub/migrate.py` is given, in its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()

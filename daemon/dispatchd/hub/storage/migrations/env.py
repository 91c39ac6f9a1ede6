"""Entry point of Alembic: the migrations run on the connection that `hub/storage/migrate.py` gets, in its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()

"""A hub of its own for each test that asks for one, and a machine that knows its secret."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.hub import Hub, hub
from support.machine import Machine


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Hub]:
    """A hub on SQLite."""
    async with hub(folder=tmp_path / "hub") as found:
        yield found


@pytest.fixture
async def each_server(tmp_path: Path, database_url: str) -> AsyncIterator[Hub]:
    """A hub on each kind of database: the one on PostgreSQL with `make test-host`."""
    async with hub(tmp_path / "hub", database_url=database_url) as found:
        yield found


@pytest.fixture
def machine(server: Hub) -> Machine:
    return Machine(http=server.http)

"""A hub of its own for each test that asks for one, on each kind of database, and a machine that knows its secret."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.hub import Hub, hub
from support.machine import Machine


@pytest.fixture
async def server(tmp_path: Path, database_url: str) -> AsyncIterator[Hub]:
    async with hub(tmp_path / "hub", database_url=database_url) as found:
        yield found


@pytest.fixture
def machine(server: Hub) -> Machine:
    return Machine(http=server.http)

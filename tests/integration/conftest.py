"""A hub of its own for each test that asks for one, and a machine that knows its secret."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.hub import HubProcess, hub
from support.machine import Machine


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[HubProcess]:
    async with hub(tmp_path / "hub") as found:
        yield found


@pytest.fixture
def machine(server: HubProcess) -> Machine:
    return Machine(http=server.http)

"""A hub of its own for each test that asks for one, and a machine that knows its secret; no run outlives its test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.hub import Hub, hub
from support.images import image
from support.leftovers import end_left_alive
from support.machine import Machine

__all__ = ["image"]


@pytest.fixture(autouse=True)
def no_run_outlives_its_test(tmp_path: Path) -> Iterator[None]:
    """End what a daemon of the test has left running: it survives the daemon, as it should."""
    yield
    below = ("*/runs/*/attempt-1", "*/*/runs/*/attempt-1")
    if any(any(tmp_path.glob(each)) for each in below):
        end_left_alive(tmp_path)


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

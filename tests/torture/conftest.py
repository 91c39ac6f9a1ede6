"""Where the libraries that kill and the databases come from."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from bench.postgres import Postgres

from support.hub_process import HubProcess
from support.kill_hub import Arm, armed
from support.preload import build
from support.torture import SQLITE, Sweep


@pytest.fixture(scope="session")
def kill_hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that kills a hub at a chosen step."""
    source = Path(__file__).with_name("kill_hub.c")
    return build(source, tmp_path_factory.mktemp("kill-hub"))


@pytest.fixture(scope="session")
def kill_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that kills the daemon at a chosen step."""
    source = Path(__file__).with_name("kill_at.c")
    return build(source, tmp_path_factory.mktemp("kill"))


@pytest.fixture(scope="session")
def power_cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that notes what is synced, and ends the daemon before a chosen step."""
    source = Path(__file__).with_name("power_cut.c")
    return build(source, tmp_path_factory.mktemp("power-cut"))


@pytest.fixture
def url_for(request: pytest.FixtureRequest) -> Iterator[Callable[[Sweep], str]]:
    """Gives the URL of a new database for a sweep; one of PostgreSQL's is dropped after the test.

    There are hundreds of steps, and each database takes 7 MB.
    """
    made: list[str] = []

    def url(sweep: Sweep) -> str:
        if sweep.database == SQLITE:
            return "sqlite:///hub.db"
        found: Postgres = request.getfixturevalue("postgresql")
        made.append(found.new_database())
        return made[-1]

    yield url
    for each in made:
        server, _, name = each.rpartition("/")
        with psycopg.connect(f"{server}/postgres", autocommit=True) as db:
            db.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def arm(url_for: Callable[[Sweep], str], tmp_path: Path, kill_hub: Path) -> Arm:
    """Makes a hub on a new database that is killed at a step of a sweep."""

    def hub(
        sweep: Sweep, step: int, **options: Any
    ) -> AbstractAsyncContextManager[HubProcess]:
        return armed(tmp_path / "hub", url_for(sweep), kill_hub, step, **options)

    return hub

"""Where the libraries that kill and the databases come from."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

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


@pytest.fixture
def arm(request: pytest.FixtureRequest, tmp_path: Path, kill_hub: Path) -> Arm:
    """Makes a hub on a new database that is killed at a step of a sweep."""

    def hub(
        sweep: Sweep, step: int, **options: Any
    ) -> AbstractAsyncContextManager[HubProcess]:
        url = "sqlite:///hub.db"
        if sweep.database != SQLITE:
            found: Postgres = request.getfixturevalue("postgresql")
            url = found.new_database()
        return armed(tmp_path / "hub", url, kill_hub, step, **options)

    return hub

"""What every test has."""

from collections.abc import Callable, Iterator

import pytest
from bench.postgres import Postgres, find, postgres
from hypothesis import settings

from support.clock import SkippingLoop

pytest_plugins = ["support.torture"]

# A busy machine is no reason for a test to fail.
settings.register_profile("quick", deadline=None)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run async tests as the daemon runs, on a loop whose time a test can move forward."""
    return "asyncio", {"loop_factory": SkippingLoop}


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    if find() is None:
        pytest.skip("needs PostgreSQL (Debian's package postgresql)")
    with postgres(synced=False) as found:
        yield found


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.host)])
def new_database_url(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Gives the URL of a new database at each call, of each kind."""
    if request.param == "sqlite":
        return lambda: "sqlite:///hub.db"
    found: Postgres = request.getfixturevalue("postgresql")
    return found.new_database


@pytest.fixture
def database_url(new_database_url: Callable[[], str]) -> str:
    """The URL of a new database, of each kind."""
    return new_database_url()

"""What every test has."""

import gc
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from bench.postgres import Postgres, find, postgres
from hypothesis import settings

from dispatchd.hub.storage.database import Database
from support.clock import SkippingLoop

pytest_plugins = ["support.torture"]

# A busy machine is no reason for a test to fail; and the same examples each time, so that a change is judged by what
# it changes. `make torture` draws others, and four times as many (tests/torture/test_properties.py).
settings.register_profile(
    "same", max_examples=50, deadline=None, derandomize=True, print_blob=True
)
settings.register_profile(
    "others",
    max_examples=200,
    deadline=None,
    derandomize=False,
    database=None,
    print_blob=True,
)
settings.load_profile("same")


_GARBAGE = 20_000
"""New objects after which the collector looks for garbage (count); Python's own figure is 700."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are collected: nothing of that is any."""
    gc.disable()
    try:
        return (yield)
    finally:
        # Seldom, as each look goes through all that was collected. No gc.freeze: Hypothesis asks the collector who
        # refers to a generator of random numbers.
        gc.set_threshold(_GARBAGE)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def processes_are_without_rich() -> Iterator[None]:
    """Let a process of a test find no rich, as most users have none.

    Schemathesis brings it; httpx and structlog load it where they find it, which takes a tenth of each start.
    """
    folder = Path(__file__).with_name("support") / "without_rich"
    with pytest.MonkeyPatch.context() as patch:
        # An empty part would be the working folder.
        parts = (str(folder), os.environ.get("PYTHONPATH"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, parts)))
        yield


@pytest.fixture(scope="session", autouse=True)
def processes_hear_signals() -> Iterator[None]:
    """Let a process of a test hear SIGINT and SIGHUP also where these tests ignore them: behind nohup(1), or `&` in a script.

    An ignored signal is inherited, and one with a handler is not (execve(2)).
    """
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run async tests as the daemon runs, on a loop whose time a test can move forward."""
    return "asyncio", {"loop_factory": SkippingLoop}


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    """A PostgreSQL for all tests of this process."""
    if find() is None:
        pytest.skip("needs PostgreSQL (Debian's package postgresql)")
    with postgres(synced=False) as found:
        yield found


@pytest.fixture(scope="session")
def migrated(postgresql: Postgres) -> str:
    """The URL of a database with the hub's tables, from which others are copied: to migrate one takes a while."""
    url = postgresql.new_database()
    Database.open(url).close()
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.host)])
def new_database_url(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Gives the URL of a new database at each call, of each kind."""
    if request.param == "sqlite":
        yield lambda: "sqlite:///hub.db"
        return
    server: Postgres = request.getfixturevalue("postgresql")
    template: str = request.getfixturevalue("migrated")
    made: list[str] = []

    def new() -> str:
        made.append(server.new_database(template))
        return made[-1]

    yield new
    for each in made:
        server.drop(each)


@pytest.fixture
def database_url(new_database_url: Callable[[], str]) -> str:
    """The URL of a new database, of each kind."""
    return new_database_url()


@pytest.fixture
def postgresql_url(postgresql: Postgres, migrated: str) -> Iterator[str]:
    """The URL of a new database of PostgreSQL, for tests that are marked `host`."""
    url = postgresql.new_database(migrated)
    yield url
    postgresql.drop(url)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the hub's tables, from which others are copied."""
    file = tmp_path_factory.mktemp("migrated") / "hub.db"
    Database.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def database(
    tmp_path: Path, database_url: str, migrated_file: Path
) -> Iterator[Database]:
    """A new database, of each kind."""
    file = tmp_path / "hub.db"
    if database_url.startswith("sqlite"):
        shutil.copy(migrated_file, file)
    found = Database.open(database_url.replace("///hub.db", f"///{file}"))
    yield found
    found.close()

"""A start is killed with SIGKILL between any two steps of a migration, from the first tables on: the next one ends it."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.schema import METADATA
from support.fixtures import ROOT
from support.old_hub import UNFINISHED, grown
from support.torture import POSTGRESQL, SQLITE, Sweep

JOBS = 3
OPEN = """
import sys
from dispatchd.hub.storage.database import Database
Database.open(sys.argv[1]).close()
"""

FROM_0002 = {
    SQLITE: Sweep(database=SQLITE, least=18, most=26),
    POSTGRESQL: Sweep(database=POSTGRESQL, least=190, most=230),
}
FROM_THE_FIRST = Sweep(database=SQLITE, least=21, most=30)


def opened(url: str, library: Path, step: int, folder: Path) -> bool:
    """Open a database in a process of its own that is killed at a step; return whether it was."""
    mark = folder / "armed"
    mark.touch()
    env = {"LD_PRELOAD": str(library), "KILL_AT": str(step), "KILL_ARMED": str(mark)}
    code = subprocess.run(
        [sys.executable, "-c", OPEN, url], env={**os.environ, **env}, check=False
    ).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


def require_current(url: str) -> None:
    """Check that an open database has the tables of this release, and nothing beside them."""
    with closing(Database.open(url)) as database:
        database.check()
        with database.transaction() as db:
            assert compare_metadata(MigrationContext.configure(db), METADATA) == []


def end_despite_a_kill(
    url: str, folder: Path, library: Path, sweep: Sweep, step: int
) -> None:
    url = url.replace("///hub.db", f"///{folder / 'hub.db'}")
    grown(url, jobs=JOBS)

    sweep.require(step, killed=opened(url, library, step, folder))

    require_current(url)
    with closing(Database.open(url)) as database, database.snapshot() as db:
        rows = db.execute(sa.text("SELECT state, number FROM jobs ORDER BY position"))
        assert [tuple(row) for row in rows] == [
            *[("succeeded", 0)] * JOBS,
            *[(state, 7) for state in UNFINISHED],
        ]
        [found] = db.execute(sa.text("SELECT count(*) FROM deliveries")).scalars()
        assert found == JOBS + len(UNFINISHED) + 1


def end_from_the_first_despite_a_kill(
    folder: Path, library: Path, sweep: Sweep, step: int
) -> None:
    file = folder / "hub.db"
    with closing(sqlite3.connect(file)) as db, db:
        db.executescript((ROOT / "hub" / "development-form.sql").read_text())
        ids = [row[0] for row in db.execute("SELECT id FROM jobs ORDER BY position")]

    sweep.require(step, killed=opened(f"sqlite:///{file}", library, step, folder))

    with closing(Database.open(f"sqlite:///{file}")) as database:
        database.check()
        assert [job.id for job in JobReader(database).list(Filter())] == ids


@pytest.mark.parametrize(
    ("sweep", "step"),
    [
        *FROM_0002[SQLITE].smoke(6, 10, 14, 18),
        *FROM_0002[POSTGRESQL].smoke(60, 120, 190),
    ],
)
def test_a_migration_that_is_killed_is_ended_by_the_next_start(
    url_for: Callable[[Sweep], str],
    tmp_path: Path,
    kill_hub: Path,
    sweep: Sweep,
    step: int,
) -> None:
    end_despite_a_kill(url_for(sweep), tmp_path, kill_hub, sweep, step)


@pytest.mark.parametrize(
    ("sweep", "step"),
    [step for sweep in FROM_0002.values() for step in sweep.every_step()],
)
def test_a_migration_that_is_killed_anywhere_is_ended_by_the_next_start(
    url_for: Callable[[Sweep], str],
    tmp_path: Path,
    kill_hub: Path,
    sweep: Sweep,
    step: int,
) -> None:
    end_despite_a_kill(url_for(sweep), tmp_path, kill_hub, sweep, step)


@pytest.mark.parametrize(("sweep", "step"), FROM_THE_FIRST.smoke(4, 20))
def test_one_from_the_first_tables_on_is_ended_by_the_next_start(
    tmp_path: Path, kill_hub: Path, sweep: Sweep, step: int
) -> None:
    end_from_the_first_despite_a_kill(tmp_path, kill_hub, sweep, step)


@pytest.mark.parametrize(("sweep", "step"), FROM_THE_FIRST.every_step())
def test_one_from_the_first_tables_on_killed_anywhere_is_ended_by_the_next_start(
    tmp_path: Path, kill_hub: Path, sweep: Sweep, step: int
) -> None:
    end_from_the_first_despite_a_kill(tmp_path, kill_hub, sweep, step)

"""A database of an earlier release that has grown: what its migration leaves alone, and one that is ended in the middle."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from threading import Event

import psycopg
import pytest
import sqlalchemy as sa
from bench.postgres import Postgres

from dispatchd.errors import NotReachable
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.deliveries import DeliveryStore
from dispatchd.hub.storage.jobs.reader import JobReader
from dispatchd.hub.storage.migrate import REVISION, ROWS, Migrating
from support.old_hub import ODD, UNFINISHED, grown
from support.threads import at_once


def numbers(database: Database) -> dict[str, int]:
    with database.snapshot() as db:
        rows = db.execute(sa.text("SELECT state, max(number) FROM jobs GROUP BY state"))
        return {row[0]: row[1] for row in rows}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.host)])
def old_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a database without tables, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'old.db'}"
        return
    server: Postgres = request.getfixturevalue("postgresql")
    url = server.new_database()
    yield url
    server.drop(url)


def test_what_has_ended_is_left_alone_and_what_has_not_gets_its_number(
    old_url: str,
) -> None:
    grown(old_url, jobs=3)

    database = Database.open(old_url)

    of_state = numbers(database)
    assert {state: of_state[state] for state in UNFINISHED} == dict.fromkeys(
        UNFINISHED, 7
    )
    kept = {each.id: each for each in DeliveryStore(database).list(100)}
    assert kept[f"of {ODD}"].job_ids == (ODD,)
    assert kept["of "].job_ids == ()
    assert len(kept) == 3 + len(UNFINISHED) + 1
    assert {each.target for each in kept.values()} == {""}
    found = JobReader(database).get(ODD)
    assert found is not None
    assert found.state == "succeeded"
    database.close()


@pytest.mark.host
@pytest.mark.parametrize("hubs", [1, 2])
def test_a_migration_that_is_ended_in_the_middle_is_made_by_another_start(
    postgresql: Postgres, hubs: int
) -> None:
    url = postgresql.new_database()
    grown(url, jobs=3)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(_SLOW)
        starts = [subprocess.Popen([sys.executable, "-c", _OPEN, url])]
        while not owner.execute(_SLEEPER).fetchall():
            assert starts[0].poll() is None
        if hubs > 1:
            starts.append(subprocess.Popen([sys.executable, "-c", _OPEN, url]))
            while not owner.execute(_WAITER).fetchall():
                assert starts[1].poll() is None
        starts[0].kill()
        owner.execute(_END_SLEEPER)
        owner.execute("DROP TRIGGER slow ON jobs")
        assert [each.wait(60) for each in starts] == [-SIGKILL, 0][:hubs]

    # Nothing is left of what was begun: the one that has waited behind it, or comes after it, makes all of it.
    database = Database.open(url)
    database.check()
    assert numbers(database)["queued"] == 7
    database.close()
    postgresql.drop(url)


_OPEN = """
import sys
from dispatchd.hub.storage.database import Database
Database.open(sys.argv[1]).close()
"""
_SLOW = """
CREATE FUNCTION slow() RETURNS trigger AS
  $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$ LANGUAGE plpgsql;
CREATE TRIGGER slow BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION slow();
"""
_SLEEPER = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event = 'PgSleep'
"""
_WAITER = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event = 'advisory'
"""
_END_SLEEPER = _SLEEPER.replace("SELECT pid", "SELECT pg_terminate_backend(pid)")


# Data steps.

WAITING = ROWS + 100
"""Jobs that wait in a database: more than one transaction changes."""
CHANGED = WAITING + len(UNFINISHED)
STOPS_AT = ROWS + 50
"""Position of a job of the second transaction of each data step."""


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Execute statements by an owner of the database; return what the last one finds."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as db:
        results = [db.execute(sa.text(each)) for each in statements]
        rows = [tuple(row) for row in results[-1]] if results[-1].returns_rows else []
    engine.dispose()
    return rows


def note_changes(url: str, stops: str) -> None:
    """Have each change of a job noted in a table; those of the job at STOPS_AT fail while `stops` is of the step."""
    execute(
        url,
        "CREATE TABLE changes (position BIGINT, number BIGINT, size BIGINT)",
        "CREATE TABLE stops (what TEXT)",
        f"INSERT INTO stops VALUES ('{stops}')",
        *(_NOTES_POSTGRESQL if url.startswith("postgresql") else _NOTES_SQLITE),
    )


_NOTES_SQLITE = (
    f"""
    CREATE TRIGGER stop BEFORE UPDATE ON jobs WHEN NEW.position = {STOPS_AT}
    BEGIN SELECT RAISE(ABORT, 'no') FROM stops; END
    """,
    """
    CREATE TRIGGER note AFTER UPDATE ON jobs
    BEGIN INSERT INTO changes (position) VALUES (NEW.position); END
    """,
)
_NOTES_POSTGRESQL = (
    f"""
    CREATE FUNCTION note() RETURNS trigger AS $$ BEGIN
      IF NEW.position = {STOPS_AT} AND EXISTS (SELECT FROM stops) THEN
        RAISE EXCEPTION 'no';
      END IF;
      INSERT INTO changes (position) VALUES (NEW.position);
      RETURN NEW;
    END $$ LANGUAGE plpgsql
    """,
    "CREATE TRIGGER note BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION note()",
)


def test_the_rows_that_a_data_step_has_changed_stay_changed_when_it_ends_early(
    old_url: str,
) -> None:
    grown(old_url, jobs=0, waiting=WAITING)
    note_changes(old_url, "once")

    with pytest.raises(NotReachable, match="no"):
        Database.open(old_url)

    [(changed,)] = execute(old_url, "SELECT count(*) FROM changes")
    [(version,)] = execute(old_url, "SELECT version_num FROM alembic_version")
    assert changed == ROWS
    assert version == f"{REVISION}+0003+{ROWS}"
    # Releases so far compare it with their own number as texts, and refuse a greater one.
    assert str(version) > REVISION
    execute(old_url, "DELETE FROM stops")
    with closing(Database.open(old_url)) as database:
        database.check()
        assert numbers(database) == dict.fromkeys(UNFINISHED, 7)
    # Each row once for its number; those that wait once more for their size.
    [(changed, rows)] = execute(
        old_url, "SELECT count(*), count(DISTINCT position) FROM changes"
    )
    assert (changed, rows) == (CHANGED + WAITING + 1, CHANGED)
    [(sizes,)] = execute(old_url, "SELECT count(*) FROM jobs WHERE size = 4")
    assert sizes == WAITING + 1


@pytest.mark.parametrize("step", ["0003", "9998"])
def test_a_release_refuses_a_database_in_the_middle_of_a_newer_one_s_data_step(
    old_url: str, step: str
) -> None:
    Database.open(old_url).close()
    version = f"9998+{step}+{2**53}"
    execute(old_url, f"UPDATE alembic_version SET version_num = '{version}'")

    with pytest.raises(NotReachable, match="a newer release of dispatchd wrote it"):
        Database.open(old_url)


def test_hubs_that_start_at_once_change_each_row_once(old_url: str) -> None:
    grown(old_url, jobs=0, waiting=WAITING)
    note_changes(old_url, "never")
    execute(old_url, "DELETE FROM stops")

    for each in at_once([lambda: Database.open(old_url)] * 3):
        each.check()
        each.close()

    [(changed,)] = execute(old_url, "SELECT count(*) FROM changes")
    assert changed == CHANGED + WAITING + 1


@pytest.mark.host
def test_a_data_step_that_waits_for_a_lock_says_how_far_it_is(
    postgresql: Postgres,
) -> None:
    url = postgresql.new_database()
    grown(url, jobs=0, waiting=WAITING)
    execute(url, *_LOCKS)
    waits = Event()

    def say(progress: Migrating) -> None:
        counts = (progress.step, progress.rows, progress.of)
        if counts == ("0003", ROWS, CHANGED) and progress.waits_for:
            waits.set()

    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(1)")

        def end() -> bool:
            found = waits.wait(120)
            other.execute("SELECT pg_advisory_unlock(1)")
            return found

        database, was_said = at_once(
            [lambda: Database.open(url, say, every_s=0.05), end]
        )

    assert was_said
    assert isinstance(database, Database)
    assert numbers(database) == dict.fromkeys(UNFINISHED, 7)
    database.close()
    postgresql.drop(url)


_LOCKS = (
    f"""
    CREATE FUNCTION lock() RETURNS trigger AS $$ BEGIN
      IF NEW.position = {STOPS_AT} THEN PERFORM pg_advisory_xact_lock(1); END IF;
      RETURN NEW;
    END $$ LANGUAGE plpgsql
    """,
    "CREATE TRIGGER lock BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION lock()",
)


@pytest.mark.host
def test_others_read_while_a_migration_waits_for_one_that_reads_for_long(
    postgresql: Postgres,
) -> None:
    url = postgresql.new_database()
    grown(url, jobs=3)
    waits = Event()

    def say(progress: Migrating) -> None:
        if progress.step == "0003" and progress.waits_for:
            waits.set()

    with psycopg.connect(url) as long, psycopg.connect(url) as other:
        long.execute("SELECT count(*) FROM jobs")
        # Behind the migration, which waits behind the first one.
        other.execute("SET statement_timeout = '60s'")
        other.commit()

        def read() -> int:
            assert waits.wait(120)
            try:
                found = other.execute("SELECT count(*) FROM jobs").fetchall()
            finally:
                other.rollback()
                long.rollback()
            return int(found[0][0])

        database, rows = at_once([lambda: Database.open(url, say, every_s=0.05), read])

    assert rows == 3 + len(UNFINISHED)
    assert isinstance(database, Database)
    database.check()
    database.close()
    postgresql.drop(url)

"""A database of an earlier release that has grown: what its migration leaves alone, and one that is ended in the middle."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from bench.postgres import Postgres

from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.deliveries import DeliveryStore
from dispatchd.hub.storage.jobs.reader import JobReader

UNFINISHED = ("queued", "claimed", "accepted", "running", "needs_attention")
ODD = 'j"ö\\u0000\\'


def grown(url: str, jobs: int) -> None:
    """Make a database of revision 0002 with jobs that have ended, one of each other state, and their deliveries."""
    empty = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with empty.begin() as db:
        config = Config()
        config.set_main_option("script_location", "dispatchd.hub.storage:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = db
        command.upgrade(config, "0002")
        metadata = sa.MetaData()
        metadata.reflect(db)
        states = [*["succeeded"] * jobs, *UNFINISHED]
        ids = [ODD, *(f"j{number}" for number in range(1, len(states)))]
        rows = [_job(job_id, state) for job_id, state in zip(ids, states, strict=True)]
        db.execute(sa.insert(metadata.tables["jobs"]), rows)
        deliveries = [
            {"id": f"of {job_id}", "job_id": job_id, "received_at": 1.0}
            for job_id in ("", *ids)
        ]
        db.execute(sa.insert(metadata.tables["deliveries"]), deliveries)
    empty.dispose()


def _job(job_id: str, state: str) -> dict[str, Any]:
    document = {"id": job_id, "pull_request_number": 7}
    flags = dict.fromkeys(("urgent", "lapsed", "cancel_requested"), False)
    return {"id": job_id, "document": json.dumps(document), "state": state, **flags}


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

"""State folders and databases of every schema so far, made by the releases that wrote them, under today's code."""

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory

from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.codec import SCHEMA_VERSION, to_document
from dispatchd.agent.store.jobs import JobStore
from dispatchd.hub.api.machines import invited
from dispatchd.hub.domain.model import ENDED, HubJob, State
from dispatchd.hub.init import init
from dispatchd.hub.storage import migrations
from dispatchd.hub.storage.backup import backup, restore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.migrate import REVISION
from dispatchd.hub.storage.schema import METADATA
from dispatchd.hub.storage.schema import PAGE_KEY as SESSION_KEY
from support.cli import command
from support.clock import advance, within
from support.daemon import running_daemon, write_config
from support.endpoint import SECRET, endpoint
from support.fixtures import ROOT
from support.hub import hub
from support.machine import Held, Machine
from support.torture import few
from support.until import until

STATES = ROOT / "states"
FOLDERS = {int(file.stem[1:]): file for file in (STATES / "daemon").glob("v*.json")}
"""Schema version of the records to the file with a state folder: path to text, or to nothing for a folder."""

DUMPS = {
    "0001": ROOT / "hub" / "development-form.sql",
    **{file.stem: file for file in (STATES / "hub").glob("*.sql")},
}
"""Migration to a database that had it last."""

_KEYS = {
    "jobs": ("position",),
    "attempts": ("job_id", "number"),
    "texts": ("id",),
    "artifacts": ("job_id", "number"),
    "audit": ("id",),
    "deliveries": ("id",),
    "checks": ("job_id",),
    "licenses": ("id",),
    "job_counts": ("state", "part"),
}
"""The key of each table in every revision, where it isn't its name."""

HOW = f"{STATES / 'PROVENANCE.md'} says how one is made"

WORKFLOWS = {
    "true": ["/bin/true"],
    "flaky": ["/bin/sh", "-c", 'test "$DISPATCHD_ATTEMPT" = 2'],
    "fails": ["/bin/false"],
    "sleeps": ["/bin/false"],
}

folders = pytest.mark.parametrize("version", sorted(FOLDERS))
dumps = pytest.mark.parametrize("revision", sorted(DUMPS))
oldest_and_newest_folder = pytest.mark.parametrize(
    "version", few([min(FOLDERS), *sorted(FOLDERS, reverse=True)[:-1]], 2)
)
oldest_and_newest_dump = pytest.mark.parametrize(
    "revision", few([min(DUMPS), *sorted(DUMPS, reverse=True)[:-1]], 2)
)


def test_each_schema_version_has_a_state_folder_of_its_own() -> None:
    assert sorted(FOLDERS) == list(range(1, SCHEMA_VERSION + 1)), HOW
    for version, file in FOLDERS.items():
        written = {record["schema_version"] for record in _records(file).values()}
        assert written == {version}


def test_each_migration_has_a_database_of_its_own() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__path__[0])))
    revisions = [each.revision for each in scripts.walk_revisions()]
    assert sorted(DUMPS) == sorted(revisions), HOW
    assert max(DUMPS) == REVISION
    # The development form knew no migrations.
    for revision in sorted(DUMPS)[1:]:
        insert = f"INSERT INTO \"alembic_version\" VALUES('{revision}')"
        assert insert in DUMPS[revision].read_text()


@folders
def test_every_record_of_an_older_release_is_there(
    tmp_path: Path, version: int
) -> None:
    unpack(FOLDERS[version], tmp_path)
    written = _records(FOLDERS[version])
    tracked = {name for name, record in written.items() if record["phase"] != "history"}

    store, quarantined = JobStore.open(tmp_path)

    with closing(store):
        assert quarantined == []
        assert {record.job.id for record in store.all()} == tracked
        for name, old in written.items():
            found = store.get(name) or store.past(name)
            assert found is not None
            now: Mapping[str, object] = to_document(found)
            assert now == {**now, **old, "schema_version": SCHEMA_VERSION}
        phases = {record.phase for record in store.all()} | {Phase.HISTORY}
    later = {Phase.NEEDS_ATTENTION: 2, Phase.RELEASING: 4}
    assert phases == {each for each in Phase if later.get(each, 1) <= version}


@oldest_and_newest_folder
async def test_a_daemon_finishes_what_an_older_release_has_begun(
    tmp_path: Path, version: int
) -> None:
    phases = {name: each["phase"] for name, each in _records(FOLDERS[version]).items()}
    past = sum(each in ("history", "releasing") for each in phases.values())
    unfinished = [
        name for name, each in phases.items() if each not in ("history", "releasing")
    ]
    async with endpoint() as cloud:
        # Some of them are of forks.
        limits = "forks_without_isolation = true"
        config = write_config(tmp_path, cloud.url, WORKFLOWS, limits=limits)
        unpack(FOLDERS[version], tmp_path / "state")
        async with running_daemon(config) as daemon:
            by_itself = set(unfinished) - {"j-needs_attention"}
            await cloud.until_finished(*by_itself)
            if version > 1:
                # What an operator has decided holds as well.
                assert not cloud.calls("pull")
                ours = ("--config", str(config))
                for words in (
                    ("resolve", "j-needs_attention", "--retry"),
                    ("resume",),
                ):
                    assert (await command(*words, *ours)).returncode == os.EX_OK
            cloud.hand_out({"id": "new", "dag_name": "true"})
            await cloud.until_finished("new", *unfinished)
            history = daemon.state / "history"
            await until(
                lambda: len(list(history.iterdir())) == len(unfinished) + past + 1
            )
        ended = {name: body["result_status"] for name, body in cloud.finished.items()}
        accepted = set(cloud.accepted)

    # Neither reported nor accepted again: what had been before.
    good = dict.fromkeys([*unfinished, "new"], "succeeded")
    assert ended == {**good, "j-running": "failed"}
    assert {"j-pending_accept", "new"} <= accepted
    assert (daemon.state / "runs/j-retry_wait/attempt-2/exit").exists()
    assert not (daemon.state / "runs/j-running/attempt-2").exists()
    store, quarantined = JobStore.open(daemon.state)
    with closing(store):
        assert (store.all(), quarantined) == ([], [])


@dumps
def test_every_row_of_an_older_release_is_there(tmp_path: Path, revision: str) -> None:
    file = tmp_path / "hub.db"
    before = load(DUMPS[revision], file)

    database = Database.open(f"sqlite:///{file}")

    database.check()
    copy = Database.open(f"sqlite:///{tmp_path / 'restored.db'}")
    rows = backup(database, tmp_path / "backup.db").rows
    assert restore(tmp_path / "backup.db", copy) == rows
    copy.close()
    database.close()
    # `check` leaves a mark of its own.
    now = {name: _rows(file, name) for name in METADATA.tables}
    # The key of the page's sessions stays where it is.
    copied = {
        name: [row for row in found if row.get("name") != SESSION_KEY]
        for name, found in now.items()
    }
    assert rows == sum(len(found) for found in copied.values())
    for name, found in copied.items():
        assert _rows(tmp_path / "restored.db", name) == found
    now["secrets"] = [row for row in now["secrets"] if row["name"] != "written"]
    for name, old in before.items():
        kept = _columns_kept(revision, name, old)
        assert [{each: row[each] for each in kept} for row in now[name]] == [
            {each: row[each] for each in kept} for row in old
        ]
        assert len(kept) >= 2


@oldest_and_newest_dump
async def test_a_hub_finishes_what_an_older_release_has_begun(
    tmp_path: Path, revision: str
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    before = load(DUMPS[revision], folder / "hub.db")["jobs"]
    with closing(sqlite3.connect(folder / "hub.db")) as db, db:
        # A signing key of a real hub would look like a secret, so the dumps have none.
        db.execute("DELETE FROM secrets WHERE name = 'license-signing-key'")
    url = "sqlite:///hub.db"
    init(folder, listen="127.0.0.1:0", database_url=url, license_id="lic-test")
    database = Database.open(f"sqlite:///{folder / 'hub.db'}")
    reader, machines = JobReader(database), MachineStore(database)
    machines.add(invited("m1", SECRET, fixed=True, license_id="lic-test", now=1.0))
    expected = {job.id: _end(job) for job in reader.list(Filter())}
    assert set(expected) == {row["id"] for row in before}

    async with hub(folder) as server:
        machine = Machine(http=server.http, name="m1")
        # Longer than any lease, and than a machine may be silent.
        await advance(2 * 86_400)

        with within(30):
            while await _finish_all(machine) or _unfinished(reader):
                await advance(60)
        assert {job.id: job.state for job in reader.list(Filter())} == expected
    database.close()
    # One that a machine had, and that nobody may go on with.
    assert State.ABORTED in expected.values()


async def _finish_all(machine: Machine) -> int:
    """Let every job succeed that a machine gets now; return how many."""
    count = 0
    while (reply := await machine.ask()).status_code == 200:
        job = Held(machine=machine, job=reply.json(), text=reply.text)
        for said in (await job.accept(), await job.finish()):
            assert said.status_code == 204, said.text
        count += 1
    return count


def _unfinished(reader: JobReader) -> list[HubJob]:
    return [job for job in reader.list(Filter()) if job.state not in ENDED]


def unpack(file: Path, folder: Path) -> None:
    """Write a packed state folder."""
    for name, text in json.loads(file.read_text()).items():
        path = folder / name
        if text is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def load(dump: Path, file: Path) -> dict[str, list[dict[str, Any]]]:
    """Make a database of a dump; return its rows by their tables."""
    with closing(sqlite3.connect(file)) as db:
        db.executescript(dump.read_text())
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        names = {name for (name,) in db.execute(query)}
    return {name: _rows(file, name) for name in names & set(METADATA.tables)}


def _rows(file: Path, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table in the order of their keys, which no migration has changed."""
    key = ", ".join(_KEYS.get(table, ("name",)))
    with closing(sqlite3.connect(file)) as db:
        db.row_factory = sqlite3.Row
        return [
            dict(row) for row in db.execute(f"SELECT * FROM {table} ORDER BY {key}")
        ]


def _end(job: HubJob) -> State:
    """Return how a job ends whose machine is heard of no more, if the next one succeeds."""
    if job.state in ENDED:
        return job.state
    return State.ABORTED if job.cancel_requested else State.SUCCEEDED


def _columns_kept(revision: str, table: str, rows: list[dict[str, Any]]) -> set[str]:
    """Return the columns that have kept name and meaning since a revision."""
    now = {column.name for column in METADATA.tables[table].columns}
    kept = now & set(rows[0]) if rows else now
    # 0002 split the state "finished" by the outcome.
    return kept - {"state"} if (revision, table) == ("0001", "jobs") else kept


def _records(file: Path) -> dict[str, dict[str, Any]]:
    """Return every record of a packed state folder by the job's id."""
    packed: dict[str, str | None] = json.loads(file.read_text())
    records = [
        json.loads(text)
        for name, text in packed.items()
        if text and name.startswith(("jobs/", "history/"))
    ]
    return {record["job"]["id"]: record for record in records}

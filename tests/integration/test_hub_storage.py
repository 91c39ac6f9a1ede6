"""The hub's database: migrated from what was before, backed up while it is in use, restored into either kind."""

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from anyio import to_thread
from sqlalchemy import select, text

from dispatchd.errors import NotReachable, UsageError
from dispatchd.hub.config.load import load
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.domain.model import State
from dispatchd.hub.storage.backup import backup, restore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.jobs.store import JobStore
from dispatchd.hub.storage.migrate import REVISION
from dispatchd.hub.storage.schema import JOBS, METADATA, SECRETS
from support.cli import command, dispatchd
from support.fixtures import ROOT
from support.hub import HubHere, hub
from support.machine import JOBS as JOBS_PATH
from support.machine import Machine, refuses, row

CI = {"dag_name": "ci"}


def rows_of(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything in a database."""
    with database.snapshot() as db:
        return {
            table.name: sorted(tuple(row) for row in db.execute(select(table)))
            for table in METADATA.sorted_tables
        }


def test_the_migrations_make_the_tables_of_the_code(database: Database) -> None:
    # Each kind of new database that tests have was migrated from an empty one.
    with database.transaction() as db:
        context = MigrationContext.configure(db)
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == REVISION
    database.check()


def test_the_development_form_keeps_every_row(tmp_path: Path) -> None:
    file = tmp_path / "hub.db"
    with closing(sqlite3.connect(file)) as before:
        before.executescript((ROOT / "hub" / "development-form.sql").read_text())
        before.row_factory = sqlite3.Row
        old = {each["id"]: dict(each) for each in before.execute("SELECT * FROM jobs")}
        texts = before.execute("SELECT COUNT(*) FROM texts").fetchone()[0]

    database = Database.open(f"sqlite:///{file}")

    reader = JobReader(database)
    found = {job.id: job for job in reader.list(Filter())}
    assert list(found) == list(old)
    assert len(found) == texts == 8
    for job_id, job in found.items():
        was = old[job_id]
        state = was["result_status"] if was["state"] == "finished" else was["state"]
        assert job.state == state
        assert job.document == json.loads(was["document"])
        for name in (
            "machine",
            "token_hash",
            "run_id",
            "result_summary",
            "result_output",
        ):
            assert getattr(job, name) == was[name]
        assert job.deliveries == was["deliveries"]
        assert reader.texts(job_id) is not None
    assert found["failed"].repository == "o/r"
    assert found["running"].cancel_requested
    [claim] = reader.attempts("failed")
    assert (claim.machine, claim.outcome, claim.cause) == ("m1", "failed", "exit-code")
    with database.snapshot() as db:
        assert db.execute(select(SECRETS.c.value)).scalar() == "a-key-of-before"
    claimed = JobStore(database).claim("m2", "hash", None, now=1.0, lease_s=60)
    assert claimed is not None
    assert claimed.job.state is State.CLAIMED
    database.close()


def test_a_database_that_a_newer_release_migrated_while_the_hub_ran_is_not_ready(
    database: Database,
) -> None:
    with database.transaction() as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(StorageBusy, match="9999"):
        database.check()


async def test_a_backup_under_load_restores_to_a_hub_that_goes_on(
    tmp_path: Path, database_url: str, new_database_url: Callable[[], str]
) -> None:
    file = tmp_path / "backup.db"
    async with hub(tmp_path / "first", database_url=database_url) as server:
        machine = Machine(http=server.http, workflows=["ci"])
        await server.submit({"id": "kept", "dag_name": "docs"}, payload='{"a": 1.50}')
        for number in range(2):
            await server.submit({"id": f"before-{number}", **CI})
        finished, running = await machine.pull(), await machine.pull()
        await finished.finish("failed", "No.")
        await running.accept("run-7")
        done = anyio.Event()

        async def load() -> None:
            while not done.is_set():
                await server.submit(CI)
                await (await machine.pull()).finish()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            config = server.folder / "hub.toml"
            said = await command("hub", "backup", str(file), "--config", str(config))
            done.set()
    assert said.returncode == 0, said.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    async with hub(tmp_path / "second", database_url=new_database_url()) as server:
        await server.stop()
        await restored_from(file, server)
        restored = Machine(http=server.http)
        states = {
            name: (await row(server, name))["state"]
            for name in (finished.id, running.id)
        }
        assert states == {finished.id: "failed", running.id: "accepted"}
        again = type(running)(machine=restored, job=running.job, text="")
        assert (await again.accept("run-7")).status_code == 204
        assert (await again.finish()).status_code == 204
        pulled = await Machine(http=server.http, workflows=["docs"]).pull()
        assert pulled.id == "kept"
        assert '"payload": {"a": 1.50}' in pulled.text
        assert await server.submit({"id": "new", **CI}) == "new"
        refuses(await server.http.post(JOBS_PATH, json={"id": finished.id, **CI}), 409)


async def restored_from(file: Path, server: HubHere) -> None:
    """Restore a backup into a hub that is stopped, start it, and let it hand out jobs."""
    # What `hub init` and the test's own machines have made gives way to the backup.
    await to_thread.run_sync(empty, server.folder, server.database_url)
    config = server.folder / "hub.toml"
    said = await command("hub", "restore", str(file), "--config", str(config))
    assert said.returncode == 0, said.stderr
    assert "hub resume" in said.stdout
    await server.start()
    # What has run since the backup may wait again: the owner looks first.
    assert (await Machine(http=server.http).ask()).status_code == 204
    told = (await server.http.get("/api/v1/dispatch")).json()
    assert told["paused"] is True
    assert told["reason"].startswith(f"restored from {file.name}")
    await server.http.post("/api/v1/dispatch/resume")


def empty(folder: Path, url: str) -> None:
    database = open_in(folder, url)
    with database.transaction() as db:
        db.execute(METADATA.tables["machines"].delete())
        if url.startswith("sqlite"):
            # Copied from one template, both hubs have the same first token.
            db.execute(METADATA.tables["tokens"].delete())
    database.close()


def test_a_backup_without_room_leaves_nothing(tmp_path: Path) -> None:
    """A limit of the size of files stands for the end of the disk."""
    made = dispatchd("hub", "init", str(tmp_path / "hub"))
    assert made.returncode == 0
    code = (
        "import resource, signal; from dispatchd.cli.main import main;"
        " signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); main()"
    )
    file = tmp_path / "kept" / "backup.db"
    file.parent.mkdir()
    config = str(tmp_path / "hub" / "hub.toml")
    done = subprocess.run(
        [sys.executable, "-c", code, "hub", "backup", str(file), "--config", config],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1, done
    assert list(file.parent.iterdir()) == []


def test_a_backup_is_the_same_again_in_either_kind_of_database(
    tmp_path: Path, new_database_url: Callable[[], str]
) -> None:
    first = Database.open(f"sqlite:///{tmp_path}/first.db")
    with closing(sqlite3.connect(tmp_path / "old.db")) as old:
        old.executescript((ROOT / "hub" / "development-form.sql").read_text())
    source = Database.open(f"sqlite:///{tmp_path}/old.db")
    rows = backup(source, tmp_path / "backup.db").rows
    target = open_in(tmp_path, new_database_url())

    assert restore(tmp_path / "backup.db", target) == rows
    assert rows_of(target) == rows_of(source)
    with pytest.raises(UsageError, match="already"):
        restore(tmp_path / "backup.db", target)
    with pytest.raises(UsageError, match="already"):
        backup(source, tmp_path / "backup.db")
    with pytest.raises(UsageError, match="no such file"):
        restore(tmp_path / "none.db", first)
    # The next job comes after those of the backup.
    with target.transaction() as db:
        db.execute(
            JOBS.insert().values(
                id="next", urgent=False, lapsed=False, cancel_requested=False
            )
        )
        assert (
            db.execute(select(JOBS.c.position).where(JOBS.c.id == "next")).scalar() == 9
        )
    for each in (first, source, target):
        each.close()


def test_a_damaged_backup_is_refused_and_nothing_of_it_is_copied(
    tmp_path: Path,
) -> None:
    source = open_in(tmp_path, "sqlite:///hub.db")
    with source.transaction() as db:
        for number in range(500):
            db.execute(
                JOBS.insert().values(
                    id=f"j{number}", urgent=False, lapsed=False, cancel_requested=False
                )
            )
    file = tmp_path / "backup.db"
    backup(source, file)
    source.close()
    # The head of a page that opening the file doesn't read.
    content = bytearray(file.read_bytes())
    page = content.rindex(b"j499") // 4096 * 4096
    content[page : page + 8] = b"\xff" * 8
    file.write_bytes(content)
    (tmp_path / "new").mkdir()
    target = open_in(tmp_path / "new", "sqlite:///hub.db")

    with pytest.raises((UsageError, StorageBusy), match=r"damaged|malformed"):
        restore(file, target)

    assert rows_of(target)["jobs"] == []
    target.close()


def test_what_is_no_backup_is_refused_and_the_hub_keeps_its_keys(
    tmp_path: Path,
) -> None:
    """Seen: a file of 0 bytes, as a full disk leaves it, was restored; the keys and the license of the hub were gone."""
    assert dispatchd("hub", "init", str(tmp_path / "hub")).returncode == 0
    config = tmp_path / "hub" / "hub.toml"
    target = Database.open(load(config).database_url)
    before = rows_of(target)
    (tmp_path / "nothing.db").touch()
    Database.open(f"sqlite:///{tmp_path}/tables.db").close()
    with closing(sqlite3.connect(tmp_path / "other.db")) as other, other:
        other.execute("CREATE TABLE jobs (id TEXT)")
        other.execute("INSERT INTO jobs VALUES ('1')")

    for name in ("nothing.db", "tables.db", "other.db"):
        content = (tmp_path / name).read_bytes()
        with pytest.raises(UsageError, match="it is no backup of a hub"):
            restore(tmp_path / name, target)
        assert (tmp_path / name).read_bytes() == content

    assert rows_of(target) == before
    target.close()


@pytest.mark.parametrize("revision", ["0002", REVISION])
def test_a_restore_changes_no_file_of_a_backup(tmp_path: Path, revision: str) -> None:
    """Also that of an earlier release, whose tables are migrated."""
    kept = tmp_path / "kept"
    kept.mkdir()
    with closing(sqlite3.connect(kept / "backup.db")) as old:
        old.executescript((ROOT / "states" / "hub" / f"{revision}.sql").read_text())
    content = (kept / "backup.db").read_bytes()
    target = open_in(tmp_path, "sqlite:///hub.db")

    assert restore(kept / "backup.db", target) > 0
    assert [*kept.iterdir()] == [kept / "backup.db"]
    assert (kept / "backup.db").read_bytes() == content
    target.close()


def test_changes_beside_a_file_that_was_copied_by_hand_are_restored(
    tmp_path: Path,
) -> None:
    """What a hub has committed is in the log beside its file until that is merged."""
    source = Database.open(f"sqlite:///{tmp_path}/source.db")
    source.write(lambda db: db.execute(text("PRAGMA wal_autocheckpoint = 0")))
    target = open_in(tmp_path, "sqlite:///hub.db")
    with source.transaction() as db:
        db.execute(
            JOBS.insert().values(
                id="late", urgent=False, lapsed=False, cancel_requested=False
            )
        )
    (tmp_path / "kept").mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"source.db{suffix}", tmp_path / f"kept/hub.db{suffix}")

    restore(tmp_path / "kept/hub.db", target)

    assert ["late" in row for row in rows_of(target)["jobs"]] == [True]
    for each in (source, target):
        each.close()


def test_a_backup_makes_no_folder(tmp_path: Path) -> None:
    """It may be that of a disk that isn't mounted."""
    source = open_in(tmp_path, "sqlite:///hub.db")
    with pytest.raises(UsageError, match="there is no folder"):
        backup(source, tmp_path / "mnt" / "backup.db")
    source.close()

    assert not (tmp_path / "mnt").exists()


def test_a_file_whose_schema_is_no_text_is_refused(tmp_path: Path) -> None:
    open_in(tmp_path, "sqlite:///hub.db").close()
    file = tmp_path / "hub.db"
    file.write_bytes(
        file.read_bytes().replace(b"CREATE TABLE", b"CREATE \xff\xfe\xffBLE")
    )

    with pytest.raises(NotReachable, match="cannot open the database"):
        Database.open(f"sqlite:///{file}")


async def test_a_job_whose_document_is_damaged_holds_up_no_other(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path) as server:
        for job_id in ("bad", "good"):
            await server.submit({"id": job_id, "dag_name": "ci"})
        with closing(sqlite3.connect(server.folder / "hub.db")) as db:
            db.execute("UPDATE jobs SET document = 'x' WHERE id = 'bad'")
            db.commit()
        machine = Machine(http=server.http)

        # Machines reject it, by the contract, and report that.
        first, second = (await machine.ask()).json(), await machine.pull()
        shown = await server.http.get(f"{JOBS_PATH}/bad")

    assert (first["id"], second.id) == ("bad", "good")
    assert "dag_name" not in first
    assert shown.json()["state"] == "claimed"


def open_in(folder: Path, url: str) -> Database:
    """Open a database; a file is in a folder."""
    return Database.open(url.replace("sqlite:///hub.db", f"sqlite:///{folder}/hub.db"))


def test_a_workflow_of_an_older_release_is_short_enough_for_an_index(
    tmp_path: Path,
) -> None:
    file = tmp_path / "hub.db"
    with closing(sqlite3.connect(file)) as before:
        before.executescript((ROOT / "states/hub/0005.sql").read_text())
        before.execute("UPDATE jobs SET workflow = ? WHERE position = 1", ["ä" * 600])
        before.commit()

    with closing(Database.open(f"sqlite:///{file}")) as database:
        jobs = JobReader(database).list(Filter())

    assert "ä" * 512 in {job.workflow for job in jobs}

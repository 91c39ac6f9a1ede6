"""The writer of SQLite: calls that share a commit, one of them that fails, a commit that fails, and turns that don't come."""

import resource
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import pytest
from attrs import evolve
from sqlalchemy import Connection, event, insert, select

from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.domain.model import Submission
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.engines.sqlite import LOG_BYTES
from dispatchd.hub.storage.engines.turns import awaited, settled
from dispatchd.hub.storage.engines.writer import Writer
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.schema import MARKS
from support.clock import within
from support.until import until

NOW = 1_795_600_000.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path}/hub.db")
    # Calls that wait share a commit, however long this machine takes for each.
    database = evolve(opened, writer=Writer(opened.engine, longest_s=60))
    yield database
    database.close()


def submit(database: Database, job_id: str, payload: str = "null") -> bool:
    submission = Submission(
        id=job_id,
        document={"id": job_id, "dag_name": "ci"},
        payload=payload,
        headers="null",
    )
    return Admission(database).submit(submission, now=NOW, most=10_000) is not None


def jobs(database: Database) -> list[str]:
    return [job.id for job in JobReader(database).list(Filter())]


def add(database: Database, call: Callable[[], Any]) -> Future[Any]:
    assert database.writer is not None
    return database.writer.add(call)


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Keep the writer in a call, so that calls which are added meanwhile share the next transaction."""
    has_begun, may_end = Event(), Event()

    def hold(_: Connection) -> None:
        has_begun.set()
        may_end.wait(60)

    first = add(database, lambda: database.write(hold))
    assert has_begun.wait(60)
    try:
        yield
    finally:
        may_end.set()
        first.result(60)


def test_a_commit_into_a_file_that_was_moved_meanwhile_counts_as_none(
    database: Database, tmp_path: Path
) -> None:
    file, aside = tmp_path / "hub.db", tmp_path / "aside.db"

    def moving(_: Connection) -> None:
        submit(database, "j")
        file.rename(aside)

    with pytest.raises(StorageBusy, match="removed or replaced"):
        database.write(moving)
    aside.rename(file)

    assert jobs(database) == ["j"], (
        "it is the same file again, and has what it was told"
    )
    assert not submit(database, "j")


def test_calls_that_wait_together_share_a_commit(database: Database) -> None:
    commits: list[None] = []
    event.listen(database.engine, "commit", lambda _: commits.append(None))
    with held(database):
        calls = [
            add(database, lambda name=name: submit(database, name))  # type: ignore[misc]
            for name in "abcde"
        ]

    assert [call.result(60) for call in calls] == [True] * 5
    assert jobs(database) == [*"abcde"]
    # That of the call which held it, and theirs.
    assert len(commits) == 2


def test_a_call_that_fails_takes_nothing_of_the_others_with_it(
    database: Database,
) -> None:
    def fail_late(db: Connection) -> None:
        db.execute(insert(MARKS).values(name="half", value=""))
        raise KeyError("half")

    def fail_in_sql(db: Connection) -> None:
        db.execute(insert(MARKS).values(name="other half", value=""))
        db.execute(insert(MARKS).values(name="other half", value=""))

    with held(database):
        first = add(database, lambda: submit(database, "a"))
        late = add(database, lambda: database.write(fail_late))
        sql = add(database, lambda: database.write(fail_in_sql))
        last = add(database, lambda: submit(database, "b"))

    assert (first.result(60), last.result(60)) == (True, True)
    with pytest.raises(KeyError, match="half"):
        late.result(60)
    with pytest.raises(StorageBusy, match="UNIQUE"):
        sql.result(60)
    assert jobs(database) == ["a", "b"]
    assert [MarkStore(database).get(name) for name in ("half", "other half")] == [
        ""
    ] * 2


def test_a_call_sees_those_before_it_and_none_is_answered_before_the_commit(
    database: Database,
) -> None:
    with held(database):
        first = add(database, lambda: submit(database, "a"))
        second = add(
            database, lambda: (first.done(), jobs(database), submit(database, "a"))
        )

    assert second.result(60) == (False, ["a"], False)


@contextmanager
def full_disk(database: Database) -> Iterator[None]:
    """Let no file grow beyond the size that the database's log has now."""
    size = Path(f"{database.file}-wal").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_of_a_commit_that_fails_no_call_counts_as_written(
    database: Database, tmp_path: Path
) -> None:
    submit(database, "before")
    with full_disk(database):
        with held(database):
            calls = [
                add(database, lambda name=name: submit(database, name))  # type: ignore[misc]
                for name in "abc"
            ]
            # It has failed before, and can't say so: what it has seen may be gone.
            taken = add(database, lambda: submit(database, "a"))
        for call in (*calls, taken):
            with pytest.raises(StorageBusy, match=r"full|disk"):
                call.result(60)
        assert jobs(database) == ["before"]

    assert submit(database, "b")
    assert jobs(database) == ["before", "b"]
    database.close()
    again = Database.open(f"sqlite:///{tmp_path}/hub.db")
    assert jobs(again) == ["before", "b"]
    again.close()


def test_nothing_is_stored_after_sqlite_has_ended_the_transaction(
    database: Database,
) -> None:
    """Also of a call that continues after its error, because that call is told that all of it failed."""
    marks = MarkStore(database)

    def end(db: Connection) -> None:
        driver: Any = db.connection.driver_connection
        driver.rollback()
        raise StorageBusy("full")

    def work() -> None:
        with suppress(StorageBusy):
            database.write(end)
        marks.put("m", "stored")

    with held(database):
        call = add(database, work)

    assert isinstance(call.exception(60), StorageBusy)
    assert marks.get("m") == ""


def test_a_read_waits_for_no_change(database: Database) -> None:
    submit(database, "a")
    with held(database):
        assert jobs(database) == ["a"]


def test_the_log_of_changes_stays_small_although_there_are_always_reads(
    tmp_path: Path, database: Database
) -> None:
    is_over, rows = Event(), select(MARKS.c.name)

    def read() -> None:
        while not is_over.is_set():
            with database.snapshot() as db:
                db.execute(rows).all()
                # A read of many rows takes as long.
                is_over.wait(0.03)

    with ThreadPoolExecutor(6) as threads:
        reading = [threads.submit(read) for _ in range(6)]
        try:
            for number in range(2 * LOG_BYTES >> 20):
                # SQLite doesn't write what is the same already.
                MarkStore(database).put("m", "ab"[number % 2] * (1 << 20))
        finally:
            is_over.set()

    for each in reading:
        each.result(60)
    assert (tmp_path / "hub.db-wal").stat().st_size < LOG_BYTES + (4 << 20)


def test_a_reading_connection_changes_nothing(database: Database) -> None:
    with pytest.raises(StorageBusy, match="readonly"), database.snapshot() as db:
        db.execute(insert(MARKS).values(name="m", value=""))


def test_a_call_whose_turn_does_not_come_is_not_made(database: Database) -> None:
    with held(database), pytest.raises(StorageBusy, match="others have used it"):
        submit(database, "late")

    assert jobs(database) == []


def test_a_call_is_not_made_either_if_its_turn_does_not_come_in_a_shared_transaction(
    database: Database,
) -> None:
    has_begun, may_end = Event(), Event()

    def work(_: Connection) -> None:
        has_begun.set()
        may_end.wait(60)

    with held(database):
        before = add(database, lambda: submit(database, "a"))
        add(database, lambda: database.write(work))
        late = add(database, lambda: submit(database, "late"))
    assert has_begun.wait(60)
    try:
        with pytest.raises(StorageBusy, match="others have used it"):
            settled(late)
    finally:
        may_end.set()

    assert before.result(60)
    assert jobs(database) == ["a"]


async def test_a_caller_that_is_gone_before_its_turn_has_no_call_made(
    database: Database,
) -> None:
    with within(60):
        async with anyio.create_task_group() as tasks:
            with held(database):
                call = add(database, lambda: submit(database, "gone"))
                tasks.start_soon(awaited, call)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
                await until(call.cancelled)

    assert jobs(database) == []


async def test_a_caller_that_is_gone_in_its_turn_waits_for_the_end_of_its_call(
    database: Database,
) -> None:
    has_begun, may_end = Event(), Event()

    def work() -> bool:
        has_begun.set()
        may_end.wait(60)
        return submit(database, "gone")

    with within(60):
        async with anyio.create_task_group() as tasks:
            call = add(database, work)
            tasks.start_soon(awaited, call)
            await until(has_begun.is_set)
            tasks.cancel_scope.cancel()
            may_end.set()

    assert call.done()
    assert jobs(database) == ["gone"]


def test_a_database_that_is_closed_makes_the_calls_that_wait(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hub.db"
    database = Database.open(url)
    with ThreadPoolExecutor(1) as threads:
        with held(database):
            call = add(database, lambda: submit(database, "a"))
            closing = threads.submit(database.close)
        closing.result(60)

    assert call.result(60)
    again = Database.open(url)
    assert jobs(again) == ["a"]
    again.close()

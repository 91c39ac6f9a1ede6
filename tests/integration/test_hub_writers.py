"""Several writers: what is decided by what others write at the same time, on each kind of database."""

from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import httpx
import psycopg
import pytest
from sqlalchemy import insert, select

from dispatchd.hub.domain.errors import Locked, StorageBusy
from dispatchd.hub.domain.model import (
    Check,
    Delivery,
    HubJob,
    Machine,
    State,
    Submission,
    Token,
)
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.backup import backup
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.deliveries import DeliveryStore
from dispatchd.hub.storage.jobs.reader import JobReader
from dispatchd.hub.storage.jobs.rows import values_of
from dispatchd.hub.storage.jobs.store import JobStore
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.migrate import Migrating
from dispatchd.hub.storage.schema import ATTEMPTS, CHECKS, DELIVERIES, JOBS, TEXTS
from dispatchd.hub.storage.tokens import TokenStore
from support.hub import Hub
from support.threads import at_once

NOW = 1_795_600_000.0


def submit(
    database: Database,
    job_id: str,
    document: dict[str, Any],
    delivery: Delivery | None = None,
    **more: Any,
) -> HubJob | None:
    submission = Submission(
        id=job_id,
        document={"id": job_id, "dag_name": "ci", **document},
        payload="null",
        headers="null",
        **more,
    )
    return Admission(database).submit(
        submission, now=NOW, most=10_000, delivery=delivery
    )


def test_of_two_commits_that_come_at_once_the_older_is_superseded(
    database: Database,
) -> None:
    states = []
    for number in range(1, 11):
        pushed = {
            "event_name": "pull_request",
            "repository_name": "o/r",
            "pull_request_number": number,
        }
        ids = [f"{number}{name}" for name in "ab"]
        at_once(
            [
                lambda job_id=job_id, pushed=pushed: submit(  # type: ignore[misc]
                    database, job_id, {**pushed, "sha": job_id}, by_event=True
                )
                for job_id in ids
            ]
        )
        found = [JobReader(database).get(each) for each in ids]
        states.append(sorted(each.state for each in found if each))

    assert states == [[State.QUEUED, State.SUPERSEDED]] * 10


def test_no_two_jobs_of_a_repository_have_one_turn(database: Database) -> None:
    named = {"repository_name": "noisy/one"}

    jobs = at_once(
        [
            lambda number=number: submit(database, f"j{number}", named)  # type: ignore[misc]
            for number in range(10)
        ]
    )

    assert sorted(job.turn for job in jobs if job) == list(range(10))


def test_jobs_that_name_one_delivery_at_once_are_all_of_it(database: Database) -> None:
    names = "abcdef"

    jobs = at_once(
        [
            lambda name=name: submit(  # type: ignore[misc]
                database, name, {}, Delivery(id="d", job_ids=(name,))
            )
            for name in names
        ]
    )

    delivery = DeliveryStore(database).get("d")
    assert None not in jobs
    assert delivery is not None
    assert sorted(delivery.job_ids) == list(names)


def test_one_id_that_is_submitted_by_many_at_once_is_one_job(
    database: Database,
) -> None:
    jobs = at_once([lambda: submit(database, "j", {})] * 8)

    assert sum(job is not None for job in jobs) == 1


def test_what_is_made_once_is_made_once_by_many_at_once(database: Database) -> None:
    tokens, marks, machines = (
        TokenStore(database),
        MarkStore(database),
        MachineStore(database),
    )
    names = [f"v{number}" for number in range(8)]

    values = at_once(
        [lambda name=name: tokens.secret("s", lambda: name) for name in names]  # type: ignore[misc]
    )
    at_once([lambda name=name: marks.put("m", name) for name in names])  # type: ignore[misc]
    at_once([lambda: machines.add_license("lic", now=NOW)] * 8)
    at_once([database.check] * 8)
    added = at_once(
        [lambda: tokens.add(Token(name="t", token_hash="h", scopes="read"))] * 8
    )

    assert len(set(values)) == 1
    assert marks.get("m") in names
    assert sum(added) == 1


def test_of_two_machines_that_activate_under_one_id_only_one_has_it(
    database: Database,
) -> None:
    machines = MachineStore(database)
    for name in ("a", "b"):
        machines.add(Machine(name=name, key_hash=name))

    def enrol(name: str) -> None:
        def decide(machine: Machine, namesake: Machine | None) -> Machine:
            if namesake is not None and namesake.name != machine.name:
                return machine
            return Machine(name=machine.name, key_hash=name, server_id="same")

        machines.enrol(name, "same", decide)

    at_once([lambda: enrol("a"), lambda: enrol("b")])

    assert sorted(each.server_id for each in machines.list()) == ["", "same"]


async def test_many_who_ask_at_once_hear_that_the_hub_is_ready(
    each_server: Hub,
) -> None:
    replies: list[httpx.Response] = []

    async def ask() -> None:
        replies.append(await each_server.http.get("/readyz"))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask)

    assert Counter(each.status_code for each in replies) == {200: 20}


def test_a_backup_is_of_one_moment_while_others_write(
    database: Database, tmp_path: Path
) -> None:
    old = [
        HubJob(id=f"o{number}", document={}, state=State.ABORTED, created_at=NOW)
        for number in range(3000)
    ]
    with database.transaction() as db:
        db.execute(insert(JOBS), [values_of(each) for each in old])
    is_done = Event()

    def go_on(name: str) -> None:
        number = 0
        while not is_done.is_set():
            number += 1
            job_id = f"{name}{number}"
            check = Check(repository="o/r", sha="a", name="ci")
            delivery = Delivery(id=job_id, job_ids=(job_id,))
            with suppress(Locked, StorageBusy):
                submit(database, job_id, {}, delivery, check=check)
                JobStore(database).claim("m", "t", None, now=NOW, lease_s=60)

    def copy() -> None:
        # As `hub backup` does, in a process of its own.
        url = database.engine.url.render_as_string(hide_password=False)
        try:
            with closing(Database.open(url)) as own:
                for number in range(3):
                    backup(own, tmp_path / str(number))
        finally:
            is_done.set()

    at_once([lambda: go_on("a"), lambda: go_on("b"), copy])

    for number in range(3):
        kept = Database.open(f"sqlite:///{tmp_path / str(number)}")
        with kept.snapshot() as db:
            new = {
                job_id
                for job_id in db.execute(select(JOBS.c.id)).scalars()
                if not job_id.startswith("o")
            }
            for column in (TEXTS.c.id, CHECKS.c.job_id, DELIVERIES.c.id):
                assert set(db.execute(select(column)).scalars()) == new
            claimed = select(JOBS.c.id).where(JOBS.c.deliveries > 0)
            attempts = set(db.execute(select(ATTEMPTS.c.job_id)).scalars())
            assert set(db.execute(claimed).scalars()) == attempts
        kept.close()


def test_a_database_is_opened_while_another_process_writes(database: Database) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    with database.transaction() as db:
        db.execute(insert(JOBS), [values_of(HubJob(id="j", document={}))])
        with closing(Database.open(url)) as other, other.snapshot() as seen:
            assert seen.execute(select(JOBS.c.id)).scalars().all() == []


def test_work_that_another_transaction_kept_from_succeeding_is_done_again(
    database: Database,
) -> None:
    if not database.is_shared:
        pytest.skip("one writer at a time")
    first, second = Event(), Event()
    for job_id in ("a", "b"):
        submit(database, job_id, {"repository_name": job_id})
    tries: list[str] = []

    def lock_both(names: str, mine: Event, other: Event) -> None:
        def work(db: Any) -> None:
            tries.append(names)
            for name in names:
                query = select(JOBS.c.id).where(JOBS.c.id == name)
                db.execute(query.with_for_update())
                mine.set()
                other.wait(10)

        database.write(work)

    at_once(
        [lambda: lock_both("ab", first, second), lambda: lock_both("ba", second, first)]
    )

    # Once more each time that the one which gave way is back before the other has woken up.
    assert 3 <= len(tries) <= 2 + 4
    assert {*tries} == {"ab", "ba"}


def test_a_cancel_job_locks_only_what_it_means(database: Database) -> None:
    if not database.is_shared:
        pytest.skip("one writer at a time")
    pulled = {"repository_name": "o/r", "pull_request_number": 7}
    submit(database, "victim", pulled)
    submit(database, "other", {"repository_name": "o/r"})
    store = JobStore(database)
    claimed: list[str | None] = []

    def cancel(db: Any, document: dict[str, Any]) -> None:
        submission = Submission(
            id=f"c{len(claimed)}",
            document={"command": "cancel", **document},
            payload="null",
            headers="null",
        )
        Admission(database).admit(db, submission, now=NOW, most=10)
        found = store.claim("m", "t", ["ci"], now=NOW, lease_s=60)
        claimed.append(found.job.id if found else None)

    database.write(lambda db: cancel(db, {"dag_run_id": "victim"}))
    submit(database, "third", {"repository_name": "o/r"})
    submit(database, "victim2", pulled)
    database.write(lambda db: cancel(db, {**pulled, "dag_name": "ci"}))

    states = [JobReader(database).get(each) for each in ("victim", "victim2")]
    assert claimed == ["other", "third"]
    assert [job.state for job in states if job] == [State.ABORTED] * 2


@pytest.mark.host
def test_a_start_that_waits_for_a_migration_says_that_it_goes_on(
    postgresql_url: str,
) -> None:
    with psycopg.connect(postgresql_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (0x64697370,))
        said = Event()

        def say(progress: Migrating) -> None:
            if progress.waits_for.startswith("another hub process"):
                said.set()

        def end_the_migration() -> None:
            assert said.wait(60)
            other.rollback()

        [database, _] = at_once(
            [
                lambda: Database.open(postgresql_url, say, every_s=0.05),
                end_the_migration,
            ]
        )

    assert isinstance(database, Database)
    database.check()
    database.close()

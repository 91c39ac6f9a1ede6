"""Plans of every frequent statement, on both kinds of database: none reads all rows of a table that grows."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import evolve
from sqlalchemy import Connection, Engine, event

from dispatchd.hub.config.load import Leases
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.binding import Binding
from dispatchd.hub.domain.model import Check, Delivery, Submission
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.deliveries import DeliveryStore
from dispatchd.hub.storage.jobs.checks import CheckStore
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.jobs.store import JobStore

GROWING = ("jobs", "texts", "attempts", "checks", "deliveries", "marks")
PUSHED = {
    "dag_name": "ci",
    "event_name": "pull_request",
    "repository_name": "o/r",
    "repository_id": 7,
    "pull_request_number": 3,
}
LEASES = Leases()


@contextmanager
def scans() -> Iterator[tuple[list[str], list[str]]]:
    """Collect the statements of a block on growing tables, and those of them that read all rows of one."""
    seen: list[str] = []
    found: list[str] = []

    def explain(
        db: Connection, _cursor: object, statement: str, given: Any, *_: object
    ) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append(statement)
            found.extend(
                f"{statement}: {step}"
                for step in steps(db, statement, given)
                if is_scan(step)
            )

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield seen, found
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


def steps(db: Connection, statement: str, given: Any) -> list[str]:
    driver: Any = db.connection.driver_connection
    if db.dialect.name == "sqlite":
        rows = driver.execute(f"EXPLAIN QUERY PLAN {statement}", given)
        return [row[3] for row in rows.fetchall()]
    # The tables are small here: the question is whether there is another way.
    driver.execute("SET LOCAL enable_seqscan = off")
    driver.execute("SET LOCAL jit = off")
    rows = driver.execute(f"EXPLAIN (FORMAT JSON) {statement}", given)
    return [*_nodes(rows.fetchone()[0][0]["Plan"])]


def _nodes(plan: dict[str, Any]) -> Iterator[str]:
    yield f"{plan['Node Type']} on {plan.get('Relation Name', '')}"
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)


def is_scan(step: str) -> bool:
    return any(
        re.match(rf"(SCAN {table}\b|Seq Scan on {table}$)", step) for table in GROWING
    )


def submit(database: Database, job_id: str, document: dict[str, Any]) -> None:
    submission = Submission(
        id=job_id,
        document={"id": job_id, **document},
        payload="null",
        headers="null",
        supersedes=True,
        by_event=True,
        check=Check(repository="o/r", sha="a", name="ci"),
    )
    delivery = Delivery(id=f"of {job_id}", job_ids=(job_id,))
    Admission(database).submit(
        submission, now=1.0, most=10, most_bytes=10**6, delivery=delivery
    )


def test_no_change_of_a_job_reads_all_rows_of_a_table(database: Database) -> None:
    store = JobStore(database)
    with scans() as (seen, found):
        submit(database, "a", {**PUSHED, "sha": "1"})
        submit(database, "b", {**PUSHED, "sha": "2"})
        submit(database, "c", {"command": "cancel", "dag_run_id": "b"})
        submit(database, "d", {**PUSHED, "command": "cancel"})
        submit(database, "e", {**PUSHED, "sha": "3"})
        bound = Binding(workflows=("ci",), repositories=("o/*",))
        store.claim("m", "", ["none"], now=2.0, lease_s=60)
        store.claim("m", "", ["ci"], now=2.0, lease_s=60, binding=bound)
        store.claim("m", "", None, now=2.0, lease_s=60)
        store.change("e", lambda job: claim_rules.cancel(job, now=3.0))
        store.shorten_leases(LEASES, now=3.0, also=True)
        store.expire(lambda job: job, now=10**6, leases=LEASES)
        store.end_cancel_jobs(now=3.0)
        store.next_expiry(LEASES)
        store.prune(before=10.0)
        DeliveryStore(database).prune(before=0.5, of_hooks_before=0.5)
        # Strangers cause it, by coming back from a login.
        MarkStore(database).put_until("login used ", "b", 2.0, now=1.0)

    assert found == []
    assert len(seen) > 30


def test_no_look_reads_all_rows_of_a_table(database: Database) -> None:
    submit(database, "a", PUSHED)
    reader, checks = JobReader(database), CheckStore(database)
    with scans() as (seen, found):
        reader.get("a")
        reader.texts("a")
        reader.attempts("a")
        reader.requeued_of("a")
        for state in ("", "queued", "succeeded"):
            for repository in ("", "o/r"):
                for workflow in ("", "ci"):
                    if state or repository or workflow:
                        wanted = Filter(
                            state=state, repository=repository, workflow=workflow
                        )
                        reader.list(wanted)
                        reader.list(evolve(wanted, before="a"))
        theirs = frozenset({"o/r", "o/s"})
        for state in ("", "queued"):
            for workflow in ("", "ci"):
                assert (
                    len(
                        reader.list(
                            Filter(state=state, workflow=workflow, repositories=theirs)
                        )
                    )
                    == 1
                )
        assert reader.list(Filter(repositories=frozenset({"o/s"}))) == []
        assert reader.repositories(10) == ["o/r"]
        reader.counts()
        reader.heard_at(lease_s=60, now=1.0)
        reader.oldest_queued_at()
        checks.due(now=1.0, limit=10)
        checks.get("a")
        checks.next_due_at(now=1.0)
        checks.pending_count()
        DeliveryStore(database).get("of a")
        DeliveryStore(database).known("", ["of a"])

    assert found == []
    assert len(seen) > 20


def test_the_newest_jobs_are_read_from_the_end(database: Database) -> None:
    with scans() as (seen, _):
        JobReader(database).list(Filter())
        JobReader(database).list(Filter(before="a"))
        DeliveryStore(database).list(100)

    assert all("LIMIT" in statement for statement in seen)
    assert json.dumps(seen).count("ORDER BY") == 3

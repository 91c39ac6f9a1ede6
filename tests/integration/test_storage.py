"""What the hub's stores promise, through their own interfaces and on each kind of database."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen
from bench.postgres import Postgres
from sqlalchemy import func, insert, select

from dispatchd.hub.config.load import Leases
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.binding import Binding
from dispatchd.hub.domain.errors import Locked, QueueFull, StorageBusy
from dispatchd.hub.domain.model import (
    Check,
    Claimed,
    Delivery,
    HubJob,
    Machine,
    Result,
    Standing,
    State,
    Submission,
    Token,
)
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.deliveries import (
    DeliveryStore,
    add_again,
    keep_delivery,
)
from dispatchd.hub.storage.jobs.checks import CheckStore
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.jobs.rows import values_of
from dispatchd.hub.storage.jobs.store import JobStore
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.schema import (
    ATTEMPTS,
    CHECKS,
    JOBS,
    LICENSES,
    MARKS,
    METADATA,
    TEXTS,
    Words,
)
from dispatchd.hub.storage.tokens import TokenStore
from support.threads import at_once

NOW = 1_795_600_000.0
LEASES = Leases(seconds=60, patience_s=300, unheard_s=86_400)
LONG = "".join(map(chr, range(0x4E00, 0x4E00 + 512)))
"""As long as a name may be, and nothing that an index could make shorter."""

PUSHED = {
    "dag_name": "ci",
    "event_name": "pull_request",
    "repository_name": "o/r",
    "pull_request_number": 7,
}


class No(Exception):
    """Says that nothing is to be changed."""


def refuse(*_: object) -> Any:
    raise No


@frozen
class Store:
    """The jobs of a database, with what a test leaves to chance filled in."""

    database: Database

    @property
    def jobs(self) -> JobStore:
        return JobStore(self.database)

    @property
    def reader(self) -> JobReader:
        return JobReader(self.database)

    def submit(
        self,
        job_id: str,
        document: dict[str, Any] | None = None,
        *,
        now: float = NOW,
        most: int = 1000,
        delivery: Delivery | None = None,
        **more: Any,
    ) -> HubJob | None:
        submission = Submission(
            id=job_id,
            document={"dag_name": "ci"} if document is None else document,
            **{"payload": "null", "headers": "null", **more},
        )
        return Admission(self.database).submit(
            submission, now=now, most=most, delivery=delivery
        )

    def claim(
        self,
        machine: str = "m1",
        workflows: list[str] | None = None,
        *,
        now: float = NOW,
        token: str = "token",
    ) -> Claimed | None:
        return self.jobs.claim(
            machine, token, workflows, now=now, lease_s=LEASES.seconds
        )

    def order(self, machine: str = "m1", workflows: list[str] | None = None) -> str:
        """Claim all that a machine may have, and return the ids in their order."""
        ids: list[str] = []
        while True:
            try:
                claimed = self.claim(machine, workflows)
            except Locked:
                continue
            if claimed is None:
                return " ".join(ids)
            ids.append(claimed.job.id)

    def get(self, job_id: str) -> HubJob:
        found = self.reader.get(job_id)
        assert found is not None
        return found

    def change(self, job_id: str, **fields: Any) -> HubJob:
        changed = self.jobs.change(job_id, lambda job: evolve(job, **fields))
        assert changed is not None
        return changed[1]

    def expire(self, now: float) -> list[str]:
        expired = self.jobs.expire(
            lambda job: claim_rules.expire(job, now=now, most=3), now=now, leases=LEASES
        )
        return sorted(each.id for each in expired)

    def states(self) -> dict[str, str]:
        return {each.id: each.state.value for each in self.reader.list(Filter())}

    def count(self, table: Any) -> int:
        with self.database.snapshot() as db:
            return int(db.execute(select(func.count()).select_from(table)).scalar_one())

    def fill(self, jobs: Iterable[HubJob]) -> None:
        """Put many jobs into the tables at once."""
        with self.database.transaction() as db:
            db.execute(insert(JOBS), [values_of(each) for each in jobs])


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


# Jobs: in, out, and how they stand.


def test_a_job_is_kept_as_it_was_submitted(store: Store) -> None:
    document = {**PUSHED, "own": [1.5, {"ä": None}]}
    exact = '{"z": 1.50, "a": 1, "a": -0.0, "e": "\\ud800 é\U0001f600"}'

    job = store.submit(
        "j", document, payload=exact, headers="[ ]", priority=3, event_at=5.5
    )

    assert job == store.get("j")
    assert job is not None
    assert job.document == document
    assert (job.workflow, job.repository, job.number) == ("ci", "o/r", 7)
    assert (job.priority, job.event_at, job.created_at) == (3, 5.5, NOW)
    assert job.state is State.QUEUED
    assert store.reader.texts("j") == (exact, "[ ]")
    assert store.reader.texts("k") is None
    assert store.reader.get("k") is None
    assert store.reader.attempts("j") == []


def test_a_taken_id_changes_nothing(store: Store) -> None:
    store.submit("old", {**PUSHED, "sha": "a"})
    store.submit("j", payload="1")

    again = store.submit(
        "j", {**PUSHED, "sha": "b"}, payload="2", delivery=Delivery(id="d")
    )

    assert again is None
    assert store.reader.texts("j") == ("1", "null")
    assert store.states() == {"old": "queued", "j": "queued"}
    assert DeliveryStore(store.database).get("d") is None


def test_one_of_many_submits_of_an_id_is_taken(store: Store) -> None:
    found = at_once([lambda: store.submit("j")] * 6)

    assert Counter(each is None for each in found) == {True: 5, False: 1}
    assert (store.count(JOBS), store.count(TEXTS)) == (1, 1)


def test_a_full_queue_takes_cancel_jobs_alone_and_keeps_nothing_of_others(
    store: Store,
) -> None:
    store.submit("a", most=2)
    store.submit("b", most=2, received=True)

    with pytest.raises(QueueFull):
        store.submit("c", most=2, delivery=Delivery(id="d"))
    store.submit("stop", {"command": "cancel", "dag_run_id": "x"}, most=2)

    assert list(store.states()) == ["a", "b", "stop"]
    assert DeliveryStore(store.database).list(9) == []
    store.claim()
    store.claim()
    assert store.submit("c", most=2) is not None


def test_priority_goes_first_and_then_age(store: Store) -> None:
    for job_id, priority in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)]:
        store.submit(job_id, priority=priority)

    assert store.order() == "b d a e c"


@pytest.mark.parametrize("stuck", [{"dag_name": "gpu"}, {"command": "cancel"}])
def test_a_job_that_nobody_takes_ends_no_turns_of_others(
    store: Store, stuck: dict[str, Any]
) -> None:
    def submit(job_id: str, repository: str) -> None:
        store.submit(job_id, {"dag_name": "ci", "repository_name": repository})

    store.submit("stuck", {"repository_name": "x", **stuck})
    if "command" in stuck:
        store.change("stuck", only_machine="off")
    for number in range(10):
        submit(f"r{number}", "r")
    submit("t", "t")
    order = []
    for number in range(12):
        claimed = store.claim(workflows=["ci"])
        assert claimed is not None
        order.append(claimed.job.repository)
        if claimed.job.repository == "t":
            submit(f"t{number}", "t")

    assert "".join(order) == "rt" * 6


def test_the_turn_that_it_is_never_goes_back(store: Store) -> None:
    for number in range(3):
        store.submit(f"r{number}", {"dag_name": "ci", "repository_name": "r"})
    store.submit("old", {"dag_name": "gpu", "repository_name": "x"})
    for _ in range(3):
        store.claim(workflows=["ci"])
    store.claim(workflows=["gpu"])

    new = store.submit("new", {"dag_name": "ci", "repository_name": "n"})

    assert new is not None
    assert (store.get("r2").turn, store.get("old").turn, new.turn) == (2, 0, 2)


def test_repositories_take_turns(store: Store) -> None:
    many, few = {"repository_name": "o/many"}, {"repository_name": "o/few"}
    for number in range(4):
        store.submit(f"m{number}", many)
    store.submit("f0", few)
    assert store.claim() is not None
    store.submit("l0", {"repository_name": "o/late"})
    store.submit("f1", few)

    assert store.order() == "f0 l0 m1 f1 m2 m3"


def test_a_machine_gets_only_what_it_declares_and_what_is_for_it(store: Store) -> None:
    for name in ("ci", "docs", "a\0b", LONG):
        store.submit(f"j-{name[:4]}", {"dag_name": name})
    held = store.claim("m2", ["docs"])
    assert held is not None
    store.change(held.job.id, state=State.ACCEPTED, run_id="run")
    store.submit("stop", {"command": "cancel", "dag_run_id": "run"})

    assert store.order("m1", []) == ""
    assert store.order("m2", []) == "stop"
    assert store.order("m1", ["a\0b", "\0", "x" * 5000]) == "j-a\ufffdb"
    assert store.order("m1", ["none", LONG]) == f"j-{LONG[:4]}"
    assert store.order("m1") == "j-ci"


def test_a_claim_comes_with_the_exact_texts_and_is_noted(store: Store) -> None:
    payload = '"' + "é" * 2_000_000 + '"'
    store.submit("j", payload=payload, headers='{"X": "1"}')

    claimed = store.claim("m1", token="hash", now=NOW + 1)

    assert claimed is not None
    assert (claimed.payload, claimed.headers) == (payload, '{"X": "1"}')
    assert claimed.job == store.get("j")
    job = claimed.job
    assert (job.state, job.machine, job.token_hash) == (State.CLAIMED, "m1", "hash")
    assert (job.lease_until, job.deliveries) == (NOW + 61, 1)
    [attempt] = store.reader.attempts("j")
    assert (attempt.number, attempt.machine, attempt.outcome) == (1, "m1", "")
    assert (attempt.claimed_at, attempt.lease_until) == (NOW + 1, NOW + 61)


def test_no_job_is_claimed_twice_however_many_claim_at_once(store: Store) -> None:
    ids = [f"j{number}" for number in range(40)]
    for job_id in ids:
        store.submit(job_id)

    taken = at_once([lambda: store.order().split()] * 8)

    assert Counter(each for some in taken for each in some) == Counter(ids)


def test_each_claim_is_noted_with_what_came_of_it(store: Store) -> None:
    held = claim_rules.Claim(machine="m1", token_hash="token")

    def change(decide: Callable[[HubJob], HubJob]) -> None:
        assert store.jobs.change("j", decide) is not None

    store.submit("j")
    store.claim()
    change(lambda job: claim_rules.release(job, held, now=NOW + 1))
    claimed = store.claim()
    assert claimed is not None
    change(
        lambda job: claim_rules.take_back(job, held, before=claimed.before, now=NOW + 2)
    )
    store.claim("m2", now=NOW + 3)
    assert store.expire(NOW + 100) == ["j"]
    store.claim(now=NOW + 200)
    result = Result(status="failed", summary="No.", cause="exit-code", details="{}")
    change(lambda job: claim_rules.finish(job, held, result=result, now=NOW + 201))

    seen = [
        (each.number, each.machine, each.outcome, each.cause, each.ended_at - NOW)
        for each in store.reader.attempts("j")
    ]
    assert seen == [
        (1, "m1", "released", "", 1),
        (2, "m2", "expired", "", 63),
        (3, "m1", "failed", "exit-code", 201),
    ]
    job = store.get("j")
    assert (job.deliveries, job.expiries, job.result_details) == (3, 1, "{}")


def test_a_late_end_amends_what_was_noted_of_its_claim(store: Store) -> None:
    held = claim_rules.Claim(machine="m1", token_hash="token")
    store.submit("j")
    store.claim()
    store.expire(NOW + 60)
    standing = Standing(phase="running", progress='{"message": "half"}')
    store.jobs.change(
        "j",
        lambda job: claim_rules.beat(
            job, held, standing=standing, lease_until=NOW + 99
        ),
    )

    [attempt] = store.reader.attempts("j")

    assert (attempt.outcome, attempt.ended_at) == ("", 0)
    assert store.get("j").progress == '{"message": "half"}'


def test_a_change_that_is_refused_changes_nothing(store: Store) -> None:
    store.submit("j")

    with pytest.raises(No):
        store.jobs.change("j", refuse)

    assert store.jobs.change("unknown", refuse) is None
    assert store.states() == {"j": "queued"}


def test_changes_of_one_job_are_made_one_after_the_other(store: Store) -> None:
    store.submit("j")

    def count() -> None:
        store.jobs.change("j", lambda job: evolve(job, accepts=job.accepts + 1))

    at_once([count] * 8)

    assert store.get("j").accepts == 8


BINDINGS = [
    Binding(workflows=("ci",)),
    Binding(workflows=()),
    Binding(repositories=()),
    Binding(repositories=("*",)),
    Binding(repositories=("acme/*",)),
    Binding(repositories=("ACME/shop", "o/*")),
    Binding(repositories=("acme/a_b",)),
    Binding(repositories=("acme/100%",)),
    Binding(repositories=("*/shop", "acme\\\\/*")),
    Binding(workflows=("ci", "docs"), repositories=("acme/*",)),
]
NAMES = ("acme/shop", "Acme/Shop", "acme2/shop", "acme/a_b", "acme/axb", "o/r", "")


@pytest.mark.parametrize("binding", BINDINGS, ids=repr)
def test_a_machine_that_is_bound_gets_its_jobs_and_no_others(
    store: Store, binding: Binding
) -> None:
    wanted = set()
    for workflow in ("ci", "deploy"):
        for number, name in enumerate(NAMES):
            job_id = f"{workflow}-{number}"
            store.submit(job_id, {"dag_name": workflow, "repository_name": name})
            if binding.may_want(workflow, name):
                wanted.add(job_id)
    for name in ("acme/shop", "o/r", ""):
        cancel = {"command": "cancel", "dag_run_id": "x", "repository_name": name}
        store.submit(f"cancel-{name}", cancel)
        if binding.may_want("", name):
            wanted.add(f"cancel-{name}")

    claimed = set()
    while found := store.jobs.claim(
        "m1", "token", None, now=NOW, lease_s=60, binding=binding
    ):
        claimed.add(found.job.id)

    assert claimed == wanted


def test_a_machine_that_is_bound_gets_the_cancel_job_for_its_own_run(
    store: Store,
) -> None:
    store.submit("j", {"dag_name": "ci", "repository_name": "other/r"})
    store.claim()
    store.submit(
        "stop",
        {"command": "cancel", "dag_run_id": "j", "repository_name": "other/r"},
    )
    bound = Binding(workflows=("docs",), repositories=("acme/*",))

    found = store.jobs.claim("m1", "token", [], now=NOW, lease_s=60, binding=bound)

    assert found is not None
    assert found.job.id == "stop"


# Jobs: what ends others, and what ends by itself.


def test_a_newer_commit_supersedes_older_queued_ones_and_nothing_else(
    store: Store,
) -> None:
    store.submit("held", {**PUSHED, "sha": "a"})
    store.claim()
    others: dict[str, dict[str, Any]] = {
        "request": {"pull_request_number": 8},
        "repository": {"repository_name": "o/other"},
        "workflow": {"dag_name": "docs"},
        "comment": {"event_name": "issue_comment"},
        "rule": {"binding_id": "rule-2"},
        "same": {"sha": "c"},
    }
    for job_id, fields in others.items():
        store.submit(job_id, {**PUSHED, "sha": "b", **fields}, supersedes=False)
    store.submit("newer", {**PUSHED, "sha": "e"}, event_at=9, supersedes=False)
    store.submit("old", {**PUSHED, "sha": "b"}, event_at=1, supersedes=False)

    store.submit("new", {**PUSHED, "sha": "c"}, event_at=5)

    ended = {name for name, state in store.states().items() if state == "superseded"}
    assert ended == {"old"}
    assert "new" in store.get("old").result_summary


@pytest.mark.parametrize("is_event", [True, False])
def test_a_job_of_an_event_is_superseded_by_events_alone(
    store: Store, *, is_event: bool
) -> None:
    store.submit("of-event", {**PUSHED, "sha": "a"}, by_event=True)
    store.submit("submitted", {**PUSHED, "sha": "b"}, supersedes=False)

    store.submit("new", {**PUSHED, "sha": "c"}, by_event=is_event)

    ended = {name for name, state in store.states().items() if state == "superseded"}
    assert ended == ({"of-event", "submitted"} if is_event else {"submitted"})


def test_newer_commits_at_once_supersede_the_old_one_and_one_of_them_stays(
    store: Store,
) -> None:
    store.submit("old", {**PUSHED, "sha": "a"})

    at_once(
        [lambda sha=sha: store.submit(sha, {**PUSHED, "sha": sha}) for sha in "bcde"]  # type: ignore[misc]  # bound now
    )

    assert store.states()["old"] == "superseded"
    # Those that don't see each other yet all stay.
    assert "queued" in store.states().values()


def test_a_cancel_job_ends_what_waits_and_marks_what_is_held(store: Store) -> None:
    target = {"repository_name": "o/r", "pull_request_number": 7, "dag_name": "ci"}
    for machine in ("m1", "m2"):
        store.submit(f"held-{machine}", target)
        store.claim(machine, now=NOW + len(machine))
    store.change("held-m2", claimed_at=NOW + 99)
    store.submit("queued", target)
    store.submit("received", target, received=True)
    store.submit("other", {**target, "pull_request_number": 8})

    stop = store.submit("stop", {**target, "command": "cancel"})

    assert stop is not None
    assert (stop.state, stop.only_machine) == (State.QUEUED, "m2")
    assert store.states() == {
        "held-m1": "claimed",
        "held-m2": "claimed",
        "queued": "aborted",
        "received": "aborted",
        "other": "queued",
        "stop": "queued",
    }
    marked = [each.cancel_requested for each in store.reader.list(Filter())]
    assert marked == [True, True, False, False, False, False]


def test_a_cancel_job_finds_the_oldest_of_a_thousand(store: Store) -> None:
    store.submit("oldest")
    store.fill(
        HubJob(id=f"j{each}", document={"dag_name": "x"}) for each in range(1040)
    )

    stop = store.submit("stop", {"command": "cancel", "dag_name": "ci"})

    assert stop is not None
    assert stop.state is State.SUCCEEDED
    assert store.get("oldest").state is State.ABORTED


def test_cancels_of_the_same_jobs_at_once_do_not_wait_for_each_other(
    store: Store,
) -> None:
    for number in range(10):
        store.submit(f"j{number}")
    cancel = {"command": "cancel", "dag_name": "ci"}

    at_once(
        [lambda name=name: store.submit(f"stop-{name}", cancel) for name in "abcd"]  # type: ignore[misc]  # bound now
    )

    found = Counter(store.states().values())
    assert found == {"aborted": 10, "succeeded": 1, "queued": 3}


def test_a_cancel_job_may_mean_more_jobs_than_a_statement_has_parameters(
    tmp_path: Path,
) -> None:
    store = Store(Database.open(f"sqlite:///{tmp_path / 'hub.db'}"))
    seed = store.submit("seed", PUSHED)
    assert seed is not None
    store.fill(evolve(seed, id=f"j{number}") for number in range(2500))
    with store.database.engine.connect() as db:
        driver = db.connection.driver_connection
        assert driver is not None
        driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 2000)

    cancel = {**PUSHED, "command": "cancel"}
    assert store.submit("cancel", cancel, most=10_000) is not None

    counts = store.reader.counts()
    assert (counts[State.ABORTED], counts[State.SUCCEEDED]) == (2501, 1)
    store.database.close()


LATEST: list[tuple[str, dict[str, Any], float]] = [
    ("claimed", {}, 0),
    ("silent", {"state": State.ACCEPTED}, LEASES.unheard_s),
    ("heard", {"state": State.ACCEPTED, "phase": "x"}, LEASES.patience_s),
    ("running", {"state": State.RUNNING, "phase": "x"}, LEASES.patience_s),
    ("parked", {"state": State.NEEDS_ATTENTION}, LEASES.patience_s),
]
"""Name of a held job, how it stands, and how much longer than its lease it stays with its machine (seconds)."""


@pytest.mark.parametrize(
    ("fields", "more_s"),
    [each[1:] for each in LATEST],
    ids=[each[0] for each in LATEST],
)
def test_a_held_job_is_taken_back_once_its_time_is_over(
    store: Store, fields: dict[str, Any], more_s: float
) -> None:
    store.submit("queued")
    store.submit("held", priority=1)
    store.claim()
    store.change("held", **fields)
    over_at = NOW + LEASES.seconds + more_s

    assert store.jobs.next_expiry(LEASES) == over_at
    assert store.expire(over_at - 0.001) == []
    assert store.expire(over_at) == ["held"]
    assert store.expire(over_at) == []
    assert store.jobs.next_expiry(LEASES) is None
    assert store.get("held").lapsed


def test_the_next_lease_to_run_out_is_the_first_of_all_kinds(store: Store) -> None:
    assert store.jobs.next_expiry(LEASES) is None
    for job_id, fields, _ in LATEST:
        store.submit(job_id)
        store.claim()
        store.change(job_id, **fields)

    store.change("claimed", lease_until=NOW + 1000)

    assert store.jobs.next_expiry(LEASES) == NOW + 60 + LEASES.patience_s
    assert store.expire(NOW + 60 + 300) == ["heard", "parked", "running"]


def test_each_lease_runs_out_once_though_several_hubs_look(store: Store) -> None:
    held = HubJob(id="", document={}, state=State.CLAIMED, lease_until=NOW, machine="m")
    store.fill(evolve(held, id=f"j{number}") for number in range(250))

    found: list[str] = []
    # As many at once as one transaction takes, and none is left by the end.
    while some := [
        each for one in at_once([lambda: store.expire(NOW)] * 3) for each in one
    ]:
        found += some

    assert sorted(found) == sorted(f"j{number}" for number in range(250))
    assert {each.expiries for each in store.reader.list(Filter(limit=250))} == {1}


def test_pruning_removes_all_of_what_ended_before_and_nothing_else(
    store: Store,
) -> None:
    told = Check(repository="o/r", sha="a", name="ci")
    for job_id in ("old", "owed", "young", "held", "queued"):
        store.submit(job_id, check=told)
    for _ in range(4):
        store.claim()
    for job_id, at in (("old", NOW - 1), ("owed", NOW - 1), ("young", NOW)):
        store.change(job_id, state=State.FAILED, finished_at=at)
    paid = CheckStore(store.database).get("old")
    assert paid is not None
    CheckStore(store.database).keep(evolve(paid.check, owed=False), seen_state="failed")

    assert store.jobs.prune(before=NOW) == 1

    assert list(store.states()) == ["owed", "young", "held", "queued"]
    assert store.reader.texts("old") is None
    counts = [store.count(table) for table in (JOBS, TEXTS, CHECKS, ATTEMPTS)]
    assert counts == [4, 4, 4, 3]


def test_pruning_takes_more_than_it_removes_at_once(store: Store) -> None:
    ended = HubJob(id="", document={}, state=State.ABORTED, finished_at=NOW - 1)
    store.fill(evolve(ended, id=f"j{number}") for number in range(1001))
    store.submit("kept")

    assert store.jobs.prune(before=NOW) == 1001
    assert list(store.states()) == ["kept"]


# Jobs: looking at them.


def test_the_newest_jobs_are_listed_by_what_they_have(store: Store) -> None:
    for number in range(4):
        document = {"dag_name": "ab"[number % 2], "repository_name": f"o/{number // 2}"}
        store.submit(f"j{number}", document)
    store.change("j3", state=State.FAILED, result_details="{}" * 1000)

    def listed(**wanted: Any) -> str:
        return " ".join(each.id for each in store.reader.list(Filter(**wanted)))

    assert listed() == "j0 j1 j2 j3"
    assert listed(limit=2) == "j2 j3"
    assert listed(state="failed") == "j3"
    assert listed(workflow="a") == "j0 j2"
    assert listed(workflow="a", repository="o/1", state="queued") == "j2"
    assert listed(state="\0", workflow=LONG) == ""
    assert store.reader.list(Filter())[-1].result_details == ""
    assert store.get("j3").result_details == "{}" * 1000


def test_jobs_are_counted_by_state(store: Store) -> None:
    assert store.reader.oldest_queued_at() is None
    for number in range(3):
        store.submit(f"j{number}", now=NOW + number)
    store.claim()

    counts = store.reader.counts()

    assert counts.keys() == set(State)
    assert {state: count for state, count in counts.items() if count} == {
        State.QUEUED: 2,
        State.CLAIMED: 1,
    }
    assert store.reader.oldest_queued_at() == NOW + 1


@pytest.mark.host
def test_who_looks_sees_one_moment_and_keeps_nobody_from_writing(
    postgresql_url: str,
) -> None:
    # On SQLite a hub has one connection, so that nobody writes while somebody looks.
    store = Store(Database.open(postgresql_url))
    store.submit("before")
    with store.database.snapshot() as db:
        store.submit("after")
        assert db.execute(select(JOBS.c.id)).scalars().first() == "before"
        store.change("before", state=State.FAILED)
    assert store.states() == {"before": "failed", "after": "queued"}
    store.database.close()


@pytest.mark.host
def test_a_job_that_another_hub_is_changing_is_passed_over(
    postgresql_url: str,
) -> None:
    store = Store(Database.open(postgresql_url))
    for job_id in ("first", "second"):
        store.submit(job_id)

    def while_locked(job: HubJob) -> HubJob:
        claimed = store.claim()
        assert claimed is not None
        assert claimed.job.id == "second"
        # Perhaps it is free after that.
        with pytest.raises(Locked):
            store.claim()
        return job

    store.jobs.change("first", while_locked)

    assert store.order() == "first"
    store.database.close()


@pytest.mark.host
def test_hubs_that_start_at_once_on_an_empty_database_migrate_it_once(
    postgresql: Postgres,
) -> None:
    url = postgresql.new_database()

    for each in at_once([lambda: Database.open(url)] * 4):
        each.check()
        each.close()
    postgresql.drop(url)


# All kinds of rows.


def test_any_text_can_be_a_name(store: Store) -> None:
    names = ["ä ö%2F", "'--", "a\nb", "\N{REPLACEMENT CHARACTER}", LONG]
    machines, tokens = MachineStore(store.database), TokenStore(store.database)
    marks, deliveries = MarkStore(store.database), DeliveryStore(store.database)
    for name in names:
        assert store.submit(name, {"dag_name": name, "repository_name": name})
        assert machines.add(Machine(name=name, server_id=name))
        assert tokens.add(Token(name=name, token_hash=name, scopes="read"))
        marks.put(name, name)
        deliveries.keep_new([Delivery(id=name, target="hook", repository=name)])

    for name in names:
        job = store.get(name)
        assert (job.workflow, job.repository) == (name, name)
        machine, token = machines.by_server_id(name), tokens.find(name)
        assert machine is not None
        assert token is not None
        assert machine.name == token.name == marks.get(name) == name
        delivery = deliveries.get(name)
        assert delivery is not None
        assert delivery.repository == name


def test_a_nul_is_kept_as_the_mark_for_what_cannot_be_shown(store: Store) -> None:
    store.submit("a\0b", {"dag_name": "\0"}, payload='"\\u0000"')

    assert store.get("a\0b") == store.get("a\ufffdb")
    assert store.get("a\0b").document == {"dag_name": "\0"}
    assert store.reader.texts("a\0b") == ('"\\u0000"', "null")


def test_the_largest_numbers_are_kept(store: Store) -> None:
    most = 2**63 - 1
    DeliveryStore(store.database).keep_new([Delivery(id="d", installation=most)])
    store.submit("j", {"pull_request_number": most}, priority=-(2**31))

    found = DeliveryStore(store.database).get("d")
    assert found is not None
    assert found.installation == store.get("j").number == most


def test_a_block_that_fails_keeps_nothing_of_any_table(store: Store) -> None:
    def write() -> None:
        with store.database.transaction() as db:
            for table in METADATA.sorted_tables:
                row = {
                    each.name: "" if isinstance(each.type, Words) else 0
                    for each in table.c
                }
                db.execute(insert(table).values(row))
            refuse()

    with pytest.raises(No):
        write()

    assert {store.count(each) for each in METADATA.sorted_tables} == {0}


def test_what_the_database_refuses_is_said_in_one_line(store: Store) -> None:
    mark = {"name": "twice", "value": "secret-word"}

    def write() -> None:
        with store.database.transaction() as db:
            for _ in range(2):
                db.execute(insert(MARKS), mark)

    with pytest.raises(StorageBusy) as said:
        write()

    assert "\n" not in str(said.value)
    assert "secret-word" not in str(said.value)
    assert MarkStore(store.database).get("twice") == ""


def test_a_closed_database_can_be_opened_again(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    Store(database).submit("j")
    database.close()
    url = database_url.replace("///hub.db", f"///{tmp_path / 'hub.db'}")

    again = Database.open(url)

    again.check()
    assert Store(again).states() == {"j": "queued"}
    again.close()


# Machines and licenses.


@pytest.fixture
def machines(database: Database) -> MachineStore:
    return MachineStore(database)


def test_a_machines_name_and_what_it_calls_itself_are_taken_once(
    machines: MachineStore,
) -> None:
    first = Machine(name="b", server_id="box", secret_hash="h", workflows='["ci"]')

    assert machines.add(first)
    assert not machines.add(Machine(name="b"))
    assert not machines.add(Machine(name="c", server_id="box"))
    assert machines.add(Machine(name="a"))
    assert machines.add(Machine(name="d"))

    assert [each.name for each in machines.list()] == ["a", "b", "d"]
    assert machines.by_server_id("box") == first
    assert machines.by_server_id("boxes") is None


def test_a_machine_is_changed_and_keeps_its_name(machines: MachineStore) -> None:
    machines.add(Machine(name="a", server_id="box"))

    changed = machines.change("a", lambda it: evolve(it, name="x", revoked_at=NOW))

    assert changed == Machine(name="a", server_id="box", revoked_at=NOW)
    assert machines.list() == [changed]
    assert machines.change("x", refuse) is None
    with pytest.raises(No):
        machines.change("a", refuse)
    assert machines.list() == [changed]


def test_a_machine_is_enrolled_by_its_key_and_sees_its_namesake(
    machines: MachineStore,
) -> None:
    machines.add(Machine(name="new", key_hash="key"))
    machines.add(Machine(name="old", server_id="box"))
    machines.add(Machine(name="fixed", server_id="fixed"))
    namesakes: list[Machine | None] = []

    def decide(machine: Machine, namesake: Machine | None) -> Machine:
        namesakes.append(namesake)
        return evolve(machine, server_id="mine", activated_at=NOW)

    assert machines.enrol("other", "box", decide) is None
    assert machines.enrol("", "box", decide) is None
    for server_id in ("box", "mine"):
        enrolled = machines.enrol("key", server_id, decide)
        assert enrolled == machines.by_server_id("mine")
        assert enrolled is not None
        assert (enrolled.name, enrolled.activated_at) == ("new", NOW)
    with pytest.raises(No):
        machines.enrol("key", "box", refuse)

    assert [each and each.name for each in namesakes] == ["old", "new"]


def test_a_pull_is_noted_of_its_machine_alone(machines: MachineStore) -> None:
    for name in "ab":
        machines.add(Machine(name=name, server_id=name, secret_hash="h"))

    pulled = Machine(
        name="a", seen_at=NOW, workflows='["ci"]', version="1.0", slots=2, free_bytes=9
    )
    machines.note_pull(pulled)
    machines.note_pull(evolve(pulled, name="unknown"))

    of_a, of_b = machines.list()
    # Its credentials are those of its own record.
    assert of_a == evolve(pulled, server_id="a", secret_hash="h")
    assert of_b == Machine(name="b", server_id="b", secret_hash="h")


def test_a_license_is_kept_once(store: Store) -> None:
    machines = MachineStore(store.database)
    for now in (1.0, 2.0):
        machines.add_license("lic", now=now)

    with store.database.snapshot() as db:
        [found] = db.execute(select(LICENSES)).all()
    assert tuple(found) == ("lic", 1.0, 0.0)


# Tokens and what is made once.


def test_a_token_counts_until_it_is_revoked(database: Database) -> None:
    tokens = TokenStore(database)
    token = Token(name="ci", token_hash="h", scopes="submit read", created_at=NOW)

    assert tokens.add(token)
    assert tokens.add(Token(name="a", token_hash="i", scopes="read"))
    assert not tokens.add(evolve(token, token_hash="other"))
    assert tokens.find("h") == tokens.named("ci") == token
    assert tokens.find("other") is tokens.named("x") is None

    assert tokens.revoke("ci", now=NOW + 1)
    assert not tokens.revoke("ci", now=NOW + 2)
    assert not tokens.revoke("unknown", now=NOW)

    assert tokens.find("h") is tokens.named("ci") is None
    assert [(each.name, each.revoked_at) for each in tokens.list()] == [
        ("a", 0),
        ("ci", NOW + 1),
    ]


def test_a_secret_is_made_once(database: Database) -> None:
    tokens, made = TokenStore(database), iter(["first", "second"])

    assert tokens.secret("key", lambda: next(made)) == "first"
    assert tokens.secret("key", refuse) == "first"
    assert tokens.secret("other", lambda: next(made)) == "second"
    with pytest.raises(No):
        tokens.secret("third", refuse)


# Deliveries.


@pytest.fixture
def deliveries(database: Database) -> DeliveryStore:
    return DeliveryStore(database)


FULL = Delivery(
    target="integration/1",
    id="d",
    event="push",
    action="x",
    installation=5,
    repository="o/r",
    payload_hash="h",
    received_at=NOW,
    routing="words",
    state="queued",
    job_ids=("a", "ä"),
)


def test_a_delivery_is_one_of_its_hook_and_the_newest_of_an_id_is_shown(
    database: Database, deliveries: DeliveryStore
) -> None:
    deliveries.keep_new([FULL])
    assert deliveries.get("d") == FULL
    other = evolve(FULL, target="integration/2", received_at=NOW + 1)
    submitted = evolve(FULL, target="", received_at=NOW + 2)
    deliveries.keep_new([other, evolve(submitted, id="s"), submitted])
    with database.transaction() as db:
        keep_delivery(db, evolve(FULL, routing="other words"))

    assert deliveries.get("d") == other
    assert deliveries.get("s") == evolve(submitted, id="s")
    assert deliveries.get("e") is None
    routings = [each.routing for each in deliveries.list(9)]
    assert routings == ["other words", *["words"] * 3]
    assert deliveries.list(3)[0] == other
    assert deliveries.known("integration/1", ["d", "e"]) == {"d"}
    assert deliveries.known("integration/3", ["d"]) == set()
    assert deliveries.known("integration/1", []) == set()


def test_only_new_deliveries_are_kept_where_that_is_wanted(
    deliveries: DeliveryStore,
) -> None:
    deliveries.keep_new([FULL])

    deliveries.keep_new([evolve(FULL, routing="x"), evolve(FULL, id="e"), FULL])

    assert deliveries.get("d") == FULL
    assert deliveries.get("e") == evolve(FULL, id="e")


def test_a_delivery_that_comes_several_times_at_once_is_kept_once(
    deliveries: DeliveryStore,
) -> None:
    at_once([lambda: deliveries.keep_new([FULL, evolve(FULL, id="e")])] * 6)

    assert sorted(each.id for each in deliveries.list(9)) == ["d", "e"]


def test_deliveries_of_hooks_are_kept_for_longer(deliveries: DeliveryStore) -> None:
    for target in ("", "hook"):
        for at in (1.0, 5.0, 9.0):
            kept = Delivery(target=target, id=f"{at:g}", received_at=at)
            deliveries.keep_new([kept])

    assert deliveries.prune(before=9, of_hooks_before=5) == 3

    left = [(each.target, each.received_at) for each in deliveries.list(9)]
    assert sorted(left) == [("", 9), ("hook", 5), ("hook", 9)]


def test_a_job_once_more_belongs_to_the_delivery_of_the_first(store: Store) -> None:
    deliveries = DeliveryStore(store.database)
    deliveries.keep_new(
        [
            Delivery(id="d", job_ids=("j",)),
            Delivery(id="d", target="other", job_ids=("k",), received_at=1),
        ]
    )

    with store.database.transaction() as db:
        add_again(db, "d", "j", "again")

    found = {each.target: each.job_ids for each in deliveries.list(9)}
    assert found == {"": ("j", "again"), "other": ("k",)}


# Marks.


def test_a_mark_is_kept_in_place_of_the_one_before(database: Database) -> None:
    marks = MarkStore(database)
    assert marks.get("a") == ""

    for value in ("1", "2", "{}" * 5000):
        marks.put("a", value)
        marks.put("b", "other")

    assert marks.get("a") == "{}" * 5000
    assert marks.get("b") == "other"

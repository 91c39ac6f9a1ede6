"""What holds of a hub at each moment, whoever calls it and in whatever order: in words, and in code that checks it.

1. Moves. Each change of a job's state is a row of `hub/domain/transitions.py`; so an ended job stays ended.
2. One claim. A job's machine and claim token change only when it is claimed out of the queue, or when a claim that
   never reached its machine is taken back. Of a job's claims one lasts at most: the newest, and only while it is held.
3. A fence never goes back. Once a later claim of a job has been used, no call with an earlier one succeeds.
4. A cancel is a debt. A job whose end somebody wants is not claimed, and nobody accepts it for the first time. No
   accept that begins after a cancel was answered is answered as if the job might begin.
5. Rows belong together, in the tables and in each backup: a job has its texts, its claims and, where an event has
   made it, its check; each of these has its job; the jobs of a delivery are there.
6. Nothing lies. No queued job is beside a held poll that may have it for longer than `LYING_S`.
7. The newest check is the newest job's. Of a commit and name no check run is made for an older job behind that of
   a newer one; and once GitHub has been told everything, the last one made is that of the newest job.
8. Nothing fails. A call is answered as the contract has it, never by 500.
9. Counts add up. Each job whose submit was answered is there, once; so is each job of a delivery.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Lock
from typing import Any, Final

from attrs import define, field, frozen
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    select,
    text,
)

from dispatchd.hub.domain.model import HELD, State
from dispatchd.hub.domain.transitions import TRANSITIONS
from dispatchd.hub.storage.database import Database, is_postgresql
from dispatchd.hub.storage.schema import CHECKS, DELIVERIES, JOBS, MARKS, PAUSED

LYING_S: Final = 45.0
"""A look takes a tenth of a second; the rest is for a busy machine and for troubles of the database (seconds)."""

_AGAIN: Final = 500
"""How many changes are looked at twice (count)."""

_MOVES: Final = frozenset((before, after) for (before, _), after in TRANSITIONS.items())


# The history of each job: the database itself notes what changes.

_NOTED: Final = {
    "state": Text,
    "machine": Text,
    "token_hash": Text,
    "deliveries": BigInteger,
    "accepts": BigInteger,
    "cancel_requested": Text,
}
HISTORY: Final = Table(
    "watched_moves",
    MetaData(),
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("job_id", Text),
    *(
        Column(f"{when}_{name}", kind)
        for name, kind in _NOTED.items()
        for when in ("old", "new")
    ),
)
_NOTE: Final = "INSERT INTO watched_moves ({}) VALUES ({})".format(
    ", ".join(column.name for column in HISTORY.c if column.name != "seq"),
    ", ".join(
        ["NEW.id"]
        + [
            f"CAST({when}.{name} AS TEXT)" if kind is Text else f"{when}.{name}"
            for name, kind in _NOTED.items()
            for when in ("OLD", "NEW")
        ]
    ),
)


def keep_history(database: Database) -> None:
    """Let a database note each change of a job from now on."""
    with database.transaction() as db:
        HISTORY.create(db)
        if is_postgresql(db):
            db.exec_driver_sql(
                f"CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN {_NOTE}; RETURN NULL; END $$"
            )
            body = "FOR EACH ROW EXECUTE FUNCTION note_move()"
        else:
            body = f"BEGIN {_NOTE}; END"
        db.exec_driver_sql(f"CREATE TRIGGER note_move AFTER UPDATE ON jobs {body}")


def wrong_moves(moves: Iterable[Mapping[Any, Any]]) -> Iterator[str]:
    """Yield what changes of jobs break (1, 2, 4)."""
    for move in moves:
        before, after = State(move["old_state"]), State(move["new_state"])
        what = f"{move['job_id']}: {dict(move)}"
        if before is not after and (before, after) not in _MOVES:
            yield f"no such move: {what}"
        is_claim = move["new_deliveries"] > move["old_deliveries"]
        is_taken_back = move["new_deliveries"] < move["old_deliveries"]
        claims = [
            (move[f"{when}_machine"], move[f"{when}_token_hash"])
            for when in ("old", "new")
        ]
        if is_claim and (before, after) != (State.QUEUED, State.CLAIMED):
            yield f"claimed while held: {what}"
        if claims[0] != claims[1] and not is_claim and not is_taken_back:
            yield f"another claim without a claim: {what}"
        is_wanted = move["old_cancel_requested"] in ("1", "true")
        if is_wanted and is_claim:
            yield f"claimed though cancelled: {what}"
        if is_wanted and move["old_accepts"] == 0 < move["new_accepts"]:
            yield f"accepted though cancelled: {what}"


# What the rows of one moment say, in the tables and in backups.

_BELONG: Final = {
    "a job without its texts": "SELECT id FROM jobs j WHERE NOT EXISTS (SELECT 1 FROM texts t WHERE t.id = j.id)",
    "texts without a job": "SELECT id FROM texts t WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = t.id)",
    "a job without all of its claims": "SELECT id FROM jobs j WHERE deliveries <>"
    " (SELECT COUNT(*) FROM attempts a WHERE a.job_id = j.id)",
    "a claim without a job": "SELECT job_id FROM attempts a WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = a.job_id)",
    "a claim that lasts beside the job's own": "SELECT a.job_id FROM attempts a JOIN jobs j ON j.id = a.job_id"
    " WHERE a.outcome = '' AND (a.number <> j.deliveries OR a.machine <> j.machine"
    f" OR j.state NOT IN ({', '.join(repr(state.value) for state in HELD)}))",
    "a held job without a claim that lasts": "SELECT id FROM jobs j WHERE"
    f" j.state IN ({', '.join(repr(state.value) for state in HELD)}) AND NOT EXISTS"
    " (SELECT 1 FROM attempts a WHERE a.job_id = j.id AND a.number = j.deliveries AND a.outcome = '')",
    "a job of an event without its check": "SELECT id FROM jobs j WHERE by_event AND NOT EXISTS"
    " (SELECT 1 FROM checks c WHERE c.job_id = j.id)",
    "a check without a job": "SELECT job_id FROM checks c WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = c.job_id)",
    "a check that has missed its job's state": "SELECT j.id FROM checks c JOIN jobs j ON j.id = c.job_id"
    " WHERE c.state <> j.state",
}


def torn(db: Connection) -> Iterator[str]:
    """Yield which rows don't belong together (5)."""
    for what, query in _BELONG.items():
        if ids := db.execute(text(query)).scalars().all():
            yield f"{what}: {ids[:5]}"
    known = set(db.execute(select(JOBS.c.id)).scalars())
    for delivery in db.execute(select(DELIVERIES.c.id, DELIVERIES.c.job_ids)):
        if lost := set(json.loads(delivery.job_ids or "[]")) - known:
            yield f"delivery {delivery.id} without its jobs: {lost}"


def torn_backup(copy: Database) -> list[str]:
    """Return which rows of a backup don't belong together."""
    with copy.snapshot() as db:
        return list(torn(db))


# What callers have seen.


@frozen(eq=False, kw_only=True)
class HeldPoll:
    """A poll that somebody holds now."""

    machine: str
    workflows: tuple[str, ...]

    def may_have(self, job: Mapping[Any, Any]) -> bool:
        return job["only_machine"] in ("", self.machine) and (
            job["urgent"] or job["workflow"] in self.workflows
        )


@define
class Seen:
    """What callers have been answered, for all their threads. Times are those of the given clock (seconds)."""

    clock: Callable[[], float]
    polls: set[HeldPoll] = field(factory=set)
    violations: list[str] = field(factory=list)
    submitted: Counter[str] = field(factory=Counter)
    cancelled: dict[str, float] = field(factory=dict)
    """When the first cancel of a job was answered."""
    used: dict[str, list[tuple[str, float, float]]] = field(
        factory=lambda: defaultdict(list)
    )
    """The calls about a job that succeeded: claim token, when sent, when answered."""
    lock: Lock = field(factory=Lock)

    def violates(self, what: str) -> None:
        self.violations.append(what)

    def succeeded(self, job_id: str, token: str, sent: float) -> None:
        """Note that a call with a claim token has succeeded (3)."""
        with self.lock:
            calls = self.used[job_id]
            others = [call for call in calls if call[0] != token]
            own_end = min((call[2] for call in calls if call[0] == token), default=sent)
            if any(own_end < call[1] and call[2] < sent for call in others):
                self.violates(f"{job_id}: an earlier claim counts again")
            calls.append((token, sent, self.clock()))

    def accepted(self, job_id: str, sent: float) -> None:
        """Note an accept that lets a job begin (4)."""
        if self.cancelled.get(job_id, sent) < sent:
            self.violates(f"{job_id}: accepted after its cancel was answered")

    def cancel_answered(self, job_id: str) -> None:
        with self.lock:
            self.cancelled.setdefault(job_id, self.clock())


@define
class Watch:
    """Looks at a database again and again, for what callers can't see."""

    database: Database
    seen: Seen
    check_runs: Callable[[], list[dict[str, Any]]] = list
    """All check runs that GitHub has, in the order in which they were made."""
    looks: int = 0
    moves: int = 0
    """How many changes of jobs there were (count)."""
    _lying: dict[tuple[str, HeldPoll], float] = field(factory=dict)
    """Since when a queued job has been beside a poll."""

    def look(self) -> None:
        """Check everything that has to hold now; what doesn't is noted as a violation."""
        polls = set(self.seen.polls)
        runs = self.check_runs()
        with self.database.snapshot() as db:
            # Counted up in the order of inserts, not of commits: the last ones are read again.
            query = select(HISTORY).where(HISTORY.c.seq > self.moves - _AGAIN)
            moves = db.execute(query.order_by(HISTORY.c.seq)).mappings().all()
            violations = [*wrong_moves(moves), *torn(db), *self._wrong_order(db, runs)]
            self._look_for_lying(db, polls)
        self.moves = max((move["seq"] for move in moves), default=self.moves)
        self.looks += 1
        self.seen.violations.extend(violations)

    def _look_for_lying(self, db: Connection, polls: set[HeldPoll]) -> None:
        """Note which queued jobs have been beside a poll for too long (6)."""
        queued = db.execute(
            select(
                JOBS.c.id, JOBS.c.workflow, JOBS.c.only_machine, JOBS.c.urgent
            ).where(JOBS.c.state == State.QUEUED)
        )
        paused = db.execute(select(MARKS.c.name).where(MARKS.c.name == PAUSED)).first()
        # Those that ended while this looked are none.
        polls &= self.seen.polls
        now = self.seen.clock()
        self._lying = {
            key: self._lying.get(key, now)
            for job in queued.mappings()
            if job["urgent"] or not paused
            for key in ((job["id"], poll) for poll in polls if poll.may_have(job))
        }
        for (job_id, poll), since in self._lying.items():
            if now - since > LYING_S:
                self.seen.violates(f"{job_id} lies beside {poll} for {now - since} s")

    def _wrong_order(self, db: Connection, runs: list[dict[str, Any]]) -> Iterator[str]:
        """Yield for which commits an older job's check run was made behind a newer one's (7)."""
        positions = {
            job.id: job.position
            for job in db.execute(select(JOBS.c.id, JOBS.c.position))
        }
        newest: dict[object, int] = {}
        for run in runs:
            job_id = run["external_id"].partition("#")[0]
            key = run["repository"], run["head_sha"], run["name"]
            position = positions.get(job_id, 0)
            if position < newest.get(key, 0):
                yield f"the check of {job_id} was made behind a newer one: {key}"
            newest[key] = position

    def look_at_the_end(self) -> None:
        """Check what has to hold once nobody calls any more, and GitHub has been told everything (7, 9)."""
        self.look()
        last = {
            (run["repository"], run["head_sha"], run["name"]): run["external_id"]
            for run in self.check_runs()
        }
        with self.database.snapshot() as db:
            ids = set(db.execute(select(JOBS.c.id)).scalars())
            rows = db.execute(select(func.count()).select_from(JOBS)).scalar()
            checks = db.execute(
                select(
                    CHECKS.c.job_id, CHECKS.c.repository, CHECKS.c.sha, CHECKS.c.name
                )
                .join(JOBS, JOBS.c.id == CHECKS.c.job_id)
                .order_by(JOBS.c.position)
            )
            newest = {
                (check.repository, check.sha, check.name): check.job_id
                for check in checks
            }
        if rows != len(ids):
            self.seen.violates(f"{rows} jobs with {len(ids)} ids")
        for job_id, times in self.seen.submitted.items():
            if job_id not in ids:
                self.seen.violates(f"{job_id} was submitted and is not there")
            if times > 1:
                self.seen.violates(f"{job_id} was taken {times} times")
        for key, job_id in newest.items():
            if key in last and last[key].partition("#")[0] != job_id:
                self.seen.violates(f"{key} shows {last[key]}, not {job_id}")

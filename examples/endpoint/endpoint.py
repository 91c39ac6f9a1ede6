"""The rules of a dispatch endpoint (contracts/README.md) on one SQLite database; `serve.py` puts HTTP before it.

It has the first protocol, and the extensions claim, lease, heartbeat, release, long poll, capabilities and contract
header. Each call is durable before it is answered. A vendor rewrites this file on a database of their own.
"""

import json
import sqlite3
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from secrets import token_urlsafe
from threading import Condition
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Any, Final

Json = dict[str, Any]
Reply = tuple[int, Json | None]

RESULTS: Final = ("succeeded", "partially_succeeded", "failed", "aborted", "rejected")
HERE: Final = "ended_here"
"""Mark in the result of a job that the endpoint has ended by itself."""
SCHEMA: Final = """
PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = EXTRA; BEGIN EXCLUSIVE;
CREATE TABLE IF NOT EXISTS machines (
  name TEXT PRIMARY KEY, license_id TEXT, secret_hash TEXT, revoked INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY, id TEXT UNIQUE, document TEXT, state TEXT DEFAULT 'queued', machine TEXT,
  claim TEXT DEFAULT '', leased INTEGER DEFAULT 0, result TEXT, cancel INTEGER DEFAULT 0);
COMMIT;
"""
"""A job is queued, claimed, accepted, then finished. The lock keeps a second process off the folder."""


class Refused(Exception):
    """A status that is no success, and a message for people."""


def hashed(secret: object) -> str:
    """Return the hash under which a secret is kept."""
    return sha256(str(secret).encode(errors="replace")).hexdigest()


class Endpoint:
    """Jobs and machines. A method that is named like a call returns its status and body."""

    longest_hold_s = 50.0
    unaccepted_s = 600.0
    """Time until a claim without a lease that was never accepted goes to another machine (seconds)."""

    def __init__(self, folder: Path, lease_s: float = 60) -> None:
        """Open the database of a folder."""
        self.lease_s, self.changed = lease_s, Condition()
        self.newest_poll: dict[tuple[str, bool], object] = {}
        self.db = sqlite3.connect(
            folder / "endpoint.db",
            timeout=1,
            isolation_level=None,
            check_same_thread=False,
        )
        self.db.row_factory = sqlite3.Row
        self.db.executescript(SCHEMA)
        # While this program did not run, it heard no machine: each lease begins again.
        jobs = self.db.execute("SELECT * FROM jobs").fetchall()
        self.ends = {job["id"]: self.end_of(job) for job in jobs}

    def end_of(self, job: sqlite3.Row) -> float:
        """Return the time from which a job may go to another machine (seconds since boot)."""
        for_ever = job["state"] == "accepted" and not job["leased"]
        length_s = self.lease_s if job["leased"] else self.unaccepted_s
        return float("inf") if for_ever else clock_gettime(CLOCK_BOOTTIME) + length_s

    def machine(self, body: Json, secret_name: str) -> sqlite3.Row:
        """Return the machine that a body proves to come from."""
        found = "SELECT * FROM machines WHERE name = ? AND license_id = ?"
        names = [str(body.get("server_id")), str(body.get("license_id"))]
        row: sqlite3.Row | None = self.db.execute(found, names).fetchone()
        secret_hash = hashed(body.get(secret_name))
        if row is None or not compare_digest(row["secret_hash"], secret_hash):
            raise Refused(401, "the machine or its secret is not known")
        return row

    def pull(self, body: Json, hold_s: float) -> Reply:
        """Hand out one job; wait for one as long as the machine wants."""
        until = clock_gettime(CLOCK_BOOTTIME) + min(hold_s, self.longest_hold_s)
        poll, kind = object(), (str(body.get("server_id")), body.get("workflows") == [])
        with self.changed:
            self.machine(body, "heartbeat_secret")
            # A machine that polls again has given up the earlier poll.
            self.newest_poll[kind] = poll
            self.changed.notify_all()
            while self.newest_poll[kind] is poll:
                if self.machine(body, "heartbeat_secret")["revoked"]:
                    raise Refused(410, "this machine has been revoked")
                if (job := self.next_for(body)) is not None:
                    return 200, self.claimed(job, body)
                if (left_s := until - clock_gettime(CLOCK_BOOTTIME)) <= 0:
                    break
                # The end of a lease wakes nobody.
                self.changed.wait(min(left_s, 1.0))
            return 204, None

    def next_for(self, body: Json) -> sqlite3.Row | None:
        """Return the oldest job that a machine may have: queued, or of a lease that is over."""
        wanted, now = body.get("workflows"), clock_gettime(CLOCK_BOOTTIME)
        open_jobs = "SELECT * FROM jobs WHERE state != 'finished' ORDER BY number"
        job: sqlite3.Row
        for job in self.db.execute(open_jobs):
            document = json.loads(job["document"])
            is_cancel = str(document.get("command")).lower() == "cancel"
            is_free = job["state"] == "queued" or self.ends[job["id"]] < now
            if is_free and job["cancel"]:
                self.end_here(job)
            elif is_free and (
                wanted is None or is_cancel or document["dag_name"] in wanted
            ):
                return job
        return None

    def end_here(self, job: sqlite3.Row) -> None:
        """End a cancelled job that no machine has, or has any more."""
        summary = "Cancelled; no machine had it."
        result = {"result_status": "aborted", "result_summary": summary, HERE: True}
        self.change(job, state="finished", result=json.dumps(result))

    def claimed(self, job: sqlite3.Row, body: Json) -> Json:
        """Give a job to a machine, and return it with the extensions that the machine names."""
        names = body.get("extensions")
        known = names or []
        claim = token_urlsafe(24) if "claim" in known else ""
        leased = "lease" in known
        machine = body["server_id"]
        self.change(job, state="claimed", machine=machine, claim=claim, leased=leased)
        shown: Json = json.loads(job["document"])
        if claim:
            shown["claim_token"] = claim
        if leased:
            shown["lease_seconds"] = self.lease_s
        if names is not None:
            calls = [name for name in ("heartbeat", "release") if name in known]
            shown["extensions"] = [*calls, "capabilities", "contract-header"]
        return shown

    def change(self, job: sqlite3.Row, **columns: object) -> None:
        """Write columns of a job, begin its lease again, and wake the polls."""
        names = ", ".join(f"{name} = ?" for name in columns)
        values = [*columns.values(), job["id"]]
        self.db.execute(f"UPDATE jobs SET {names} WHERE id = ?", values)
        self.ends[job["id"]] = self.end_of(self.job(job["id"]))
        self.changed.notify_all()

    def job(self, job_id: str) -> sqlite3.Row:
        """Return a job."""
        found = self.db.execute("SELECT * FROM jobs WHERE id = ?", [job_id])
        job: sqlite3.Row | None = found.fetchone()
        if job is None:
            raise Refused(404, "there is no such job")
        return job

    def about(self, call: str, job_id: str, body: Json) -> Reply:
        """Carry out a call about a job; only the newest claim counts."""
        with self.changed:
            if self.machine(body, "secret")["revoked"]:
                raise Refused(401, "this machine has been revoked")
            job = self.job(job_id)
            claim = str(body.get("claim_token") or "").encode(errors="replace")
            is_newest = compare_digest(job["claim"].encode(), claim)
            if job["machine"] != body["server_id"] or not is_newest:
                raise Refused(409, "another claim of this job counts")
            calls = {
                "accept": self.accept,
                "heartbeat": self.heartbeat,
                "release": self.release,
                "finish": self.finish,
            }
            return calls[call](job, body)

    def accept(self, job: sqlite3.Row, body: Json) -> Reply:
        """Let the machine run the job."""
        require_text(body, "dag_run_id")
        return self.extended(job, "accepted")

    def heartbeat(self, job: sqlite3.Row, body: Json) -> Reply:
        """Extend the lease."""
        require_text(body, "phase")
        return self.extended(job, job["state"])

    def extended(self, job: sqlite3.Row, state: str) -> Reply:
        """Begin the lease again, and say whether the run has to end."""
        if state == "finished" and HERE in json.loads(job["result"]):
            # Its lease was over, and its machine lives on.
            return 200, {"cancel_requested": True}
        if job["state"] == "finished":
            raise Refused(410, "this job has ended")
        if job["state"] == "queued":
            raise Refused(409, "this job was given back")
        self.change(job, state=state)
        return 200, {"cancel_requested": bool(job["cancel"])}

    def release(self, job: sqlite3.Row, _: Json) -> Reply:
        """Take the job back: nothing of it has run."""
        if job["state"] == "finished" and HERE not in json.loads(job["result"]):
            raise Refused(410, "this job has ended")
        if job["cancel"]:
            self.end_here(job)
        else:
            self.change(job, state="queued")
        return 204, None

    def finish(self, job: sqlite3.Row, body: Json) -> Reply:
        """Keep the result. The first one stands."""
        status = body.get("result_status")
        if status not in RESULTS:
            raise Refused(422, f"$.result_status must be one of {', '.join(RESULTS)}")
        if job["state"] != "finished":
            result = {key: body[key] for key in body if key.startswith("result_")}
            self.change(job, state="finished", result=json.dumps(result))
        elif json.loads(job["result"])["result_status"] != status:
            raise Refused(409, "this job has ended with another result")
        return 204, None


def require_text(body: Json, name: str) -> None:
    """Refuse a body without a text."""
    if not isinstance(body.get(name), str) or not body[name]:
        raise Refused(422, f"$.{name} must be a string that is not empty")

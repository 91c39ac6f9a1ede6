"""Random calls of hubs, by a seed and from many threads: what people, GitHub and machines ask, in any order."""

import json
import random
from collections import Counter, deque
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from threading import Event, Lock
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
from attrs import define, field, frozen
from typing_extensions import override

from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.storage.backup import backup
from dispatchd.hub.storage.database import Database
from support.endpoint import SECRET
from support.github import APP_ID, INSTALLATION
from support.github_events import pull_request, signature
from support.hub import NO_TLS
from support.hub_invariants import HeldPoll, Seen, torn_backup
from support.machine import JOBS, PATH, encoded

WEBHOOK_SECRET = "s3cret"
RULES = """
[[github.rules]]
name = "events"
workflow = "a"
repositories = ["*"]
events = ["pull_request"]
"""
CALLERS = 8
POLLERS = {
    "p0": ("c",),
    "p1": ("c", "d"),
    "p2": ("d",),
    "p3": ("a", "b", "c", "d"),
}
"""Machines that hold one long poll after the other, and the workflows that each declares."""

FOR_DAEMONS = "it"
"""The workflow of jobs that only daemons run."""
_BY_HAND = ("a", "b", "c", "d")
_HOLD_S = 90
"""Longer than a job may lie (seconds)."""
_WAITING = 60
"""How many jobs may wait before callers leave off submitting more of them (count)."""
_PATIENCE_S = 180.0
"""How long a call is waited for (seconds)."""

_FINE = {
    *(HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT),
    *(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    *(HTTPStatus.GONE, HTTPStatus.SERVICE_UNAVAILABLE),
}
"""What a call may be answered here (contracts/README.md)."""


@frozen(kw_only=True)
class Claim:
    """What a pull has brought."""

    job_id: str
    is_cancel: bool
    token: str
    machine: str
    secret: str


@define(kw_only=True)
class Story:
    """What all callers of one run know."""

    seed: str
    urls: list[str]
    owner: dict[str, str]
    """The headers that prove that this is the hubs' owner."""
    database_url: str
    folder: Path
    seen: Seen
    for_daemons: bool = False
    jobs: deque[str] = field(factory=lambda: deque(maxlen=100))
    claims: deque[Claim] = field(factory=lambda: deque(maxlen=40))
    counts: Counter[str] = field(factory=Counter)
    """How often each call was answered, by its name and status; 0 for no answer."""
    is_over: Event = field(factory=Event)
    pausing: Lock = field(factory=Lock)
    backing_up: Lock = field(factory=Lock)
    """`hub backup` is a program of its own; Alembic's context is one for each process."""

    def copied(self, file: Path) -> None:
        """Make a backup as `hub backup` does, and look at it."""
        with self.backing_up:
            own = Database.open(self.database_url)
            try:
                backup(own, file)
            finally:
                own.close()
        copy = Database.open(f"sqlite:///{file}")
        try:
            for violation in torn_backup(copy):
                self.seen.violates(f"backup: {violation}")
        finally:
            copy.close()
            file.unlink()


@define(kw_only=True)
class Caller:
    """One thread's calls."""

    story: Story
    number: int
    chance: random.Random = field(init=False)
    http: httpx.Client = field(init=False)
    made: int = 0

    def __attrs_post_init__(self) -> None:
        self.chance = random.Random(f"{self.story.seed} caller {self.number}")
        self.http = httpx.Client(timeout=_PATIENCE_S, verify=NO_TLS)

    @property
    def machine(self) -> str:
        return f"m{self.number}"

    def run(self) -> None:
        """Call until it is over."""
        calls: list[tuple[Callable[[], None], int]] = [
            (self.submit, 30),
            (self.event, 8),
            (self.pull, 30),
            (self.use_claim, 60),
            (self.cancel, 6),
            (self.cancel_job, 4),
            (self.requeue, 6),
            (self.look, 6),
            (self.pause, 1),
            (self.revoke, 1),
            (self.back_up, 1),
        ]
        ways, weights = zip(*calls, strict=True)
        with self.http:
            while not self.story.is_over.is_set():
                [call] = self.chance.choices(ways, weights)
                call()

    def ask(
        self, name: str, method: str, path: str, **options: Any
    ) -> httpx.Response | None:
        """Return the answer to a call, or None where there was none."""
        url = self.chance.choice(self.story.urls)
        try:
            reply = self.http.request(method, f"{url}{path}", **options)
        except httpx.TransportError:
            self.story.counts[f"{name} 0"] += 1
            return None
        self.story.counts[f"{name} {reply.status_code}"] += 1
        if reply.status_code not in _FINE:
            self.story.seen.violates(
                f"{name} is answered {reply.status_code}: {reply.text}"
            )
        return reply

    def owner_asks(
        self, name: str, method: str, path: str, **options: Any
    ) -> httpx.Response | None:
        return self.ask(name, method, path, headers=self.story.owner, **options)

    # People.

    def new_id(self, kind: str) -> str:
        self.made += 1
        return f"{kind}-{self.number}-{self.made}"

    def submit(self) -> None:
        known = self.owner_asks("list", "GET", f"{JOBS}?state=queued&limit={_WAITING}")
        if known is None or len(known.json().get("jobs", [])) >= _WAITING:
            return
        workflows = [*_BY_HAND, *([FOR_DAEMONS] * 4 if self.story.for_daemons else [])]
        workflow = self.chance.choice(workflows)
        document = {
            "id": self.new_id(workflow),
            "dag_name": workflow,
            "repository_name": f"o/r{self.chance.randrange(3)}",
            "priority": self.chance.choice((0, 0, 1)),
            "payload": {"n": self.made},
        }
        if self.chance.random() < 0.3:
            document |= {
                "event_name": "pull_request",
                "pull_request_number": self.chance.randint(1, 3),
                "sha": f"{self.chance.randrange(16**8):040x}",
            }
        self._submit(document)
        if self.chance.random() < 0.2:
            self._submit(document)

    def _submit(self, document: dict[str, Any]) -> None:
        reply = self.owner_asks("submit", "POST", JOBS, json=document)
        if reply is not None and reply.status_code == HTTPStatus.CREATED:
            self.story.seen.submitted[document["id"]] += 1
            self.story.jobs.append(document["id"])

    def event(self) -> None:
        payload = pull_request("synchronize")
        number = self.chance.randint(1, 3)
        payload |= {"installation": {"id": INSTALLATION}, "number": number}
        payload["pull_request"] |= {
            "number": number,
            "updated_at": f"2026-01-01T00:00:{self.chance.randrange(60):02}Z",
        }
        payload["pull_request"]["head"]["sha"] = f"{self.chance.randint(1, 6):040x}"
        body = json.dumps(payload).encode()
        delivery = str(UUID(int=self.chance.getrandbits(128), version=4))
        headers = {
            "X-GitHub-Delivery": delivery,
            "X-GitHub-Event": "pull_request",
            "X-GitHub-Hook-ID": "1",
            "X-GitHub-Hook-Installation-Target-Type": "integration",
            "X-GitHub-Hook-Installation-Target-ID": str(APP_ID),
            "X-Hub-Signature-256": signature(body, WEBHOOK_SECRET),
            "Content-Type": "application/json",
        }
        # GitHub sends one again whose answer it didn't get.
        for _ in range(self.chance.choice((1, 1, 2))):
            reply = self.ask(
                "event", "POST", "/webhooks/github", content=body, headers=headers
            )
            if reply is not None and reply.status_code == HTTPStatus.ACCEPTED:
                self.story.jobs.extend(reply.json()["jobs"])

    def _some_job(self) -> str:
        jobs = list(self.story.jobs)
        return self.chance.choice(jobs) if jobs else "none"

    def cancel(self) -> None:
        job_id = self._some_job()
        reply = self.owner_asks("cancel", "POST", f"{JOBS}/{encoded(job_id)}/cancel")
        if reply is not None and reply.status_code == HTTPStatus.OK:
            self.story.seen.cancel_answered(job_id)

    def cancel_job(self) -> None:
        target = self._some_job()
        document = {
            "id": self.new_id("cancel"),
            "dag_name": "x",
            "command": "cancel",
            "dag_run_id": target,
        }
        self._submit(document)

    def requeue(self) -> None:
        job_id, new_id = self._some_job(), self.new_id("again")
        for _ in range(self.chance.choice((1, 2))):
            reply = self.owner_asks(
                "requeue",
                "POST",
                f"{JOBS}/{encoded(job_id)}/requeue",
                params={"new_id": new_id},
            )
            if reply is not None and reply.status_code == HTTPStatus.CREATED:
                self.story.seen.submitted[new_id] = 1
                self.story.jobs.append(new_id)

    def look(self) -> None:
        job_id = self._some_job()
        wait = self.chance.choice((0, 1))
        self.owner_asks("show", "GET", f"{JOBS}/{encoded(job_id)}?wait={wait}")
        self.ask("metrics", "GET", "/metrics")
        self.ask("ready", "GET", "/readyz")

    def pause(self) -> None:
        """Pause dispatch, ask for a job, which must be none but a cancel job, and resume."""
        if not self.story.pausing.acquire(blocking=False):
            return
        try:
            path = "/api/v1/dispatch"
            reply = self.owner_asks("pause", "POST", f"{path}/pause", json={})
            if reply is not None and reply.status_code == HTTPStatus.OK:
                claim = self._pull(self.machine, SECRET, _BY_HAND, wait=0)
                if claim is not None and not claim.is_cancel:
                    self.story.seen.violates(f"{claim.job_id} is handed out in a pause")
            while True:
                reply = self.owner_asks("resume", "POST", f"{path}/resume")
                if reply is not None and reply.status_code == HTTPStatus.OK:
                    break
        finally:
            self.story.pausing.release()

    def revoke(self) -> None:
        """Add a machine that gets a job and is revoked: from then on it is nobody."""
        name = self.new_id("gone")
        machine = {"name": name, "fixed_secret": True}
        added = self.owner_asks("add", "POST", "/api/v1/machines", json=machine)
        if added is None or added.status_code != HTTPStatus.CREATED:
            return
        secret = str(added.json()["secret"])
        self._pull(name, secret, _BY_HAND, wait=0)
        path = f"/api/v1/machines/{quote(name)}/revoke"
        reply = self.owner_asks("revoke", "POST", path)
        if reply is None or reply.status_code != HTTPStatus.OK:
            return
        if self._pull(name, secret, _BY_HAND, wait=0) is not None:
            self.story.seen.violates(f"{name} gets a job though it is revoked")

    def back_up(self) -> None:
        file = self.story.folder / f"{self.new_id('backup')}.db"
        try:
            self.story.copied(file)
        except StorageBusy:
            self.story.counts["backup 0"] += 1
            return
        self.story.counts["backup 200"] += 1

    # Machines.

    def pull(self) -> None:
        wait = self.chance.choice((0, 0, 1, 2))
        self._pull(self.machine, SECRET, self.chance.choice((("a", "b"), ("b",))), wait)

    def _pull(
        self, machine: str, secret: str, workflows: tuple[str, ...], wait: int
    ) -> Claim | None:
        body = {
            "license_id": "lic-test",
            "server_id": machine,
            "heartbeat_secret": secret,
            "workflows": list(workflows),
            "extensions": ["claim", "lease", "heartbeat", "release"],
        }
        poll = HeldPoll(machine=machine, workflows=workflows)
        if wait > 1:
            self.story.seen.polls.add(poll)
        try:
            reply = self.ask(
                "pull",
                "POST",
                f"{PATH}/pull",
                json=body,
                headers={"prefer": f"wait={wait}"},
            )
        finally:
            self.story.seen.polls.discard(poll)
        if reply is None or reply.status_code != HTTPStatus.OK:
            return None
        job: dict[str, Any] = reply.json()
        claim = Claim(
            job_id=job["id"],
            is_cancel=job.get("command") == "cancel",
            token=job["claim_token"],
            machine=machine,
            secret=secret,
        )
        self.story.claims.append(claim)
        return claim

    def use_claim(self) -> None:
        """Make one of the calls about a job with a claim that somebody has got, however old."""
        claims = list(self.story.claims)
        if claims:
            claim = self.chance.choice(claims)
            [way] = self.chance.choices(
                ("accept", "heartbeat", "release", "finish"), (40, 30, 10, 20)
            )
            self._call(claim, way)

    def _call(self, claim: Claim, name: str) -> None:
        more: dict[str, Any] = {
            "accept": {"dag_run_id": claim.job_id},
            "heartbeat": {
                "phase": self.chance.choice(
                    ("pending_accept", "accepted", "running", "needs_attention")
                )
            },
            "release": {"reason": "stopping"},
            "finish": {
                "result_status": self.chance.choice(("succeeded", "failed", "aborted")),
                "result_summary": "Done.",
            },
        }[name]
        sent = self.story.seen.clock()
        reply = self.ask(
            name,
            "POST",
            f"{PATH}/{encoded(claim.job_id)}/{name}",
            json={
                "license_id": "lic-test",
                "server_id": claim.machine,
                "secret": claim.secret,
                "claim_token": claim.token,
                **more,
            },
        )
        if reply is None or not reply.is_success:
            return
        # A release that comes again is answered as the first one was, whatever has been since.
        if name != "release":
            self.story.seen.succeeded(claim.job_id, claim.token, sent)
        if name == "accept" and reply.status_code == HTTPStatus.NO_CONTENT:
            self.story.seen.accepted(claim.job_id, sent)


@define(kw_only=True)
class Poller(Caller):
    """A machine that holds one long poll after the other, and does at once what it gets."""

    name: str

    @override
    def run(self) -> None:
        with self.http:
            while not self.story.is_over.is_set():
                claim = self._pull(self.name, SECRET, POLLERS[self.name], _HOLD_S)
                if claim is not None:
                    self._call(claim, "accept")

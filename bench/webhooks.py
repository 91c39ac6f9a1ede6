"""Webhooks of GitHub at a hub whose database also serves pulls: the time until an answer, and the highest rate.

`python -m bench.webhooks` sends 200 deliveries a second for a minute, one of 25 MiB every five seconds among them.
Each is sent at its time whether or not the ones before were answered, so that one wait counts for all deliveries that
it delays. Meanwhile machines pull and finish jobs all the time. `SECONDS` in the environment makes it shorter.
"""

import hashlib
import hmac
import http.client
import itertools
import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from attrs import define, field, frozen

from bench.harness import Hub, Machine, folder, hub, percentile
from bench.hub import CLIENTS, JOBS, rate, raw_postgres, raw_sqlite
from bench.postgres import find, postgres

WEBHOOK_SECRET: Final = "bench-webhook-secret"
RATE: Final = 200
"""Deliveries sent in a second (count)."""
LONG_S: Final = float(os.environ.get("SECONDS", "60"))  # noqa: TID251  # a benchmark's own switch
LARGE_EVERY: Final = 5 * RATE
LARGE: Final = 25 * 1024 * 1024
"""Largest payload of GitHub (bytes)."""
CONNECTIONS: Final = 32
MACHINES: Final = 2
AIM_MS: Final = 1000

CONFIG: Final = """
[github]
token_file = "github-token"
api_url = "http://127.0.0.1:9"
webhook_secret_files = ["webhook-secret"]
[[github.rules]]
name = "tests"
workflow = "it"
repositories = ["*"]
events = ["pull_request", "push"]
"""

FIXTURES: Final = Path(__file__).parents[1] / "tests" / "fixtures" / "github-webhooks"
EVENTS: Final = (
    "pull_request/00-opened",
    "push/03",
    "issue_comment/00-created",
    "check_run/00-created",
)
"""Events that are sent; half of them make a job."""


@define
class Sent:
    """Results of the deliveries: the times from their due time to their answer (seconds), and the number by status."""

    answered_s: list[float] = field(factory=list)
    large_s: list[float] = field(factory=list)
    statuses: dict[int, int] = field(factory=dict)
    pulled: int = 0
    stop: threading.Event = field(factory=threading.Event)
    lock: threading.Lock = field(factory=threading.Lock)

    def note(self, due: float, status: int, *, large: bool) -> None:
        """Add an answer."""
        took = time.perf_counter() - due
        with self.lock:
            (self.large_s if large else self.answered_s).append(took)
            self.statuses[status] = self.statuses.get(status, 0) + 1


def main() -> None:
    """Print the figures for each available database."""
    with folder() as path:
        with webhooks_hub(path, "sqlite:///hub.db") as server:
            measure("SQLite", server, raw_sqlite(path / "raw.db"))
        if find() is None:
            print("webhooks on PostgreSQL: not measured, it is not installed")
            return
        with (
            postgres() as there,
            webhooks_hub(path, there.new_database(), "postgres") as server,
        ):
            measure("PostgreSQL", server, raw_postgres(there.new_database()))


@contextmanager
def webhooks_hub(path: Path, database_url: str, name: str = "hub") -> Iterator[Hub]:
    """Run a hub that takes webhooks."""
    (path / name).mkdir()
    (path / name / "webhook-secret").write_text(WEBHOOK_SECRET)
    (path / name / "github-token").write_text("none")
    with hub(path, name, database_url, CONFIG) as server:
        yield server


def measure(kind: str, server: Hub, raw: float) -> None:
    """Print the time until webhooks are answered, and their highest rate beside the raw rate of the database."""
    sent = load(server)
    print(
        f"webhooks on {kind}: {RATE} a second for {LONG_S:g} s, {MACHINES} machines pull and finish meanwhile"
    )
    rows = {
        "answers by status": str(sent.statuses),
        "jobs pulled and finished meanwhile": f"{sent.pulled / LONG_S:.1f} /s",
        "from due to answered": f"{shown(sent.answered_s)} (aim {AIM_MS} at p99)",
        "of 25 MiB": shown(sent.large_s),
    }
    most = rate(server, [deliver_once] * CLIENTS)
    rows |= {
        "reference: rows inserted, each in a transaction": f"{raw:.1f} /s",
        f"deliveries with a job, {JOBS} by {CLIENTS} clients": f"{most:.1f} /s",
        "ratio": f"{most / raw:.2f}",
    }
    for label, figure in rows.items():
        print(f"  {label:48} {figure}")


def shown(values_s: list[float]) -> str:
    """Return median, 99th percentile and the longest time, in milliseconds."""
    if not values_s:
        return "none"
    figures = (percentile(values_s, 0.5), percentile(values_s, 0.99), max(values_s))
    return " ".join(
        f"{name} {value * 1e3:.1f}"
        for name, value in zip(("p50", "p99", "max"), figures, strict=True)
    )


def load(server: Hub) -> Sent:
    """Send deliveries at their times, and let machines work meanwhile."""
    sent, due = Sent(), queue.Queue[tuple[float, int]]()
    events = [Event.real(name) for name in EVENTS]
    large = Event.real(EVENTS[0], LARGE)
    senders = [
        threading.Thread(target=sender, args=(server, sent, due, events, large))
        for _ in range(CONNECTIONS)
    ]
    machines = [
        threading.Thread(target=work, args=(server, sent, server.add_machine(number)))
        for number in range(MACHINES)
    ]
    for thread in (*senders, *machines):
        thread.start()
    began = time.perf_counter() + 0.1
    for number in range(int(RATE * LONG_S)):
        at = began + number / RATE
        time.sleep(max(0.0, at - time.perf_counter()))
        due.put((at, number))
    for _ in senders:
        due.put((0.0, -1))
    for thread in senders:
        thread.join()
    sent.stop.set()
    for thread in machines:
        thread.join()
    return sent


@frozen
class Event:
    """Name of an event, and its body without the number of its pull request or issue."""

    name: str
    text: str

    @classmethod
    def real(cls, path: str, size: int = 0) -> Self:
        """Return a real event, filled up to a size (bytes)."""
        payload: dict[str, Any] = json.loads((FIXTURES / f"{path}.json").read_text())
        for name in ("pull_request", "issue"):
            if name in payload:
                payload[name]["number"] = NUMBER
        payload["filler"] = "x" * (size - len(json.dumps(payload)) - 20)
        return cls(path.partition("/")[0], json.dumps(payload))

    def signed(self) -> tuple[bytes, dict[str, str]]:
        """Return a body with a number of its own, and the headers of its delivery."""
        data = self.text.replace(str(NUMBER), str(next(numbers)), 1).encode()
        proof = hmac.new(WEBHOOK_SECRET.encode(), data, hashlib.sha256).hexdigest()
        return data, {
            "Content-Type": "application/json",
            "X-GitHub-Event": self.name,
            "X-GitHub-Delivery": str(uuid4()),
            "X-GitHub-Hook-Installation-Target-Type": "integration",
            "X-GitHub-Hook-Installation-Target-ID": "1",
            "X-Hub-Signature-256": f"sha256={proof}",
        }


NUMBER: Final = 987654321
"""Placeholder for the number that is put in."""
numbers = itertools.count(1)


def sender(
    server: Hub,
    sent: Sent,
    due: "queue.Queue[tuple[float, int]]",
    events: list[Event],
    large: Event,
) -> None:
    """Send due deliveries over one connection."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    while True:
        at, number = due.get()
        if number < 0:
            return
        is_large = number % LARGE_EVERY == LARGE_EVERY - 1
        data, headers = (large if is_large else events[number % len(events)]).signed()
        connection.request("POST", "/webhooks/github", data, headers)
        reply = connection.getresponse()
        reply.read()
        sent.note(at, reply.status, large=is_large)


def work(server: Hub, sent: Sent, machine: Machine) -> None:
    """Pull and finish jobs until the end of the run."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    base = "/api/v1/github/dispatch"

    def call(path: str, fields: dict[str, Any], **headers: str) -> tuple[int, bytes]:
        content = json.dumps({**machine.identity, **fields})
        sent_headers = {"Content-Type": "application/json", **headers}
        connection.request("POST", f"{base}/{path}", content, sent_headers)
        reply = connection.getresponse()
        return reply.status, reply.read()

    while not sent.stop.is_set():
        proof = {"heartbeat_secret": machine.secret, "extensions": ["claim", "lease"]}
        status, body = call("pull", proof, Prefer="wait=1")
        if status != http.client.OK:
            continue
        job = json.loads(body)
        claim = {"secret": machine.secret, "claim_token": job["claim_token"]}
        call(f"{job['id']}/accept", {**claim, "dag_run_id": job["id"]})
        call(f"{job['id']}/finish", {**claim, "result_status": "succeeded"})
        sent.pulled += 1


def deliver_once(http_client: Any) -> None:  # noqa: ANN401  # httpx's client, as `rate` gives it
    """Send one delivery that makes a job."""
    data, headers = PULL_REQUEST.signed()
    reply = http_client.post("/webhooks/github", content=data, headers=headers)
    reply.raise_for_status()


PULL_REQUEST: Final = Event.real(EVENTS[0])


if __name__ == "__main__":
    main()

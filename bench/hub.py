"""Rates of the hub beside the raw rate of its database: submits and claims in a second, each durable.

`python -m bench.hub` measures SQLite, and PostgreSQL where Debian's package is installed.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import psycopg

from bench.harness import Hub, Machine, folder, hub
from bench.postgres import find, postgres

JOBS: Final = 600
CLIENTS: Final = 8
"""Clients that call at the same time (count)."""

ROW: Final = "x" * 1500
"""About the size of a job with its texts (bytes)."""


def main() -> None:
    """Print the rates for each available database."""
    with folder() as path:
        with hub(path) as server:
            measure("SQLite", server, raw_sqlite(path / "raw.db"))
        if find() is None:
            print("hub on PostgreSQL: not measured, it is not installed")
            return
        with (
            postgres() as there,
            hub(path, "postgres", there.new_database()) as server,
        ):
            measure("PostgreSQL", server, raw_postgres(there.new_database()))


def measure(kind: str, server: Hub, raw: float) -> None:
    """Print the rates of a hub beside the raw limit of its database."""
    machines = [server.add_machine(number) for number in range(CLIENTS)]
    submitted = rate(server, [submit] * CLIENTS)
    claimed = rate(server, [partial(claim, machine) for machine in machines])
    print(f"hub on {kind}, {JOBS} jobs, {CLIENTS} clients")
    print(f"  reference: rows inserted, each in a transaction of its own {raw:8.1f} /s")
    print(
        f"  submits                                                   {submitted:8.1f} /s"
    )
    print(
        f"  claims                                                    {claimed:8.1f} /s"
    )
    print(
        f"  ratios                                                    {submitted / raw:8.2f} and {claimed / raw:.2f}"
    )


def rate(server: Hub, calls: Sequence[Callable[[httpx.Client], None]]) -> float:
    """Return the calls in a second when each client makes its own at the same time."""

    def work(call: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=server.url, headers=server.http.headers) as http:
            for _ in range(JOBS // CLIENTS):
                call(http)

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, calls))
    return JOBS / (time.perf_counter() - began)


def submit(http: httpx.Client) -> None:
    """Queue a job."""
    body = {"dag_name": "it", "payload": {"text": ROW}}
    http.post("/api/v1/jobs", json=body).raise_for_status()


def claim(machine: Machine, http: httpx.Client) -> None:
    """Claim a job; the queue must have one.

    Raises:
        LookupError: The queue is empty.
    """
    known = ["claim", "lease", "heartbeat", "release"]
    proof = {"heartbeat_secret": machine.secret, "extensions": known}
    body = {**machine.identity, **proof}
    reply = http.post("/api/v1/github/dispatch/pull", json=body)
    if reply.status_code != httpx.codes.OK:
        raise LookupError(reply.status_code)


def raw_sqlite(file: Path) -> float:
    """Return rows that SQLite makes durable in a second, one after the other."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        for setting in ("journal_mode = WAL", "synchronous = FULL"):
            db.execute(f"PRAGMA {setting}")
        db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
        began = time.perf_counter()
        for _ in range(JOBS):
            db.execute("INSERT INTO rows (text) VALUES (?)", (ROW,))
        return JOBS / (time.perf_counter() - began)


def raw_postgres(url: str) -> float:
    """Return rows that PostgreSQL makes durable in a second, one after the other."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TABLE rows (id BIGSERIAL PRIMARY KEY, text TEXT)")
        began = time.perf_counter()
        for _ in range(JOBS):
            db.execute("INSERT INTO rows (text) VALUES (%s)", (ROW,))
        return JOBS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()

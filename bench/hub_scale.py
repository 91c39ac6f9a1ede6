"""Times of the hub's calls at a long queue and a long history: `python -m bench.hub_scale`.

Rows go straight into the database, spread over 20 repositories and 5 workflows. Then each call is made several times,
one after the other; and claims are made beside clients that read all the time.
"""

import argparse
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

import psycopg

from bench.harness import folder, percentile
from bench.hub_process import HERE, Client, Served, served
from bench.postgres import Postgres, find, postgres

T = TypeVar("T")

STEPS: Final = "0:0,100000:0,100000:1000000"
JOBS: Final = "/api/v1/jobs"


def main() -> None:
    """Print the times for each number of jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default=STEPS, help="QUEUED:FINISHED, by commas")
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--checkout", type=Path, default=HERE)
    parser.add_argument("--only", choices=["SQLite", "PostgreSQL"])
    given = parser.parse_args()
    steps = [_step(text) for text in given.steps.split(",")]
    if given.only != "PostgreSQL":
        table("SQLite", steps, given, None)
    if given.only != "SQLite" and find() is not None:
        with postgres() as server:
            table("PostgreSQL", steps, given, server)


def table(
    kind: str,
    steps: list[tuple[int, int]],
    given: argparse.Namespace,
    server: Postgres | None,
) -> None:
    """Print the times with a kind of database."""
    columns = [one_step(*step, given, server) for step in steps]
    heads = [f"{queued}:{finished}" for queued, finished in steps]
    print(f"hub on {kind}, p50 / p95 (ms), queued:finished")
    print(f"  {'call':24}" + "".join(f"{head:>20}" for head in heads))
    for name in columns[0]:
        cells = [
            f"{percentile(column[name], 0.5) * 1e3:9.1f} /{percentile(column[name], 0.95) * 1e3:9.1f}"
            for column in columns
        ]
        print(f"  {name:24}" + "".join(cells))


def _step(text: str) -> tuple[int, int]:
    queued, finished = text.split(":")
    return int(queued), int(finished)


def one_step(
    queued: int, finished: int, given: argparse.Namespace, server: Postgres | None
) -> dict[str, list[float]]:
    """Return the times of each call (seconds)."""
    url = "sqlite:///hub.db" if server is None else server.new_database()
    with (
        folder() as path,
        served(path / "hub", url, checkout=given.checkout, machines=1) as hub,
    ):
        fill(url, path / "hub" / "hub.db", queued, finished)
        return {**times(hub, given.samples), **beside(hub, given.samples)}


def fill(url: str, file: Path, queued: int, finished: int) -> None:
    """Insert jobs."""
    with closing(
        sqlite3.connect(file, timeout=60)
        if url.startswith("sqlite")
        else psycopg.connect(url)
    ) as db:
        no = "0" if url.startswith("sqlite") else "false"
        for count, state in ((finished, "succeeded"), (queued, "queued")):
            for statement in _rows(count, state, no) if count else ():
                db.execute(statement)
        db.commit()
        if not url.startswith("sqlite"):
            db.execute("ANALYZE")
            db.commit()


def _rows(count: int, state: str, no: str) -> Iterator[str]:
    numbers = f"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count})"
    job_id, done = f"'{state}-' || n", int(state != "queued")
    document = f"""'{{"id":"' || {job_id} || '","dag_name":"w' || (n % 5) || '","repository_name":"acme/r' || (n % 20) || '"}}'"""
    now = 1_800_000_000
    yield f"""
        INSERT INTO jobs (id, document, workflow, repository, turn, size, state,
          urgent, lapsed, cancel_requested, created_at, finished_at, deliveries)
        {numbers} SELECT {job_id}, {document}, 'w' || (n % 5), 'acme/r' || (n % 20), n / 20, 300, '{state}',
          {no}, {no}, {no}, {now}, {now * done}, {done} FROM c"""
    yield f"""
        INSERT INTO texts (id, payload, headers)
        {numbers} SELECT {job_id}, '{{"k": "{"v" * 300}"}}', 'null' FROM c"""


def times(hub: Served, samples: int) -> dict[str, list[float]]:
    """Return the times of calls that are made one after the other (seconds)."""
    found: dict[str, list[float]] = {}
    client, machine = Client(hub), hub.machines[0]

    def timed(name: str, call: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = call()
        found.setdefault(name, []).append(time.perf_counter() - began)
        return result

    with page_of(hub) as page:
        for number in range(samples):
            named = {"id": f"new-{number}", "repository_name": "acme/r1"}
            timed("submit", partial(client.submit, **named))
            job = timed("claim", partial(client.claim, machine))
            report = partial(client.report, machine, job)
            timed("accept", partial(report, "accept", dag_run_id="r"))
            timed("heartbeat", partial(report, "heartbeat", phase="running"))
            timed("finish", partial(report, "finish", result_status="succeeded"))
            for name, query in _LISTS.items():
                path = f"{JOBS}?{urlencode(query)}"
                timed(name, partial(client.call, "GET", path))
            timed("metrics", partial(client.call, "GET", "/metrics"))
            timed("page", partial(page, "/"))
            target = {"command": "cancel", "dag_run_id": f"queued-{number + 1}"}
            timed("cancel job", partial(client.submit, **target))
    return found


_LISTS: Final[dict[str, dict[str, str]]] = {
    "list": {},
    "list queued": {"state": "queued"},
    "list of no repository": {"repository": "acme/none"},
    "list of one, failed": {"repository": "acme/r3", "state": "failed"},
}


def beside(hub: Served, samples: int) -> dict[str, list[float]]:
    """Return the times of claims beside loops of metrics, lists and the page (seconds)."""
    client, is_over, found = Client(hub), Event(), list[float]()
    with page_of(hub) as page:
        readers = [
            partial(Client(hub).call, "GET", "/metrics"),
            partial(Client(hub).call, "GET", f"{JOBS}?repository=acme/none"),
            partial(page, "/"),
        ]

        def read(call: Callable[[], Any]) -> None:
            while not is_over.is_set():
                call()

        threads = [Thread(target=read, args=(call,)) for call in readers]
        for thread in threads:
            thread.start()
        for _ in range(samples):
            client.submit()
            began = time.perf_counter()
            client.claim(hub.machines[0])
            found.append(time.perf_counter() - began)
        is_over.set()
        for thread in threads:
            thread.join()
    return {"claim beside readers": found}


@contextmanager
def page_of(hub: Served) -> Iterator[Callable[[str], bytes]]:
    """Log a browser in, and yield a call that gets a page by its path."""
    with closing(HTTPConnection(urlsplit(hub.url).netloc, timeout=120)) as web:

        def call(
            method: str, path: str, body: str = "", **headers: str
        ) -> tuple[HTTPResponse, bytes]:
            web.request(method, path, body, headers)
            reply = web.getresponse()
            return reply, reply.read()

        reply, form = call("GET", "/login")
        hidden = re.findall(
            r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"',
            form.decode(),
        )
        cookies = _cookies(reply)
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode({**dict(hidden), "token": hub.token})
        reply, _ = call("POST", "/login", body, Cookie=cookies, Origin=hub.url, **kind)
        cookies = _cookies(reply) or cookies

        def page(path: str) -> bytes:
            reply, data = call("GET", path, Cookie=cookies)
            assert reply.status == 200, reply.status
            return data

        yield page


def _cookies(reply: HTTPResponse) -> str:
    given = reply.headers.get_all("Set-Cookie") or []
    return "; ".join(each.split(";")[0] for each in given)


if __name__ == "__main__":
    main()

"""Calls of a valid machine during attacks by strangers: `python -m bench.strangers`.

There are 1,000 silent connections, of four addresses and opened again when they are closed, two clients that send
the worst bodies known, and 10,000 webhooks without a valid signature. The aims: p99 of the machine's calls under
100 ms, the hub's memory under 400 MiB. Strangers are processes of their own, and yield the processor to the hub, as
they are on other machines.
"""

import http.client
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Event, Process
from multiprocessing.synchronize import Event as EventType
from pathlib import Path
from typing import Final

from bench.harness import SECRET, Hub, folder, percentile
from bench.postgres import find, postgres
from bench.webhooks import webhooks_hub

SILENT: Final = 1000
ADDRESSES: Final = 4
"""Addresses of the silent connections (count): each has fewer than `connections.silent_per_address`."""
CLIENTS: Final = 2
WEBHOOKS: Final = 10_000
SENDERS: Final = 4
PAUSE_S: Final = 0.01
"""Pause between two calls of the machine (seconds)."""
AIM_MS: Final = 100
AIM_MIB: Final = 400
_PATH: Final = "/api/v1/github/dispatch"

_NAMES: Final = '{"license_id":"x","server_id":"x",'
_PULL: Final = _NAMES + '"heartbeat_secret":"x",'
_FINISH: Final = _NAMES + '"secret":"x","result_status":"succeeded",'


def _many(item: str, count: int) -> str:
    return f"[{','.join([item] * count)}]"


def worst() -> list[tuple[str, bytes]]:
    """Return the worst bodies known, with their paths."""
    members = ",".join(f'"{number}":1' for number in range(7_000))
    worst_bodies = [
        ("x/finish", _FINISH + f'"result_annotations":{_many("{}", 85_000)}}}'),
        ("pull", _PULL + f'"workflows":{_many("1", 1_000_000)}}}'),
        ("pull", _PULL + f'"x":{_many("[]", 13_900_000)}}}'),
        # The largest size of a body whose sender isn't known.
        ("pull", _PULL + f'"x":{_many("[]", 21_000)}}}'),
        ("pull", _PULL + members + "}"),
        ("pull", "{" + members + "," + _PULL[1:-1] + "}"),
        ("pull", _PULL + f'"workflows":{_many("1", 1000)}}}'),
        ("x/finish", _FINISH + f'"result_annotations":{_many("{}", 21_000)}}}'),
        ("x/finish", _FINISH + f'"result_outputs":{{{members}}}}}'),
        ("x/finish", "{" + members + f',"x":"{"x" * 200_000}"}}'),
        ("x/heartbeat", _NAMES + f'"secret":"x","phase":"{"p" * 60_000}"}}'),
    ]
    return [(f"{_PATH}/{path}", body.encode()) for path, body in worst_bodies]


def give_way() -> None:
    """Take only processor time that no other process wants."""
    os.nice(19)


def silent(port: int, stop: EventType) -> None:
    """Hold connections that send nothing, half a head or half a body."""
    give_way()
    starts = (b"", b"POST / HTTP/1.1\r\nHost: h\r\nX: ", b"")
    held: list[socket.socket | None] = [None] * SILENT
    while not stop.wait(1):
        for number, connection in enumerate(held):
            if connection is not None and not _is_closed(connection):
                continue
            address = f"127.0.1.{number % ADDRESSES + 1}", 0
            with suppress(OSError):
                new = socket.create_connection(("127.0.0.1", port), 5, address)
                new.sendall(starts[number % len(starts)])
                new.setblocking(False)
                held[number] = new


def _is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def bodies(port: int, stop: EventType) -> None:
    """Send the worst bodies, one after the other."""
    give_way()
    those = worst()
    while not stop.is_set():
        for path, body in those:
            _post(port, path, body, {"Content-Type": "application/json"})


def _post(port: int, path: str, body: bytes, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with suppress(OSError, http.client.HTTPException):
        connection.request("POST", path, body, headers)
        connection.getresponse().read()
    connection.close()


def webhooks(port: int, count: int) -> None:
    """Send webhooks without a signature, and with a wrong one."""
    give_way()
    body = b'{"a": "' + b"x" * 20_000 + b'"}'
    for number in range(count):
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": f"d-{os.getpid()}-{number}",
        }
        if number % 2:
            headers["X-Hub-Signature-256"] = f"sha256={'0' * 64}"
        _post(port, "/webhooks/github", body, headers)


@contextmanager
def strangers(port: int) -> Iterator[Callable[[], bool]]:
    """Start the strangers. Yield a function that returns whether webhooks are still to come."""
    stop = Event()
    sent = [
        Process(target=webhooks, args=(port, WEBHOOKS // SENDERS))
        for _ in range(SENDERS)
    ]
    those = [
        Process(target=silent, args=(port, stop)),
        *(Process(target=bodies, args=(port, stop)) for _ in range(CLIENTS)),
        *sent,
    ]
    for process in those:
        process.start()
    try:
        yield lambda: any(process.is_alive() for process in sent)
    finally:
        stop.set()
        for process in those:
            process.join(60)
            process.kill()


def calls(server: Hub, goes_on: Callable[[], bool]) -> list[float]:
    """Return the durations of a valid machine's calls, for as long as the strangers go on (seconds)."""
    took: list[float] = []

    def call(path: str, **fields: str) -> None:
        began = time.perf_counter()
        reply = server.call(
            path, {"heartbeat_secret": SECRET, "secret": SECRET, **fields}
        )
        took.append(time.perf_counter() - began)
        if not reply.is_success:
            sys.exit(
                f"a call of the good machine failed: {path} {reply.status_code} {reply.text}"
            )
        time.sleep(PAUSE_S)

    number, began_at = 0, time.monotonic_ns()
    while goes_on():
        number += 1
        job_id = f"{began_at}-{number}"
        server.submit(job_id)
        call("pull")
        call(f"{job_id}/accept", dag_run_id=job_id)
        for _ in range(3):
            call(f"{job_id}/heartbeat", phase="running")
        call(f"{job_id}/finish", result_status="succeeded", result_summary="Done.")
    return took


def memory_mib(pid: int) -> float:
    """Return the peak memory of a process (MiB)."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 0.0 if match is None else int(match.group(1)) / 1024


def main() -> None:
    """Print the figures for each available database."""
    with folder() as path:
        with webhooks_hub(path, "sqlite:///hub.db") as server:
            measure("SQLite", server)
        if find() is None:
            print("strangers on PostgreSQL: not measured, it is not installed")
            return
        with (
            postgres() as there,
            webhooks_hub(path, there.new_database(), "postgres") as server,
        ):
            measure("PostgreSQL", server)


def measure(kind: str, server: Hub) -> None:
    """Print the figures of a hub."""
    port = int(server.url.rpartition(":")[2])
    ends = time.perf_counter() + 5
    alone = calls(server, lambda: time.perf_counter() < ends)
    with strangers(port) as goes_on:
        beside = calls(server, goes_on)
    load = os.getloadavg()[0]
    print(
        f"strangers at a hub on {kind}: {SILENT} silent connections, {CLIENTS} clients with the worst bodies, {WEBHOOKS} unsigned webhooks (load {load:.1f})"
    )
    for label, took in (("alone", alone), ("beside strangers", beside)):
        p50, p99 = (percentile(took, fraction) * 1e3 for fraction in (0.5, 0.99))
        print(
            f"  {len(took)} calls of a machine {label:17} p50 {p50:.1f} p99 {p99:.1f} max {max(took) * 1e3:.1f} ms (aim {AIM_MS} at p99)"
        )
    print(f"  memory of the hub {memory_mib(server.pid):.0f} MiB (aim {AIM_MIB})")


if __name__ == "__main__":
    main()

"""Connections that die without a word: a server that stops, and a cable that is pulled."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from dispatchd.agent.endpoint.failure_kinds import Kind
from support.outward import BODY, PULL, WITHIN_S, client, failure, settings_for
from support.until import until

_SERVER = """
import http.server, sys

class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.send_header("X-Peer", str(self.client_address[1]))
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer((sys.argv[1], 0), Server)
print(server.server_port, flush=True)
server.serve_forever()
"""


async def _peer(http: httpx.AsyncClient) -> str:
    """Ask once, and return which of our ports the server saw."""
    with anyio.fail_after(WITHIN_S):
        answer = await http.post(PULL, json=BODY)
    return answer.headers["x-peer"]


DEADLINE_S = 1.0
SLACK_S = 2.0
"""What a busy machine may need on top (seconds)."""


@contextmanager
def _served(host: str, *before: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server in a process of its own; yield it and its URL."""
    command = [*before, sys.executable, "-c", _SERVER, host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, "the server did not start"
            yield process, f"http://{host}:{port}"
        finally:
            process.kill()


def is_stopped(pid: int) -> bool:
    """Return whether a process has stopped (proc_pid_stat(5), state T)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def test_a_stopped_server_costs_one_deadline_and_one_connection() -> None:
    with _served("127.0.0.1") as (process, url):
        settings = settings_for(url)
        async with client(settings) as http:
            first = await _peer(http)
            assert await _peer(http) == first
            os.kill(process.pid, signal.SIGSTOP)
            # It may still answer for a moment after the signal was sent.
            await until(lambda: is_stopped(process.pid))
            found = await failure(http, settings, DEADLINE_S)
            os.kill(process.pid, signal.SIGCONT)
            second = await _peer(http)

    assert found.kind is Kind.TIMEOUT
    assert first != second


@contextmanager
def _cable() -> Iterator[tuple[str, str]]:
    """Make a network namespace at the end of a virtual cable; yield its name and its address."""
    name = f"dd{os.getpid()}"
    outer, inner, net = f"{name}o", f"{name}i", f"10.213.{os.getpid() % 256}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "netns", name)
        _ip("addr", "add", f"{net}.1/30", "dev", outer)
        _ip("link", "set", outer, "up")
        _ip("-n", name, "addr", "add", f"{net}.2/30", "dev", inner)
        _ip("-n", name, "link", "set", inner, "up")
        yield name, f"{net}.2"
    finally:
        # The virtual cable goes with its namespace.
        _ip("netns", "del", name)


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)
    except subprocess.CalledProcessError as error:
        if words[:2] in {("netns", "add"), ("link", "add")}:
            pytest.skip(f"ip {' '.join(words[:2])}: {error.stderr.decode().strip()}")
        raise


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="makes a network namespace: needs root and ip(8)",
)
async def test_a_pulled_cable_costs_one_deadline_and_one_connection() -> None:
    with (
        _cable() as (name, host),
        _served(host, "ip", "netns", "exec", name) as (_, url),
    ):
        settings = settings_for(url, allow_insecure_host=host)
        async with client(settings) as http:
            first = await _peer(http)
            # Silence in both directions, and no FIN: the packets fall into a hole.
            _ip("-n", name, "link", "set", f"{name}i", "down")
            found = await failure(http, settings, DEADLINE_S)
            _ip("-n", name, "link", "set", f"{name}i", "up")
            second = await _peer(http)

    assert found.kind is Kind.TIMEOUT
    assert first != second

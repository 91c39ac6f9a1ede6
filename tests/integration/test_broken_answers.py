"""Calls whose answers have headers that no calendar and no grammar takes: each fails as an error of ours."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from anyio.abc import SocketStream
from attrs import define

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.endpoint.caller import Caller
from dispatchd.agent.endpoint.client import DispatchEndpoint
from dispatchd.agent.endpoint.credentials import ConfiguredCredentials
from dispatchd.agent.license.client import LicenseEndpoint
from dispatchd.errors import RemoteError
from dispatchd.linux.clock import MachineTime, SteadyClock
from dispatchd.protocol.job import Job
from dispatchd.redaction.known_secrets import KnownSecrets
from support.clock import within
from support.outward import client, settings_for
from support.servers import tcp_server

SEED: Final = 20261128
HEADERS: Final = (
    b"Date",
    b"Retry-After",
    b"Location",
    b"Content-Type",
    b"Content-Encoding",
    b"Preference-Applied",
    b"Dispatch-Contract",
)
PARTS: Final = (
    *(b"Mon", b"Fri, 20", b"31 Feb", b"Nov", b"2026", b"99999999999", b"0001", b"9999"),
    *(b"00:00:00", b"24:61:61", b"-1:00:00", b"GMT", b"+9999", b"-2359", b"EST", b"Z"),
    *(
        b"wait=50",
        b"wait=",
        b"1",
        b"-1",
        b"1e9",
        b"9" * 400,
        b"http://",
        b"//[",
        b"%00",
    ),
    *(
        b"application/json",
        b"; charset=",
        b"gzip",
        b"\xff\xfe",
        b"\xc3\xa9",
        b"\t",
        b"",
    ),
)
CALENDAR: Final = (
    b"Mon, 01 Jan 99999999999 00:00:00 GMT",
    b"Fri, 31 Dec 9999 23:59:59 -2359",
    b"Mon, 01 Jan 1000 00:00:00 +2359",
    b"Mon, 01 Jan 2026 00:00:00 +99999999999",
    b"Mon, 99 Jan 2026 00:00:00 GMT",
)
STATUSES: Final = (200, 204, 301, 302, 401, 404, 409, 410, 418, 429, 500, 503)


@define
class Appliance:
    """What answers every connection with some bytes."""

    port: int = 0
    answer: bytes = b""

    async def connection(self, stream: SocketStream) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive()
        await stream.send(self.answer)


@asynccontextmanager
async def appliance() -> AsyncIterator[Appliance]:
    found = Appliance()
    async with tcp_server(found.connection) as found.port:
        yield found


def answers(draw: random.Random) -> Iterator[bytes]:
    """Yield answers without an end, each with some broken headers."""
    while True:
        lines = [b"HTTP/1.1 %d What" % draw.choice(STATUSES)]
        for name in draw.sample(HEADERS, draw.randint(1, 3)):
            made = b" ".join(draw.choices(PARTS, k=draw.randint(1, 6)))
            value = draw.choice((made, draw.choice(CALENDAR)))
            lines.append(name + b": " + value)
        body = draw.choice((b"", b"{}", b'{"message": "no"}', b"<html>", b"\xff"))
        lines += [b"Connection: close", b"Content-Length: %d" % len(body)]
        yield b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "rounds", [100, pytest.param(5_000, marks=pytest.mark.torture)]
)
async def test_no_header_ends_a_call_otherwise_than_as_an_error_of_ours(
    tmp_path: Path, rounds: int
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    draw = random.Random(SEED)
    refusals: list[RemoteError] = []
    async with appliance() as server:
        settings = settings_for(f"http://127.0.0.1:{server.port}")
        async with client(settings) as http:
            clock = SteadyClock.open(tmp_path, MachineTime())
            caller = Caller(http=http, settings=settings, clock=clock)
            credentials = ConfiguredCredentials(
                license_id="l", server_id="s", secret_file=secret, known=KnownSecrets()
            )
            source = DispatchEndpoint(
                caller=caller, credentials=credentials, call_timeout_s=10
            )
            record = TrackedJob.received(
                Job(id="j", extensions=("contract-header",)), now=clock.now()
            )
            calls = (
                lambda: source.pull(5),
                lambda: source.accept(record),
                lambda: source.heartbeat(record, None),
                lambda: source.release(record, "why"),
                lambda: LicenseEndpoint(caller, 10).heartbeat(
                    "l", "s", "h", marked=True
                ),
            )
            for number, server.answer in zip(
                range(rounds), answers(draw), strict=False
            ):
                try:
                    with within(20):
                        await calls[number % len(calls)]()
                except RemoteError as error:
                    refusals.append(error)
                assert isinstance(source.clock_skew, str)
                caller.endpoint_time()
    assert refusals
    for each in refusals:
        assert "\n" not in str(each)
        assert each.retry_after_s is None or each.retry_after_s >= 0

"""Connections that say nothing, or half of something: they end in time, and keep no machine from its calls."""

import json
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from support.clock import advance
from support.hub import Hub, HubHere, hub
from support.hub_process import hub as hub_process
from support.machine import PATH, Machine, held_poll
from support.raw_calls import connection, head, status_of
from support.until import until

FEW = "[connections]\nmost = 8\nsilent_per_address = 0"
DESCRIPTORS = 128


async def has_ended(stream: SocketStream) -> bool:
    """Return whether a connection was ended by the hub, once it has been."""
    await rest_of(stream)
    return True


async def rest_of(stream: SocketStream) -> bytes:
    """Return what the hub still sends before it ends a connection."""
    data = b""
    with anyio.fail_after(60):
        try:
            while True:
                data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return data


@asynccontextmanager
async def silent(server: Hub, count: int) -> AsyncIterator[list[SocketStream]]:
    """Hold connections on which nothing is sent."""
    async with AsyncExitStack() as opened:
        yield [
            await opened.enter_async_context(connection(server)) for _ in range(count)
        ]


@pytest.mark.parametrize(
    ("sent", "after_s"),
    [
        (b"", 12),
        (b"POST /api/v1/jobs HTTP/1.1\r\nHost: h\r\nX-Half: ", 12),
        (head(f"{PATH}/pull", "Content-Length: 100") + b"{", 32),
        (head(f"{PATH}/pull", "Transfer-Encoding: chunked") + b"1\r\n{\r\n", 32),
        (head("/healthz", method="GET") + b"GET /healthz HT", 12),
        (head("/healthz", method="GET"), 90),
        (head(f"{PATH}/pull", f"Content-Length: {1 << 20}") + b"{", 32),
    ],
    ids=["nothing", "head", "body", "chunk", "second-head", "idle", "refused"],
)
async def test_what_never_ends_is_ended(
    server: Hub, sent: bytes, after_s: float
) -> None:
    async with connection(server) as stream:
        if sent:
            await stream.send(sent)
        async with connection(server) as other:
            # The hub has read what was sent before.
            await other.send(head("/healthz", method="GET"))
            assert await status_of(other) == 200
        await advance(after_s)

        assert await has_ended(stream)


async def test_a_held_poll_is_no_silent_connection(
    server: Hub, machine: Machine
) -> None:
    async with held_poll(machine, wait="200") as poll:
        for _ in range(3):
            await advance(40)
        await server.submit({"id": "j", "dag_name": "ci"})

    assert poll.reply.json()["id"] == "j"


async def test_the_oldest_silent_connection_goes_for_a_new_one(tmp_path: Path) -> None:
    async with hub(tmp_path / "hub", more=FEW) as server:
        machine = Machine(http=server.http)
        async with held_poll(machine) as poll, silent(server, 20) as streams:
            await server.submit({"id": "j", "dag_name": "ci"})
            for each in streams[:10]:
                assert await has_ended(each)
            await streams[-1].send(head("/healthz", method="GET"))
            assert await status_of(streams[-1]) == 200

    assert poll.reply.json()["id"] == "j"


async def test_one_address_has_so_many_silent_connections(tmp_path: Path) -> None:
    few = "[connections]\nsilent_per_address = 4"
    async with (
        hub(tmp_path / "hub", more=few) as server,
        silent(server, 10) as streams,
    ):
        for each in streams[:6]:
            assert await has_ended(each)
        await streams[-1].send(head("/healthz", method="GET"))
        assert await status_of(streams[-1]) == 200


async def test_refused_connections_are_one_line_in_the_log(tmp_path: Path) -> None:
    async with hub(tmp_path / "hub", more=FEW) as server, AsyncExitStack() as held:
        for number in range(8):
            machine = Machine(http=server.http, name=f"m{number}")
            await held.enter_async_context(poll_of(server, machine))
            await polls_are_held(server, number + 1)
        for _ in range(40):
            refused = await held.enter_async_context(connection(server))
            assert await has_ended(refused)
        lines = server.log_file.read_text().splitlines()
        said = [json.loads(each) for each in lines if "connection_refused" in each]
        assert len(server.context.waiting.polls) == 8
        await server.stop()

    assert [each["reason"] for each in said] == ["too many connections"]
    assert said[0]["address"] == "127.0.0.1"


async def polls_are_held(server: HubHere, count: int) -> None:
    await until(lambda: len(server.context.waiting.polls) == count)


@asynccontextmanager
async def poll_of(server: Hub, machine: Machine) -> AsyncIterator[SocketStream]:
    """Hold a poll on a connection of its own."""
    body = json.dumps(
        {
            "license_id": "lic-test",
            "server_id": machine.name,
            "heartbeat_secret": machine.secret,
        }
    )
    async with connection(server) as stream:
        length = f"Content-Length: {len(body)}"
        await stream.send(head(f"{PATH}/pull", "Prefer: wait=300", length))
        await stream.send(body.encode())
        yield stream


async def test_one_machine_holds_few_polls(server: HubHere, machine: Machine) -> None:
    async with AsyncExitStack() as held:
        polls = []
        for number in range(20):
            polls.append(await held.enter_async_context(poll_of(server, machine)))
            if number < 5:
                await polls_are_held(server, number + 1)
            else:
                # The oldest one makes room.
                assert await status_of(polls[number - 5]) == 204
        await server.stop()


async def test_requests_that_are_no_http_leave_no_line_each(server: Hub) -> None:
    for _ in range(20):
        async with connection(server) as stream:
            await stream.send(b"\x16\x03\x01\x00\x05hello\r\n\r\n")
            assert await status_of(stream) == 400
    text = server.log_file.read_text()

    assert "Invalid HTTP" not in text


async def test_a_lack_of_descriptors_neither_deafens_the_hub_nor_floods_its_log(
    tmp_path: Path,
) -> None:
    async with hub_process(tmp_path) as server:
        machine = Machine(http=server.http)
        await server.submit({"id": "j", "dag_name": "ci"})
        before = server.log_file.stat().st_size
        pid = server.process.pid
        # Less than the hub has counted with at its start.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        async with silent(server, 300):
            held = await machine.pull()
            assert (await held.accept()).status_code == 204
            async with held_poll(machine, wait="1") as poll:
                pass
            assert poll.reply.status_code == 204
        assert (await held.finish()).status_code == 204
        said = server.log_file.read_text()[before:]

    assert "Traceback" not in said
    assert said.count("connection_refused") <= 2


async def test_a_hub_with_few_descriptors_takes_fewer_connections(
    tmp_path: Path,
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limited = ("prlimit", f"--nofile={DESCRIPTORS}:{hard}")
    async with hub_process(tmp_path, wrapper=limited) as server:
        pid = server.process.pid
        raised = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]

    assert raised == min(hard, 2048 + 96)


async def test_connections_are_forgotten_when_they_end(server: HubHere) -> None:
    async with silent(server, 5):
        pass

    async def are_gone() -> bool:
        text = (await server.http.get("/metrics")).text
        [line] = [
            each
            for each in text.splitlines()
            if each.startswith("dispatchd_hub_connections ")
        ]
        return float(line.split()[1]) <= 1

    await until(are_gone)


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", ("Content-Length: 4", "Transfer-Encoding: chunked")),
        ("1.1", ("Transfer-Encoding: chunked", "Content-Length: 0")),
        ("1.1", ("content-length: 4", "TRANSFER-ENCODING: Chunked")),
        ("1.0", ("Transfer-Encoding: chunked",)),
        ("1.1", ("Content-Length: 4", "Content-Length: 5")),
        ("1.1", ("Content-Length: +4",)),
        ("1.1", ("Transfer-Encoding: xchunked",)),
        ("1.1", ("Transfer-Encoding : chunked",)),
    ],
)
async def test_a_body_that_two_readers_could_count_differently_is_refused(
    server: Hub, version: str, headers: tuple[str, ...]
) -> None:
    sent = head(f"{PATH}/pull", *headers).replace(
        b"HTTP/1.1", f"HTTP/{version}".encode()
    )
    async with connection(server) as stream:
        await stream.send(sent + b"0\r\n\r\n" + head("/healthz", method="GET"))
        assert await status_of(stream) in {400, 501}
        # What could be the next request is never answered.
        assert b"HTTP/1.1" not in await rest_of(stream)

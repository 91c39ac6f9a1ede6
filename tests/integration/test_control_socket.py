"""The control socket from both sides: what it answers, whom it refuses, and what it survives."""

import errno
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from structlog.testing import capture_logs

from dispatchd.agent.control.calls import (
    SOCKET,
    Act,
    Call,
    Limits,
    Lines,
    Refused,
    Reply,
    socket_address,
)
from dispatchd.agent.control.client import ask, in_path, stream
from dispatchd.agent.control.server import ControlServer
from dispatchd.agent.control.token import TOKEN_FILE, TOKEN_HEADER
from dispatchd.agent.control.token import read as token_of
from dispatchd.agent.store.lock import lock
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import FolderUnusable, NotReachable, PathTaken, UsageError
from dispatchd.protocol.job import Json
from support.until import until

WITHIN_S = 20
NOBODY = 65534
GROUP = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")

Routes = Mapping[tuple[str, str], Act]


async def echo(call: Call) -> Reply:
    document: dict[str, Json] = {
        "method": call.method,
        "path": list(call.path),
        "parameters": dict(call.parameters),
        "query": dict(call.query),
        "body": call.body,
        "peer": [call.peer.pid, call.peer.uid, call.peer.gid] if call.peer else None,
    }
    return Reply(body=document)


async def created(_call: Call) -> Reply:
    return Reply(status=201, body="made")


async def refuse(call: Call) -> Reply:
    status = int(call.query["status"])
    raise Refused(status=status, reason="job j is not parked")


async def count(_call: Call) -> Lines:
    async def items() -> AsyncGenerator[Json, None]:
        for number in range(3):
            yield {"number": number}

    return Lines(items=items())


ROUTES: Routes = {
    ("GET", "/v1/echo"): echo,
    ("POST", "/v1/echo"): echo,
    ("POST", "/v1/jobs/{job}/block"): echo,
    ("PUT", "/v1/made"): created,
    ("POST", "/v1/refuse"): refuse,
    ("GET", "/v1/events"): count,
}


@asynccontextmanager
async def serving(
    folder: Path,
    routes: Routes = ROUTES,
    limits: Limits | None = None,
    look_s: float = 15.0,
) -> AsyncIterator[None]:
    server = ControlServer(
        folder=folder,
        routes=routes,
        bugs=BugFence(),
        limits=limits or Limits(),
        look_s=look_s,
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        with anyio.fail_after(WITHIN_S):
            yield
        tasks.cancel_scope.cancel()


async def asked(
    folder: Path, method: str = "GET", path: str = "/v1/echo", body: Json = None
) -> Any:
    """Ask as the command line does, from a thread of its own."""
    call = partial(ask, folder, method, path, body, cannot="do it")
    return await to_thread.run_sync(call, abandon_on_cancel=True)


def followed(folder: Path) -> list[Json]:
    return list(stream(folder, "/v1/events", cannot="follow"))


async def connected(folder: Path) -> SocketStream:
    with socket_address(folder) as address:
        return await anyio.connect_unix(address)


def with_token(folder: Path, request: bytes) -> bytes:
    token = f"{TOKEN_HEADER}: {token_of(folder)}"
    return request.replace(b"host: x\r\n", f"host: x\r\n{token}\r\n".encode(), 1)


async def raw(folder: Path, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return the status line, the headers and the body that come back for some bytes, with the token put in."""
    answer = b""
    request = with_token(folder, request)
    async with await connected(folder) as connection:
        with suppress(anyio.BrokenResourceError):
            await connection.send(request)
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                answer += await connection.receive()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {
        name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
    }
    return first, headers, body


def request(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    named = {"host": "x", "content-length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def message(body: bytes) -> str:
    found = json.loads(body)["message"]
    assert isinstance(found, str)
    return found


# Who is answered


@pytest.mark.parametrize(
    "given", ["", "dispatchd-token: \r\n", "dispatchd-token: 0123\r\n"]
)
async def test_who_does_not_know_the_token_is_told_nothing(
    tmp_path: Path, given: str
) -> None:
    head = f"GET /v1/echo HTTP/1.1\r\nHost: x\r\n{given}\r\n"
    async with serving(tmp_path):
        first, _, body = await raw(tmp_path, head.encode())

    assert first == "HTTP/1.1 403 Forbidden"
    assert "control.token" in message(body)


async def test_the_token_is_as_private_as_the_socket_and_new_with_each_daemon(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path):
        first = token_of(tmp_path)
    async with serving(tmp_path):
        second = token_of(tmp_path)
        found = (tmp_path / "control.token").stat()
        socket_found = (tmp_path / "control.sock").stat()

    assert first != second
    assert min(len(first), len(second)) >= 32
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (found.st_uid, found.st_gid) == (socket_found.st_uid, socket_found.st_gid)


# What is answered


async def test_a_call_reaches_its_act_with_all_that_it_says(tmp_path: Path) -> None:
    async with serving(tmp_path):
        found = await asked(tmp_path, "POST", "/v1/echo?a=1&b=%C3%BC&c=", {"x": [1]})

    assert found == {
        "method": "POST",
        "path": ["v1", "echo"],
        "parameters": {},
        "query": {"a": "1", "b": "ü", "c": ""},
        "body": {"x": [1]},
        "peer": [os.getpid(), os.geteuid(), os.getegid()],
    }


async def test_a_call_without_a_body_has_none(tmp_path: Path) -> None:
    async with serving(tmp_path):
        found = await asked(tmp_path)

    assert found["body"] is None


@pytest.mark.parametrize(
    "job", ["a", "a/b/c", "..", ".", "50% ü?#&", "a b", "{job}", "\ud800", "%2F"]
)
async def test_any_job_id_arrives_as_it_was_sent(tmp_path: Path, job: str) -> None:
    async with serving(tmp_path):
        found = await asked(tmp_path, "POST", f"/v1/jobs/{in_path(job)}/block")

    assert found["parameters"] == {"job": job}
    assert found["path"] == ["v1", "jobs", job, "block"]


async def test_an_empty_job_id_is_not_found(tmp_path: Path) -> None:
    async with serving(tmp_path):
        first, _, _ = await raw(tmp_path, request("POST", "/v1/jobs//block"))

    assert first == "HTTP/1.1 404 Not Found"


async def test_an_act_chooses_the_status(tmp_path: Path) -> None:
    async with serving(tmp_path):
        first, headers, body = await raw(tmp_path, request("PUT", "/v1/made"))

    assert first == "HTTP/1.1 201 Created"
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert json.loads(body) == "made"


async def test_an_act_that_refuses_says_why(tmp_path: Path) -> None:
    async with serving(tmp_path):
        first, _, body = await raw(tmp_path, request("POST", "/v1/refuse?status=409"))

    assert first == "HTTP/1.1 409 Conflict"
    assert message(body) == "job j is not parked"


async def test_an_unknown_path_is_404_and_a_wrong_method_405(tmp_path: Path) -> None:
    async with serving(tmp_path):
        unknown, _, unknown_body = await raw(tmp_path, request("GET", "/v1/nothing"))
        wrong, headers, wrong_body = await raw(tmp_path, request("PUT", "/v1/echo"))

    assert unknown == "HTTP/1.1 404 Not Found"
    assert message(unknown_body) == "there is no /v1/nothing"
    assert wrong == "HTTP/1.1 405 Method Not Allowed"
    assert headers["allow"] == "GET, POST"
    assert message(wrong_body) == "/v1/echo takes GET and POST, not PUT"


async def test_the_refusal_of_head_has_no_body(tmp_path: Path) -> None:
    async with serving(tmp_path):
        first, _, body = await raw(tmp_path, request("HEAD", "/v1/echo"))

    assert first == "HTTP/1.1 405 Method Not Allowed"
    assert body == b""


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no host": b"GET /v1/echo HTTP/1.1\r\n\r\n",
    "two lengths": b"POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a bad chunk": b"POST /v1/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "a tunnel": b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a bad escape": request("GET", "/v1/%ff"),
    "a bad query": request("GET", "/v1/echo?a=%ff"),
    "no JSON": request("POST", "/v1/echo", b"{"),
    "no number": request("POST", "/v1/echo", b"NaN"),
    "no UTF-8": request("POST", "/v1/echo", b'"\xff"'),
    "too deep": request("POST", "/v1/echo", b"[" * 100_000),
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_malformed_is_400_and_ends_only_itself(
    tmp_path: Path, sent: bytes
) -> None:
    async with serving(tmp_path):
        first, _, body = await raw(tmp_path, sent)
        after = await asked(tmp_path)

    assert first == "HTTP/1.1 400 Bad Request"
    assert message(body)
    assert after["method"] == "GET"


# Limits


async def test_a_body_may_be_as_large_as_the_limit_and_no_larger(
    tmp_path: Path,
) -> None:
    exact, more = b'"' + b"x" * 998 + b'"', b'"' + b"x" * 999 + b'"'
    limits = Limits(body_bytes=1000)
    chunked = request("POST", "/v1/echo").replace(
        b"content-length: 0", b"transfer-encoding: chunked"
    )
    async with serving(tmp_path, limits=limits):
        fits, _, _ = await raw(tmp_path, request("POST", "/v1/echo", exact))
        large, _, body = await raw(tmp_path, request("POST", "/v1/echo", more))
        pieces, _, _ = await raw(tmp_path, chunked + b"3e9\r\n" + more + b"\r\n")

    assert fits == "HTTP/1.1 200 OK"
    assert large.startswith("HTTP/1.1 413 ")
    assert pieces.startswith("HTTP/1.1 413 ")
    assert message(body) == "the body is larger than 1000 bytes"


async def test_a_body_that_is_announced_as_too_large_need_not_be_sent(
    tmp_path: Path,
) -> None:
    announced = request("POST", "/v1/echo", headers={"content-length": "1048577"})

    async with serving(tmp_path):
        first, _, _ = await raw(tmp_path, announced)

    assert first.startswith("HTTP/1.1 413 ")


async def test_a_client_that_sends_far_too_much_still_reads_why(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path):
        with pytest.raises(UsageError, match="larger than 1048576 bytes"):
            await asked(tmp_path, "POST", body="x" * 8_000_000)


async def test_a_head_that_never_ends_is_431(tmp_path: Path) -> None:
    async with serving(tmp_path):
        first, _, _ = await raw(tmp_path, b"GET / HTTP/1.1\r\na: " + b"x" * 100_000)

    assert first == "HTTP/1.1 431 Request Header Fields Too Large"


@pytest.mark.parametrize("half", [b"", b"GET /v1", request("POST", "/", b"12")[:-1]])
async def test_half_a_request_is_given_up_in_time(tmp_path: Path, half: bytes) -> None:
    async with serving(tmp_path, limits=Limits(request_s=0.1)):
        first, _, body = await raw(tmp_path, half)

    assert first == "HTTP/1.1 408 Request Timeout"
    assert message(body) == "the request was not complete within 0.1 s"


async def admitted(folder: Path) -> Any:
    """Ask, or return None where there is no room yet: the server learns of an end in its own time."""
    with suppress(NotReachable):
        return await asked(folder)


async def hang(_call: Call) -> Lines:
    async def items() -> AsyncGenerator[Json, None]:
        await anyio.sleep_forever()
        yield None

    return Lines(items=items())


HANGING: Routes = {**ROUTES, ("GET", "/v1/hang"): hang}


async def holding(folder: Path, connections: AsyncExitStack, count: int = 1) -> None:
    """Hold connections with a request that is being carried out."""
    for _ in range(count):
        connection = await connections.enter_async_context(await connected(folder))
        await connection.send(with_token(folder, request("GET", "/v1/hang")))
    # Until they are counted as what they are.
    await anyio.sleep(0.1)


async def test_one_connection_too_many_is_told_so_and_room_comes_back(
    tmp_path: Path,
) -> None:
    limits = Limits(connections=1, kept_for_root=0)
    async with serving(tmp_path, HANGING, limits=limits):
        async with AsyncExitStack() as connections:
            await holding(tmp_path, connections)
            with pytest.raises(NotReachable, match="1 connections are open already"):
                await asked(tmp_path)
        found = await until(partial(admitted, tmp_path))

    assert found["method"] == "GET"


async def test_one_peer_leaves_connections_for_others(tmp_path: Path) -> None:
    async with serving(tmp_path, HANGING, limits=Limits(connections=4)):
        async with AsyncExitStack() as connections:
            await holding(tmp_path, connections, 3)
            with pytest.raises(NotReachable, match="3 connections from where this"):
                await asked(tmp_path)
        found = await until(partial(admitted, tmp_path))

    assert found["method"] == "GET"


@pytest.mark.parametrize("sent", [b"", b"GET /v1/echo HTTP/1.1\r\nhost: x\r\n"])
async def test_who_has_proven_nothing_keeps_nobody_away(
    tmp_path: Path, sent: bytes
) -> None:
    """A run may connect, and may have the control group of whoever steers the daemon."""
    async with serving(tmp_path, limits=Limits(connections=4)):
        async with AsyncExitStack() as connections:
            for _ in range(12):
                one = await connections.enter_async_context(await connected(tmp_path))
                with suppress(anyio.BrokenResourceError):
                    await one.send(sent)
            found = await asked(tmp_path)
        await until(partial(admitted, tmp_path))

    assert found["method"] == "GET"


async def test_who_has_to_give_way_is_never_one_who_is_answered(
    tmp_path: Path,
) -> None:
    limits = Limits(connections=3, kept_for_root=0)
    async with serving(tmp_path, HANGING, limits=limits):
        async with AsyncExitStack() as connections:
            await holding(tmp_path, connections)
            for _ in range(8):
                await connections.enter_async_context(await connected(tmp_path))
            found = await asked(tmp_path)
            await holding(tmp_path, connections)
            with pytest.raises(NotReachable, match="open already"):
                await asked(tmp_path)
        await until(partial(admitted, tmp_path))

    assert found["method"] == "GET"


# Clients that go, and clients that wait


@pytest.mark.parametrize("sent", [b"", b"GET /v1", request("POST", "/", b"12")[:-1]])
async def test_a_client_may_vanish_in_its_request(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path):
        async with await connected(tmp_path) as connection:
            await connection.send(sent)
        found = await asked(tmp_path)

    assert found["method"] == "GET"


async def test_an_act_is_carried_out_though_its_client_has_gone(
    tmp_path: Path,
) -> None:
    begun, go_on, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def act(_call: Call) -> Reply:
        begun.set()
        await go_on.wait()
        done.set()
        return Reply(body="x" * 1_000_000)

    async with serving(tmp_path, {**ROUTES, ("POST", "/v1/act"): act}):
        async with await connected(tmp_path) as connection:
            await connection.send(with_token(tmp_path, request("POST", "/v1/act")))
            await begun.wait()
        go_on.set()
        await done.wait()
        found = await asked(tmp_path)

    assert found["method"] == "GET"


async def test_a_slow_act_holds_up_nobody_else(tmp_path: Path) -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    answers: list[str] = []

    async def slow(_call: Call) -> Reply:
        begun.set()
        await go_on.wait()
        return Reply(body="slow")

    async def ask_slowly() -> None:
        answers.append(await asked(tmp_path, "POST", "/v1/slow"))

    async with (
        serving(tmp_path, {**ROUTES, ("POST", "/v1/slow"): slow}),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ask_slowly)
        await begun.wait()
        answers.append((await asked(tmp_path))["method"])
        go_on.set()

    assert answers == ["GET", "slow"]


async def test_a_bug_in_an_act_is_500_and_a_line_in_the_log_and_ends_nothing(
    tmp_path: Path,
) -> None:
    async def broken(_call: Call) -> Reply:
        raise KeyError("bug")

    async def breaks_off(_call: Call) -> Lines:
        async def items() -> AsyncGenerator[Json, None]:
            yield {"number": 0}
            raise OSError(errno.EMFILE, "Too many open files")

        return Lines(items=items())

    routes = {
        **ROUTES,
        ("GET", "/v1/broken"): broken,
        ("GET", "/v1/breaks-off"): breaks_off,
    }
    with capture_logs() as lines:
        async with serving(tmp_path, routes):
            first, _, body = await raw(tmp_path, request("GET", "/v1/broken?past=3"))
            _, _, cut = await raw(tmp_path, request("GET", "/v1/breaks-off"))
            found = await asked(tmp_path)

    assert first == "HTTP/1.1 500 Internal Server Error"
    assert "bug in dispatchd" in message(body)
    assert cut == b'e\r\n{"number": 0}\n\r\n'
    assert found["method"] == "GET"
    assert [(each["event"], each["call"]) for each in lines] == [
        ("bug_contained", "GET /v1/broken?past=3"),
        ("bug_contained", "GET /v1/breaks-off"),
    ]


# Streams


async def test_a_stream_comes_line_by_line_and_ends(tmp_path: Path) -> None:
    async with serving(tmp_path):
        found = await to_thread.run_sync(followed, tmp_path, abandon_on_cancel=True)
        _, headers, _ = await raw(tmp_path, request("GET", "/v1/events"))

    assert found == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert headers["content-type"] == "application/x-ndjson"
    assert headers["transfer-encoding"] == "chunked"


class Endless:
    """A stream that says when it was closed."""

    def __init__(self, item: Json, *, pause: bool) -> None:
        self.item, self.pause = item, pause
        self.closed = anyio.Event()

    async def __call__(self, _call: Call) -> Lines:
        return Lines(items=self._items())

    async def _items(self) -> AsyncGenerator[Json, None]:
        try:
            while True:
                yield self.item
                if self.pause:
                    await anyio.sleep_forever()
        finally:
            self.closed.set()


async def test_a_stream_that_has_nothing_to_say_ends_when_its_client_goes(
    tmp_path: Path,
) -> None:
    events = Endless("first", pause=True)
    async with serving(tmp_path, {("GET", "/v1/events"): events}):
        async with await connected(tmp_path) as connection:
            await connection.send(with_token(tmp_path, request("GET", "/v1/events")))
            got = b""
            while b"first" not in got:
                got += await connection.receive()
        await events.closed.wait()


async def test_a_stream_ends_when_its_client_takes_no_more(tmp_path: Path) -> None:
    events = Endless("x" * 100_000, pause=False)
    async with (
        serving(tmp_path, {("GET", "/v1/events"): events}, Limits(reply_s=0.1)),
        await connected(tmp_path) as connection,
    ):
        await connection.send(with_token(tmp_path, request("GET", "/v1/events")))
        await events.closed.wait()


async def test_a_stream_that_the_stop_of_the_daemon_ends_is_an_error_in_words(
    tmp_path: Path,
) -> None:
    events = Endless("first", pause=True)
    lines: Iterator[Json] = stream(tmp_path, "/v1/events", cannot="follow")
    async with serving(tmp_path, {("GET", "/v1/events"): events}):
        first = await to_thread.run_sync(next, lines)

    with pytest.raises(NotReachable, match="cannot follow: the daemon ended"):
        await to_thread.run_sync(next, lines)
    assert first == "first"


# The socket as a file


async def test_the_socket_is_for_its_owner_and_group_only(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        async with serving(tmp_path):
            mode = (tmp_path / SOCKET).stat().st_mode
    finally:
        os.umask(before)

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


async def test_the_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    async with serving(tmp_path):
        assert (tmp_path / SOCKET).exists()

    assert not (tmp_path / SOCKET).exists()


async def test_a_removed_socket_is_made_again_and_a_stream_goes_on(
    tmp_path: Path,
) -> None:
    """Seen: after `rm control.sock` each command said that no daemon ran, until the restart."""
    go_on = anyio.Event()

    async def two(_call: Call) -> Lines:
        async def items() -> AsyncGenerator[Json, None]:
            yield {"number": 1}
            await go_on.wait()
            yield {"number": 2}

        return Lines(items=items())

    routes = {**ROUTES, ("GET", "/v1/two"): two}
    request = b"GET /v1/two HTTP/1.1\r\nhost: x\r\n\r\n"
    with capture_logs() as logs:
        async with serving(tmp_path, routes, look_s=0.05):
            async with await connected(tmp_path) as old:
                await old.send(with_token(tmp_path, request))
                answer = await old.receive()
                (tmp_path / SOCKET).unlink()
                (tmp_path / TOKEN_FILE).unlink()
                await until((tmp_path / TOKEN_FILE).exists)
                assert (await asked(tmp_path))["method"] == "GET"
                go_on.set()
                with suppress(anyio.EndOfStream):
                    while True:
                        answer += await old.receive()
            assert b'{"number": 2}' in answer
    events = [entry["event"] for entry in logs]
    assert events == ["control_socket_made_again"]


async def test_a_removed_or_changed_token_is_written_again(tmp_path: Path) -> None:
    async with serving(tmp_path, look_s=0.05):
        token = token_of(tmp_path)
        (tmp_path / TOKEN_FILE).unlink()
        await until(lambda: token_of(tmp_path) == token)
        (tmp_path / TOKEN_FILE).write_text("another")
        await until(lambda: token_of(tmp_path) == token)
        assert (await asked(tmp_path))["method"] == "GET"


async def test_something_in_the_place_of_a_removed_socket_is_reported_once(
    tmp_path: Path,
) -> None:
    with capture_logs() as logs:
        async with serving(tmp_path, look_s=0.05):
            (tmp_path / SOCKET).unlink()
            (tmp_path / SOCKET).mkdir()
            await until(lambda: bool(logs))
            (tmp_path / SOCKET).rmdir()
            await until(lambda: len(logs) > 1)
            assert (await asked(tmp_path))["method"] == "GET"
    assert [entry["event"] for entry in logs] == [
        "control_socket_not_made",
        "control_socket_made_again",
    ]


async def test_a_command_says_that_the_socket_of_a_running_daemon_is_missing(
    tmp_path: Path,
) -> None:
    with lock(tmp_path):
        async with serving(tmp_path):
            (tmp_path / SOCKET).unlink()
            with pytest.raises(NotReachable) as caught:
                await asked(tmp_path)
    assert str(caught.value).endswith(
        f"a daemon holds {tmp_path}, but {tmp_path / SOCKET} is missing; the daemon makes it within 15 s"
    )


async def test_the_socket_of_another_daemon_is_not_removed(tmp_path: Path) -> None:
    async with serving(tmp_path):
        (tmp_path / SOCKET).unlink()
        leave_socket(tmp_path)

    assert (tmp_path / SOCKET).exists()


async def test_the_state_folder_may_have_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    folder.mkdir(parents=True)

    async with serving(folder):
        found = await asked(folder)

    assert found["method"] == "GET"
    assert list(folder.iterdir()) == []


async def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    leave_socket(tmp_path)

    async with serving(tmp_path):
        found = await asked(tmp_path)

    assert found["method"] == "GET"


async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    async def once() -> set[str]:
        async with serving(tmp_path):
            await asked(tmp_path)
            with pytest.raises(UsageError):
                await asked(tmp_path, "GET", "/v1/nothing")
            await to_thread.run_sync(followed, tmp_path)
        return {each.name for each in Path("/proc/self/fd").iterdir()}

    first = await once()
    second = await once()

    assert first == second


@pytest.mark.parametrize("obstacle", ["no folder", "a file"])
async def test_a_socket_that_cannot_be_made_is_an_error_of_the_folder(
    tmp_path: Path, obstacle: str
) -> None:
    folder = tmp_path / "state"
    if obstacle == "a file":
        folder.mkdir()
        (folder / SOCKET).write_text("mine")

    with pytest.raises(ExceptionGroup) as caught:
        async with serving(folder):
            pass

    assert caught.group_contains(FolderUnusable)


def occupy(kind: str, path: Path) -> None:
    """Put something at a path."""
    match kind:
        case "a regular file":
            path.write_text("mine")
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "kind", ["a regular file", "a folder", "a pipe", "a link to 'nowhere'"]
)
async def test_what_is_in_the_place_of_the_socket_is_named_and_left_alone(
    tmp_path: Path, kind: str
) -> None:
    occupy(kind, tmp_path / SOCKET)
    before = (tmp_path / SOCKET).lstat()

    with pytest.raises(ExceptionGroup) as caught:
        async with serving(tmp_path):
            pass

    words = f"{SOCKET}: there is {kind} of user {os.geteuid()}; move it away, or set another control.folder"
    assert caught.group_contains(PathTaken, match=re.escape(words))
    assert os.path.samestat(before, (tmp_path / SOCKET).lstat())


@needs_root
async def test_a_socket_of_another_user_that_may_not_be_replaced_is_named(
    open_folder: Path,
) -> None:
    """As in a folder like /tmp, where only its owner may remove a file."""
    open_folder.chmod(0o1777)
    leave_socket(open_folder)
    code = (
        "import anyio, os, sys; from anyio._backends import _asyncio; from pathlib import Path\n"
        "from dispatchd.agent.control.server import ControlServer\n"
        "from dispatchd.concurrency.bug_fence import BugFence\n"
        "os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))\n"
        "try: anyio.run(ControlServer(folder=Path(sys.argv[1]), routes={}, bugs=BugFence()).run)\n"
        "except BaseException as error: print(error)"
    )
    done = await to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", code, str(open_folder), str(NOBODY)],
            capture_output=True,
            text=True,
            check=False,
        )
    )

    assert f"{SOCKET}: there is a socket of user 0; move it away" in done.stdout, done
    assert stat.S_ISSOCK((open_folder / SOCKET).lstat().st_mode)


async def test_a_target_in_absolute_form_means_the_same(tmp_path: Path) -> None:
    """RFC 9112, 3.2.2: a server has to take it."""
    async with serving(tmp_path):
        target = "http://localhost/v1/echo?a=1"
        first, _, body = await raw(tmp_path, request("GET", target))

    assert first == "HTTP/1.1 200 OK"
    assert json.loads(body)["path"] == ["v1", "echo"]
    assert json.loads(body)["query"] == {"a": "1"}


def leave_socket(folder: Path) -> None:
    with socket_address(folder) as address, socket.socket(socket.AF_UNIX) as left:
        left.bind(address)


# Who may


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine can enter; pytest's are for one only."""
    with tempfile.TemporaryDirectory(prefix="dispatchd-control-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


AS_OTHER = """
import os, sys
from pathlib import Path
from dispatchd.agent.control.client import ask
from dispatchd.errors import UserError

folder, user, *groups = sys.argv[1:]
# As root first: the other user may be unable to read what this interpreter imports on the way.
ask(Path(folder), "GET", "/v1/echo", cannot="do it")
os.setgroups([int(group) for group in groups])
os.setgid(int(user))
os.setuid(int(user))
try:
    print(ask(Path(folder), "GET", "/v1/echo", cannot="do it")["peer"])
except UserError as error:
    print(type(error).__name__, error)
"""


async def as_other(folder: Path, *groups: int) -> str:
    """Return what a user without rights of its own is told."""
    command = [sys.executable, "-c", AS_OTHER, str(folder), str(NOBODY)]
    done = await anyio.run_process([*command, *map(str, groups)], stderr=None)
    return done.stdout.decode().strip()


@needs_root
async def test_another_user_is_stopped_by_the_mode(open_folder: Path) -> None:
    async with serving(open_folder):
        told = await as_other(open_folder)

    assert told == (
        f"NotReachable cannot do it: this user may not open {open_folder / SOCKET}; "
        "join the group root, or use sudo"
    )


@needs_root
async def test_another_user_is_refused_even_if_the_mode_lets_it_pass(
    open_folder: Path,
) -> None:
    async with serving(open_folder):
        (open_folder / SOCKET).chmod(0o666)
        told = await as_other(open_folder, GROUP)

    assert told == (
        f"NotReachable cannot do it: user {NOBODY} is not in the group 0 of the control socket"
    )


STAYS = """
import os, socket, sys
os.setgroups([0])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@needs_root
async def test_root_gets_in_when_others_have_taken_all_connections(
    open_folder: Path,
) -> None:
    command = [sys.executable, "-c", STAYS, str(open_folder / SOCKET), str(NOBODY)]
    async with (
        serving(open_folder, limits=Limits(connections=1)),
        await anyio.open_process(command, stderr=None) as member,
    ):
        assert member.stdout is not None
        said = BufferedByteReceiveStream(member.stdout)
        assert await said.receive_until(b"\n", 100) == b"connected"
        found = await asked(open_folder)
        assert member.stdin is not None
        await member.stdin.aclose()

    assert found["peer"][1] == 0


@needs_root
async def test_a_member_of_the_group_may(open_folder: Path) -> None:
    os.chown(open_folder, 0, GROUP)
    open_folder.chmod(0o2755)  # so that the socket gets the folder's group

    async with serving(open_folder):
        told = await as_other(open_folder, 11, GROUP)

    assert told.endswith(f", {NOBODY}, {NOBODY}]")


# The command line's side


@pytest.mark.parametrize("left", ["no folder", "no socket", "a socket"])
def test_without_a_daemon_the_error_says_how_to_start_one(
    tmp_path: Path, left: str
) -> None:
    folder = tmp_path / "state"
    if left != "no folder":
        folder.mkdir()
    if left == "a socket":
        leave_socket(folder)

    with pytest.raises(NotReachable) as caught:
        ask(folder, "GET", "/v1/echo", cannot="block job j")

    assert str(caught.value) == (
        f"cannot block job j: no daemon is running on {folder}; start it with `dispatchd run`"
    )


@needs_root
async def test_somebody_else_who_answers_is_told_nothing(open_folder: Path) -> None:
    async with serving(open_folder):
        os.chown(open_folder / SOCKET, NOBODY, NOBODY)
        with pytest.raises(NotReachable, match="another program answers there"):
            await anyio.to_thread.run_sync(
                lambda: ask(open_folder, "GET", "/v1/echo", cannot="do it")
            )


async def test_a_refusal_is_a_usage_error_with_the_daemons_words(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path):
        with pytest.raises(UsageError) as caught:
            await asked(tmp_path, "POST", "/v1/refuse?status=409")

    assert str(caught.value) == "cannot do it: job j is not parked"


async def test_a_fault_of_the_daemon_is_not_a_usage_error(tmp_path: Path) -> None:
    async with serving(tmp_path):
        with pytest.raises(NotReachable, match="cannot do it: job j is not parked"):
            await asked(tmp_path, "POST", "/v1/refuse?status=503")


def test_a_daemon_that_hangs_does_not_answer(tmp_path: Path) -> None:
    with socket_address(tmp_path) as address, socket.socket(socket.AF_UNIX) as hung:
        hung.bind(address)
        hung.listen()

        with pytest.raises(
            NotReachable, match="cannot do it: the daemon doesn't answer"
        ):
            ask(tmp_path, "GET", "/", cannot="do it", timeout_s=0.1)


# httpcore leaves its socket open; see `_knock` of the client.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_full_queue_of_connections_is_no_answer_either(tmp_path: Path) -> None:
    with (
        socket_address(tmp_path) as address,
        socket.socket(socket.AF_UNIX) as hung,
        socket.socket(socket.AF_UNIX) as first,
    ):
        hung.bind(address)
        hung.listen(0)
        first.connect(address)

        with pytest.raises(
            NotReachable, match="cannot do it: the daemon doesn't answer"
        ):
            ask(tmp_path, "GET", "/", cannot="do it", timeout_s=0.1)


def test_what_is_not_the_daemon_is_told_in_words(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(flush=True)\n"
        "c, _ = s.accept(); c.recv(9999)\n"
        "c.sendall(b'HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n<>')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, SOCKET], cwd=tmp_path, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()

        with pytest.raises(NotReachable, match="doesn't speak JSON"):
            ask(tmp_path, "GET", "/", cannot="do it")

"""The daemon's own way to an endpoint says of every answer what httpx's says, and keeps connections as long."""

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Final

import anyio
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as with_settings
from hypothesis import strategies as st

from support.certificates import Authority, server_context
from support.endpoint import endpoint
from support.outward import BODY, PULL, settings_for
from support.proxy import proxy
from support.servers import tcp_server
from support.torture import few
from support.two_ways import MOST_BYTES, Answer, Server, caller, outcome

HOST: Final = "127.0.0.1"

GOOD: Final = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 29 Nov 2026 14:00:00 GMT\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
)
UNTIL_THE_END: Final = b"HTTP/1.0 503 Later\r\nRetry-After: 3\r\n\r\n{}"
PLAIN: Final = Answer((GOOD[0],), "keep")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def judged(
    answers: Sequence[Answer], authority: Authority | None = None, path: str = ""
) -> tuple[object, object]:
    """Return what each way makes of the answers: the outcomes, the requests, and the number of connections."""
    return (
        await _judged(answers, authority, path, own=True),
        await _judged(answers, authority, path, own=False),
    )


async def _judged(
    answers: Sequence[Answer], authority: Authority | None, path: str, *, own: bool
) -> object:
    tls = None if authority is None else server_context(authority.issue(HOST))
    server = Server(answers, tls)
    outcomes = []
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(tcp_server(server.connection))
        scheme = "http" if tls is None else "https"
        ca_file = None if authority is None else authority.file
        endpoint = settings_for(f"{scheme}://{HOST}:{port}{path}", ca_file)
        asking = await stack.enter_async_context(caller(endpoint, own=own))
        for _ in answers:
            outcomes.append(await outcome(asking, port))
            await server.settled()
        requests = [
            tuple(part.replace(str(port).encode(), b"PORT") for part in each)
            for each in server.requests
        ]
    return outcomes, requests, server.connections


@pytest.mark.parametrize("path", ["/", "/below", "/a b/ä%20/"])
async def test_an_endpoint_below_a_path(path: str) -> None:
    own, by_httpx = await judged([PLAIN, PLAIN], path=path)

    assert own == by_httpx


async def test_a_forward_proxy_gets_the_whole_address() -> None:
    host = "endpoint.test"
    async with endpoint() as server, proxy() as way:
        settings = settings_for(
            f"http://{host}:{server.port}", allow_insecure_host=host, proxy=way.url
        )
        async with caller(settings, own=True) as asking:
            reply = await asking.post("pull", PULL, dict(BODY), deadline_s=60)

    assert reply.status == 204
    assert [each.target for each in way.requests] == [
        f"http://{host}:{server.port}{PULL}"
    ]


def cuts(answer: bytes, end: str, step: int) -> Iterator[Answer]:
    """Yield an answer that ends at each of its bytes."""
    for length in range(0, len(answer) + 1, step):
        yield Answer((answer[:length],), end)


@pytest.mark.parametrize("whole", few([UNTIL_THE_END, *GOOD], 2))
@pytest.mark.parametrize(("end", "step"), [("close", 1), ("reset", 4)])
async def test_an_answer_that_is_cut_at_any_byte(
    whole: bytes, end: str, step: int
) -> None:
    own, by_httpx = await judged([*cuts(whole, end, step), PLAIN])

    assert own == by_httpx


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_an_answer_over_tls_that_is_cut(authority: Authority, end: str) -> None:
    answers = [each for whole in GOOD for each in cuts(whole, end, 11)]
    own, by_httpx = await judged([PLAIN, *answers, PLAIN, PLAIN], authority)

    assert own == by_httpx


NAMES: Final = (
    *("Date", "Server", "Content-Type", "Content-Encoding", "Connection"),
    *("Content-Length", "Transfer-Encoding", "Retry-After", "Location"),
    *("Dispatch-Call", "Dispatch-Contract", "Keep-Alive", "Upgrade", " Folded", ""),
)
VALUES: Final = (
    *("", "2", "3", "+2", "2, 2", "-1", "9" * 30, "chunked", "gzip, chunked", "gzip"),
    *("close", "keep-alive", "identity", "\t a \t", "ä", "\x00", "a\nb", "1" * 3000),
)
FIRST_LINES: Final = (
    *("HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 204 No", "HTTP/1.1 304 No"),
    *("HTTP/1.1 302 Go", "HTTP/1.1 401 No", "HTTP/1.1 500 Oh", "HTTP/1.1 200"),
    *("HTTP/1.1 101 Go", "HTTP/1.1 102 Wait", "HTTP/1.1 99 x", "HTTP/2 200 OK"),
    *("HTTP/1.1 2000 OK", "http/1.1 200 ok", "SSH-2.0", "", "HTTP/1.1 600 What"),
)
BODIES: Final = (
    *(b"", b"{}", b"{", b"[]", b'{"message": "no"}', b"<html>", b"\xff"),
    *(b"2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\n", b"z\r\n", b"x" * (MOST_BYTES + 1)),
)


@st.composite
def broken(draw: st.DrawFn) -> Answer:
    """An answer that may be broken in any place, in pieces; it ends with the connection."""
    lines = draw(st.lists(st.sampled_from(FIRST_LINES), min_size=1, max_size=2))
    blocks = []
    for line in lines:
        names = draw(st.lists(st.sampled_from(NAMES), max_size=4))
        values = [draw(st.sampled_from(VALUES)) for _ in names]
        headers = [
            f"{name}: {value}" for name, value in zip(names, values, strict=True)
        ]
        blocks.append("\r\n".join([line, *headers]).encode() + b"\r\n\r\n")
    whole = b"".join(blocks) + draw(st.sampled_from(BODIES))
    places = draw(st.lists(st.integers(0, len(whole)), max_size=4).map(sorted))
    edges = [0, *places, len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(edges)]
    return Answer(
        tuple(piece for piece in pieces if piece),
        draw(st.sampled_from(("close", "reset"))),
    )


@st.composite
def whole(draw: st.DrawFn) -> Answer:
    """An answer that is complete, after which the connection may be used again."""
    status = draw(st.sampled_from((200, 204, 302, 404, 503)))
    body = b"" if status == 204 else draw(st.sampled_from(BODIES))
    headers = draw(
        st.sampled_from((b"", b"Connection: close\r\n", b"A: b\r\na: c\r\n"))
    )
    length = b"Content-Length: %d\r\n" % len(body) if status != 204 else b""
    early = draw(st.sampled_from((b"", b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n")))
    line = b"HTTP/1.1 %d What\r\n" % status
    end = draw(st.sampled_from(("keep", "keep", "close")))
    return Answer((early + line + headers + length + b"\r\n" + body,), end)


@given(st.lists(broken() | whole(), min_size=1, max_size=8))
@with_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
def test_any_answers_one_after_the_other(answers: list[Answer]) -> None:
    own, by_httpx = anyio.run(judged, answers)

    assert own == by_httpx

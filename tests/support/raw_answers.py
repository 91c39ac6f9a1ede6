"""A server that answers each request with given bytes, whatever they say."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio.abc import SocketStream
from attrs import define

from support.servers import tcp_server

_VALUES = (
    *("Mon, 01 Jan 99999999999 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"),
    *("Sat, 28 Nov 2026 12:00:00 -99999999999", "Mon, 01 Jan 0001 00:00:00 +2359"),
    *("", "0", "-1", "1e400", "9" * 400, "\xb2", "NaN", "x" * 4000, "\xff\xfe\x80"),
    *('<http://[::1>; rel="next"', "<>; rel=next", "<" * 500 + ">; rel=next"),
    *('<https://x/y?cursor=%ff&page=\x0b>; rel="next"', "http://[::1", "//", "http://"),
    *("http://\u2603:99999999/", "/\\..//..", "application/json; charset=\x01"),
    *("text/html; charset=nothing", "wait=", "wait=1e999", ",,,=;;", "wait=-5"),
)
_NAMES = (
    *("Date", "Retry-After", "Link", "Location", "Content-Type"),
    *("X-RateLimit-Reset", "X-RateLimit-Remaining", "Preference-Applied"),
    *("Content-Encoding", "Content-Length", "Transfer-Encoding", "Set-Cookie"),
    *("Connection", "Content-Range"),
)
_STATUSES = (
    *(200, 200, 200, 201, 204, 206, 299, 301, 302, 307, 400, 401, 403, 403, 404),
    *(409, 410, 418, 429, 429, 451, 500, 502, 503, 599, 600, 999),
)
_BODIES = (
    *(b"", b"{}", b"[]", b"null", b'{"message": 7}', b"<html>", b"[" * 5000, b"\xff"),
    *(b'{"message": "API rate limit exceeded"}', b'{"id": 1e400}', b'"\\ud800"'),
    b'[{"id": 1, "guid": "g", "delivered_at": "99999-01-01T00:00:00Z"}]',
)


def generated(seed: int) -> Callable[[], bytes]:
    """Return what makes answers up."""
    rng = random.Random(seed)

    def answer() -> bytes:
        body = rng.choice(_BODIES)
        lines = [f"HTTP/1.1 {rng.choice(_STATUSES)} It"]
        if rng.random() < 0.9:
            lines.append(f"Content-Length: {len(body)}")
        lines += [
            f"{rng.choice(_NAMES[:8] if rng.random() < 0.8 else _NAMES)}: {rng.choice(_VALUES)}"
            for _ in range(rng.randrange(6))
        ]
        head = "\r\n".join([*lines, "Connection: close", "", ""])
        return head.encode("utf-8") + body

    return answer


@define
class RawAnswers:
    """A server: where it is, and how many requests it has answered."""

    answer: Callable[[], bytes]
    url: str = ""
    count: int = 0

    async def serve(self, stream: SocketStream) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive()
        self.count += 1
        await stream.send(self.answer())


@asynccontextmanager
async def raw_answers(answer: Callable[[], bytes]) -> AsyncIterator[RawAnswers]:
    """Serve for the length of a block."""
    server = RawAnswers(answer)
    async with tcp_server(server.serve) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server

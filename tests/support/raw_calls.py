"""Requests to a hub byte by byte, as no client sends them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteReceiveStream, SocketStream

from support.hub import Hub


@asynccontextmanager
async def connection(server: Hub) -> AsyncIterator[SocketStream]:
    """Connect to a hub for the length of a block."""
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        yield stream


def head(path: str, *more: str, method: str = "POST") -> bytes:
    """Return the head of a request with some more lines."""
    lines = [f"{method} {path} HTTP/1.1", "Host: hub", *more]
    return "\r\n".join((*lines, "", "")).encode()


async def status_of(stream: SocketStream) -> int:
    """Return the status of the answer that comes next, whose head comes in one piece."""
    line, _, _ = (await stream.receive()).partition(b"\r\n")
    return int(line.split()[1])


async def message_of(stream: ByteReceiveStream) -> str:
    """Return the message of a refusal that comes next and ends its connection."""
    data = b""
    while True:
        try:
            data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            break
        _, _, body = data.partition(b"\r\n\r\n")
        if body.endswith(b"}"):
            break
    message: str = json.loads(data.partition(b"\r\n\r\n")[2])["message"]
    return message

"""One connection of the control socket: its HTTP/1.1 (RFC 9112), one request and its answer."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

import anyio
import h11
from anyio.abc import SocketStream
from attrs import define, field

from dispatchd.agent.control.calls import Limits, Lines, Refused, Reply, Text
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import duration

_PIECE: Final = 4 * 1024
"""Size of one read, and so the size by which a head can exceed its limit (bytes)."""

_GONE: Final = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)


@define(kw_only=True)
class HttpConnection:
    """One connection's HTTP (RFC 9112)."""

    stream: SocketStream
    limits: Limits
    _http: h11.Connection = field(init=False)
    _method: bytes = field(default=b"", init=False)

    def __attrs_post_init__(self) -> None:
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self.limits.head_bytes
        )

    async def read(self) -> tuple[h11.Request, bytes] | None:
        """Return the request and its body, or None if the client went before it was complete.

        Raises:
            Refused: It isn't HTTP, or is too large, or too slow.
        """
        try:
            with anyio.fail_after(self.limits.request_s):
                return await self._read()
        except TimeoutError as error:
            reason = (
                f"the request was not complete within {duration(self.limits.request_s)}"
            )
            raise Refused(status=HTTPStatus.REQUEST_TIMEOUT, reason=reason) from error
        except h11.RemoteProtocolError as error:
            raise Refused(status=error.error_status_hint, reason=str(error)) from error
        except _GONE:
            return None

    async def _read(self) -> tuple[h11.Request, bytes]:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self.stream.receive(_PIECE))
            elif isinstance(event, h11.Request):
                head = event
                self._method = head.method
                # Before the body arrives: a client that announces too much need not send it.
                self._check_size(int(dict(head.headers).get(b"content-length", 0)))
            elif isinstance(event, h11.Data):
                body += event.data
                self._check_size(len(body))
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return head, bytes(body)

    def _check_size(self, size: int) -> None:
        if size > self.limits.body_bytes:
            reason = f"the body is larger than {self.limits.body_bytes} bytes"
            raise Refused(status=413, reason=reason)

    async def answer(self, answer: Reply | Text | Lines) -> None:
        """Send the result of an act. A client that has gone, or doesn't read, is ignored."""
        match answer:
            case Reply(status=status, body=body):
                await self.send(status, body)
            case Text(body=text, media_type=media_type):
                await self._send_content(HTTPStatus.OK, text.encode(), media_type)
            case Lines(items=items):
                await self._send_lines(items)

    async def refuse(self, refused: Refused) -> None:
        """Send the reason why a call isn't carried out. An answer that has begun is cut instead."""
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body: Json = {"message": refused.reason}
        await self.send(refused.status, body, allow=refused.allow)

    async def send(self, status: int, body: Json, *, allow: Sequence[str] = ()) -> None:
        """Send one document, as `answer` does."""
        content = json.dumps(body).encode() + b"\n"
        await self._send_content(status, content, "application/json", allow=allow)

    async def _send_content(
        self,
        status: int,
        content: bytes,
        media_type: str,
        *,
        allow: Sequence[str] = (),
    ) -> None:
        headers = [
            ("content-type", media_type),
            ("content-length", str(len(content))),
            ("connection", "close"),
            *([("allow", ", ".join(allow))] if allow else []),
        ]
        start = h11.Response(
            status_code=status, headers=headers, reason=HTTPStatus(status).phrase
        )
        # The reply to HEAD has no body (RFC 9110, section 9.3.2).
        data = [] if self._method == b"HEAD" else [h11.Data(data=content)]
        await self._write(start, *data, h11.EndOfMessage())

    async def _send_lines(self, items: AsyncGenerator[Json, None]) -> None:
        """Send documents as they come, until the last one is sent or the client goes."""
        async with aclosing(items), anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, tasks.cancel_scope, name="control watch")
            await self._write_lines(items)
            tasks.cancel_scope.cancel()

    async def _watch(self, sending: anyio.CancelScope) -> None:
        try:
            while True:
                await self.stream.receive(_PIECE)
        except _GONE:
            sending.cancel()

    async def _write_lines(self, items: AsyncGenerator[Json, None]) -> None:
        headers = [("content-type", "application/x-ndjson"), ("connection", "close")]
        there = await self._write(
            h11.Response(status_code=200, headers=headers, reason="OK")
        )
        if not there:
            return
        async for item in items:
            if not await self._write(h11.Data(data=json.dumps(item).encode() + b"\n")):
                return
        await self._write(h11.EndOfMessage())

    async def _write(self, *events: h11.Event) -> bool:
        """Send events. Return whether the client took them."""
        content = b"".join(self._http.send(event) or b"" for event in events)
        try:
            with anyio.fail_after(self.limits.reply_s):
                await self.stream.send(content)
        except (TimeoutError, *_GONE):
            return False
        return True

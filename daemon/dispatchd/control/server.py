"""The control socket: JSON over HTTP/1.1 on a Unix socket, one request for each connection.

Two guards stand before every call. The first is the socket's mode, 0660: connect(2) needs write access to
the file. The second asks the kernel who connected, because a mode is easily changed by hand.

A fault of one client ends its connection only. A bug in an act isn't caught here: it ends the daemon, like
any other outside of the bug fence.
"""

import json
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

import anyio
import h11
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import (
    SocketAttribute,
    SocketListener,
    SocketStream,
    TaskGroup,
    TaskStatus,
)
from attrs import define, field

from dispatchd.control.calls import (
    SOCKET,
    Act,
    Call,
    Limits,
    Lines,
    Peer,
    Refused,
    Reply,
    parameters_of,
    peer_of,
    socket_address,
    target_parts,
)
from dispatchd.domain import raw_json
from dispatchd.domain.job import Json
from dispatchd.errors import ContractViolation, FolderUnusable

_MODE: Final = 0o660
_PIECE: Final = 4 * 1024
"""How much is read at a time, and so by how much a head can pass its limit (bytes)."""

_PAUSE_S: Final = 1.0
"""How long to wait when no connection can be accepted, as with every descriptor in use (seconds)."""

_GONE: Final = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)


@define(kw_only=True)
class ControlServer:
    """Serves `routes` to those who may steer this daemon: root, its own user, and the socket's group."""

    folder: Path
    routes: Mapping[tuple[str, str], Act]
    """By method and path, as in `("POST", "/v1/jobs/{job}/block")`; the first that fits counts."""
    limits: Limits = field(factory=Limits)
    _group: int = field(default=-1, init=False)
    _open: int = field(default=0, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then remove the socket.

        Raises:
            FolderUnusable: The socket can't be made.
        """
        try:
            with socket_address(self.folder) as address:
                # Replaces the socket of a daemon that was killed; the folder's lock says that there is no
                # other. It sets the mode between bind(2) and listen(2), when nobody can connect yet, so
                # there is no need for a umask, which other threads would feel.
                listener = await anyio.create_unix_listener(address, mode=_MODE)
                self._group = _group_of(address)
        except OSError as error:
            raise FolderUnusable(folder=self.folder, error=error) from error
        try:
            async with listener, anyio.create_task_group() as tasks:
                task_status.started()
                await self._accept(listener, tasks)
        finally:
            # Where it can't be removed, the next start replaces it.
            with suppress(OSError):
                (self.folder / SOCKET).unlink()

    async def _accept(self, listener: SocketListener, tasks: TaskGroup) -> None:
        while True:
            try:
                stream = await listener.accept()
            except anyio.BrokenResourceError as error:
                self._log.warning("control_not_accepting", error=str(error.__cause__))
                await anyio.sleep(_PAUSE_S)
                continue
            tasks.start_soon(self._connection, stream, name="control connection")

    async def _connection(self, stream: SocketStream) -> None:
        self._open += 1
        try:
            async with stream:
                await self._converse(_Talk(stream=stream, limits=self.limits))
        finally:
            self._open -= 1

    async def _converse(self, talk: "_Talk") -> None:
        try:
            peer = self._admit(talk)
            request = await talk.read()
            if request is None:
                return
            answer = await self._answer(*request, peer)
        except Refused as refused:
            await talk.send(
                refused.status, {"message": refused.reason}, allow=refused.allow
            )
            return
        if isinstance(answer, Reply):
            await talk.send(answer.status, answer.body)
        else:
            await talk.send_lines(answer.items)

    def _admit(self, talk: "_Talk") -> Peer:
        if self._open > self.limits.connections:
            reason = f"{self.limits.connections} connections are open already; repeat this later"
            raise Refused(status=HTTPStatus.SERVICE_UNAVAILABLE, reason=reason)
        peer = peer_of(talk.stream.extra(SocketAttribute.raw_socket))  # noqa: S610  # not Django's
        if peer.uid in {0, os.geteuid()} or self._group in peer.groups:
            return peer
        self._log.warning("control_refused", pid=peer.pid, uid=peer.uid, gid=peer.gid)
        reason = (
            f"user {peer.uid} is not in the group {self._group} of the control socket"
        )
        raise Refused(status=HTTPStatus.FORBIDDEN, reason=reason)

    async def _answer(
        self, head: h11.Request, content: bytes, peer: Peer
    ) -> Reply | Lines:
        method = head.method.decode()
        path, query = target_parts(head.target.decode())
        act, parameters = self._route(method, path)
        call = Call(
            method=method,
            path=path,
            parameters=parameters,
            query=query,
            body=_document(content),
            peer=peer,
        )
        return await act(call)

    def _route(self, method: str, path: tuple[str, ...]) -> tuple[Act, dict[str, str]]:
        allowed: list[str] = []
        for (each, pattern), act in self.routes.items():
            parameters = parameters_of(pattern, path)
            if parameters is not None and each == method:
                return act, parameters
            if parameters is not None:
                allowed.append(each)
        shown = "/" + "/".join(path)
        if allowed:
            reason = f"{shown} takes {' and '.join(allowed)}, not {method}"
            raise Refused(status=405, reason=reason, allow=allowed)
        raise Refused(status=404, reason=f"there is no {shown}")


@define(kw_only=True)
class _Talk:
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
            Refused: It isn't HTTP, or too large, or too slow.
        """
        try:
            with anyio.fail_after(self.limits.request_s):
                return await self._read()
        except TimeoutError as error:
            reason = f"the request was not complete within {self.limits.request_s:g} s"
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
                # Before the body comes: who announces too much need not send it.
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

    async def send(self, status: int, body: Json, *, allow: Sequence[str] = ()) -> None:
        """Send one document; a client that has gone, or doesn't take it, is no matter."""
        content = json.dumps(body).encode() + b"\n"
        headers = [
            ("content-type", "application/json"),
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

    async def send_lines(self, items: AsyncGenerator[Json, None]) -> None:
        """Send documents as they come, until there are no more or the client goes."""
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
        """Send, and return whether the client took it."""
        content = b"".join(self._http.send(event) or b"" for event in events)
        try:
            with anyio.fail_after(self.limits.reply_s):
                await self.stream.send(content)
        except (TimeoutError, *_GONE):
            return False
        return True


def _group_of(address: str) -> int:
    return Path(address).stat().st_gid


def _document(content: bytes) -> Json:
    if not content:
        return None
    try:
        return raw_json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise Refused(status=400, reason=f"the body must be UTF-8 ({error})") from error
    except ContractViolation as violation:
        raise Refused(status=400, reason=f"the body {violation.rule}") from violation

"""The control socket: JSON over HTTP/1.1 on a Unix socket, one request for each connection.

Two guards stand before every call. The first is the socket's mode, 0660: connect(2) needs write access to
the file. The second asks the kernel who connected, because a mode is easily changed by hand.

A fault of one client ends its connection only. A bug in an act isn't caught here: it ends the daemon, like
any other outside of the bug fence.
"""

import os
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

import anyio
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
    Limits,
    Peer,
    Refused,
    peer_of,
    socket_address,
)
from dispatchd.control.routes import Routes, carry_out
from dispatchd.control.talk import Talk
from dispatchd.errors import FolderUnusable

_MODE: Final = 0o660

_PAUSE_S: Final = 1.0
"""How long to wait when no connection can be accepted, as with every descriptor in use (seconds)."""


@define(kw_only=True)
class ControlServer:
    """Serves `routes` to those who may steer this daemon: root, its own user, and the socket's group."""

    folder: Path
    routes: Routes
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
                await self._converse(Talk(stream=stream, limits=self.limits))
        finally:
            self._open -= 1

    async def _converse(self, talk: Talk) -> None:
        try:
            peer = self._admit(talk)
            request = await talk.read()
            if request is None:
                return
            answer = await carry_out(self.routes, *request, peer)
        except Refused as refused:
            await talk.refuse(refused)
        else:
            await talk.answer(answer)

    def _admit(self, talk: Talk) -> Peer:
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


def _group_of(address: str) -> int:
    return Path(address).stat().st_gid

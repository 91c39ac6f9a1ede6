"""The control socket: JSON over HTTP/1.1 on a Unix socket, one request for each connection.

Three guards stand before every call. The first is the socket's mode, 0660: connect(2) needs write access to
the file. The second asks the kernel for the peer's credentials, because a mode is easily changed by hand. The third
asks for a token, because a run has the daemon's own uid (`token.py`).
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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

from dispatchd.agent.control.calls import (
    SOCKET,
    Limits,
    Refused,
    control_group,
    peer_of,
    socket_address,
)
from dispatchd.agent.control.connections import Connections, Visitor
from dispatchd.agent.control.routes import Routes
from dispatchd.agent.control.token import TOKEN_FILE, make, read, write
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import FolderUnusable, PathTaken
from dispatchd.linux.untrusted_files import is_at, what_is_at

_MODE: Final = 0o660

_LOOK_S: Final = 15.0
"""Time between two looks at the socket and the token (seconds): nothing announces new space on a disk."""


@define(kw_only=True)
class ControlServer:
    """Serves `routes` to the users who may control this daemon: root, its own user, and the socket's group.

    `owner` tells the daemon's state folder from others (`calls.owner_of`); empty in a test of the server alone.
    """

    folder: Path
    routes: Routes
    bugs: BugFence
    owner: str = ""
    limits: Limits = field(factory=Limits)
    look_s: float = _LOOK_S
    """Time after which a missing socket or token is made again (seconds)."""
    _group: int = field(default=-1, init=False)
    _made: os.stat_result = field(init=False)
    """Status of the socket's file as it was made."""
    _accepting: anyio.CancelScope | None = field(default=None, init=False)
    _problem: str = field(default="", init=False)
    """Error with which the socket couldn't be made again."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then remove the socket. Make it again if somebody removes it.

        Raises:
            PathTaken: Something else is in its place.
            FolderUnusable: The socket can't be made.
        """
        try:
            listener = await self._listen()
        except OSError as error:
            path = self.folder / SOCKET
            if occupant := what_is_at(path, error):
                do = "move it away, or set another control.folder"
                raise PathTaken(path=path, kind=occupant, error=error, do=do) from error
            raise FolderUnusable(folder=self.folder, error=error) from error
        token = make()
        connections = Connections(
            server="control",
            routes=self.routes,
            limits=self.limits,
            bugs=self.bugs,
            identify=self._identify,
            owner=self.owner,
            token=token,
        )
        try:
            async with anyio.create_task_group() as tasks:
                self._write(token)
                task_status.started()

                def serve(new: SocketListener) -> None:
                    tasks.start_soon(self._accept, connections, tasks, new)

                serve(listener)
                look = partial(self._look, serve, token)
                await self.bugs.rounds("control socket", look)
        finally:
            # If it can't be removed, the next start replaces it. Another daemon's is left alone.
            if is_at(self.folder / SOCKET, self._made):
                with suppress(OSError):
                    (self.folder / SOCKET).unlink()
                    (self.folder / TOKEN_FILE).unlink()

    async def _listen(self) -> SocketListener:
        with socket_address(self.folder) as address:
            # Replaces the socket of a daemon that was killed: its folder has been claimed. It sets the mode
            # between bind(2) and listen(2), when no peer can connect yet. A umask would affect other threads.
            listener = await anyio.create_unix_listener(address, mode=_MODE)
            self._made = _status_of(address)
            self._group = self._made.st_gid
        return listener

    async def _accept(
        self, connections: Connections, tasks: TaskGroup, listener: SocketListener
    ) -> None:
        """Accept connections of a listener until another one takes its place."""
        with anyio.CancelScope() as scope:
            if self._accepting is not None:
                self._accepting.cancel()
            self._accepting = scope
            async with listener:
                await connections.take(listener, tasks)

    async def _look(self, serve: Callable[[SocketListener], None], token: str) -> None:
        """Make the socket or the token again if its file has gone."""
        self.bugs.worked("control socket")
        await anyio.sleep(self.look_s)
        if not is_at(self.folder / SOCKET, self._made):
            try:
                serve(await self._listen())
            except OSError as error:
                if self._problem != str(error):
                    self._log.warning("control_socket_not_made", error=str(error))
                self._problem = str(error)
                return
            self._problem = ""
            self._log.warning("control_socket_made_again", folder=str(self.folder))
        if read(self.folder) != token:
            self._write(token)

    def _write(self, token: str) -> None:
        try:
            write(self.folder, token, self._group)
        except OSError as error:
            self._log.warning(
                "control_token_not_written",
                error=error.strerror,
                retry_in_s=self.look_s,
            )

    def _identify(self, stream: SocketStream) -> Visitor:
        peer = peer_of(stream.extra(SocketAttribute.raw_socket))  # noqa: S610  # not Django's
        if peer.uid in {0, os.geteuid()} or self._group in peer.groups:
            return Visitor(key=(peer.uid, control_group(peer.pid)), peer=peer)
        self._log.warning("control_refused", pid=peer.pid, uid=peer.uid, gid=peer.gid)
        reason = (
            f"user {peer.uid} is not in the group {self._group} of the control socket"
        )
        raise Refused(status=HTTPStatus.FORBIDDEN, reason=reason)


def _status_of(address: str) -> os.stat_result:
    return Path(address).stat()

"""The control socket: JSON over HTTP/1.1 on a Unix socket, one request for each connection.

Three guards stand before every call. The first is the socket's mode, 0660: connect(2) needs write access to
the file. The second asks the kernel for the peer's credentials, because a mode is easily changed by hand. The third
asks for a token, because a run has the daemon's own uid (`token.py`).
"""

import os
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
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
from dispatchd.agent.control.token import TOKEN_FILE, make, write
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import FolderUnusable, PathTaken
from dispatchd.linux.untrusted_files import what_is_at

_MODE: Final = 0o660

_AGAIN_S: Final = 5.0
"""Wait before the token is written again (seconds): nothing announces new space on a disk."""


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
    _group: int = field(default=-1, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then remove the socket.

        Raises:
            PathTaken: Something else is in its place.
            FolderUnusable: The socket can't be made.
        """
        try:
            with socket_address(self.folder) as address:
                # Replaces the socket of a daemon that was killed: its folder has been claimed. It sets the mode
                # between bind(2) and listen(2), when no peer can connect yet. A umask would affect other threads.
                listener = await anyio.create_unix_listener(address, mode=_MODE)
                made = _look_at(address)
                self._group = made.st_gid
        except OSError as error:
            path = self.folder / SOCKET
            if occupant := what_is_at(path):
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
            async with listener, anyio.create_task_group() as tasks:
                if not self._write(token):
                    tasks.start_soon(self._write_later, token, name="control token")
                task_status.started()
                await connections.take(listener)
        finally:
            # If it can't be removed, the next start replaces it. Another daemon's is left alone.
            with suppress(OSError):
                if os.path.samestat(made, _look_at(str(self.folder / SOCKET))):
                    (self.folder / SOCKET).unlink()
                    (self.folder / TOKEN_FILE).unlink()

    def _write(self, token: str) -> bool:
        try:
            write(self.folder, token, self._group)
        except OSError as error:
            self._log.warning(
                "control_token_not_written",
                error=error.strerror,
                retry_in_s=_AGAIN_S,
            )
            return False
        return True

    async def _write_later(self, token: str) -> None:
        """Repeat the write: a full disk prevents neither the daemon's start nor, later, its control."""
        while True:
            await anyio.sleep(_AGAIN_S)
            if self._write(token):
                return

    def _identify(self, stream: SocketStream) -> Visitor:
        peer = peer_of(stream.extra(SocketAttribute.raw_socket))  # noqa: S610  # not Django's
        if peer.uid in {0, os.geteuid()} or self._group in peer.groups:
            return Visitor(key=(peer.uid, control_group(peer.pid)), peer=peer)
        self._log.warning("control_refused", pid=peer.pid, uid=peer.uid, gid=peer.gid)
        reason = (
            f"user {peer.uid} is not in the group {self._group} of the control socket"
        )
        raise Refused(status=HTTPStatus.FORBIDDEN, reason=reason)


def _look_at(address: str) -> os.stat_result:
    return Path(address).stat()

"""Connections of the control socket and the metrics: their limits, and their end.

No peer can use up the descriptors that the loops need, keep all others out, or end the daemon. There is a limit
for all peers and for each one, a pause where no connection can be accepted, and a bug in an act ends its call alone.
"""

import socket
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Final

import anyio
import h11
import structlog
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup
from attrs import define, field, frozen

from dispatchd.agent.control.calls import OWNER_HEADER, Limits, Peer, Refused
from dispatchd.agent.control.http_connection import HttpConnection
from dispatchd.agent.control.routes import Routes, carry_out
from dispatchd.agent.control.token import TOKEN_FILE, TOKEN_HEADER, is_same
from dispatchd.concurrency.bug_fence import BugFence

_PAUSE_S: Final = 1.0
"""Pause after a failed accept(2), such as with no descriptor left (seconds)."""

_BUG: Final = "this call met a bug in dispatchd; its log has the details"


@frozen(kw_only=True)
class Visitor:
    """Peer of a connection: `key` tells peers apart, `peer` has the kernel's credentials (None: not read)."""

    key: Hashable
    peer: Peer | None = None

    @property
    def is_root(self) -> bool:
        """True for a peer for which some connections are reserved."""
        return self.peer is not None and self.peer.uid == 0


@define(kw_only=True)
class Connections:
    """Accepts connections of one server, one request each.

    `server` is its name in the log. `identify` returns the peer, or raises Refused for one without permission.
    `owner` is the state folder that it answers for, in the form of `OWNER_HEADER`; empty if it isn't checked.
    `token` is the token that a caller has to send; empty if none is required.
    """

    server: str
    routes: Routes
    limits: Limits
    bugs: BugFence
    identify: Callable[[SocketStream], Visitor]
    owner: str = ""
    token: str = ""
    _open: Counter[Hashable] = field(factory=Counter, init=False)
    _unproven: dict[SocketStream, Hashable] = field(factory=dict, init=False)
    """Connections that have not shown a request that may be carried out, oldest first, with the keys of their peers."""
    _proven: set[SocketStream] = field(factory=set, init=False)
    _accepting: bool = field(default=True, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def take(self, listener: SocketListener, tasks: TaskGroup) -> None:
        """Accept connections until cancelled; they are served in `tasks`."""
        await self.bugs.rounds(self.server, partial(self._take_one, listener, tasks))

    async def _take_one(self, listener: SocketListener, tasks: TaskGroup) -> None:
        self.bugs.worked(self.server)
        try:
            stream = await listener.accept()
        except (OSError, anyio.BrokenResourceError) as error:
            if self._accepting:
                self._log.warning(
                    "not_accepting",
                    server=self.server,
                    error=str(error.__cause__ or error),
                )
            self._accepting = False
            await anyio.sleep(_PAUSE_S)
        else:
            self._accepting = True
            tasks.start_soon(self._serve, stream, name=f"{self.server} connection")

    async def _serve(self, stream: SocketStream) -> None:
        http = HttpConnection(stream=stream, limits=self.limits)
        with self.bugs.contained(self.server):
            async with stream:
                try:
                    visitor = self.identify(stream)
                    with self._counted(visitor, stream):
                        await self._converse(http, visitor)
                except Refused as refused:
                    await http.refuse(refused)

    async def _converse(self, http: HttpConnection, visitor: Visitor) -> None:
        request = await http.read()
        if request is None:
            return
        head, _ = request
        call = f"{head.method.decode()} {head.target.decode()}"
        refused: Refused | None = None
        with self.bugs.contained(self.server, {"call": call}) as containment:
            try:
                self._check_token(head)
                if self._unproven.pop(http.stream, None) is None:
                    # It has had to give way in this moment.
                    return
                self._proven.add(http.stream)
                self._check_owner(head)
                await http.answer(await carry_out(self.routes, *request, visitor.peer))
            except Refused as refusal:
                refused = refusal
        if containment.bug:
            refused = Refused(status=HTTPStatus.INTERNAL_SERVER_ERROR, reason=_BUG)
        if refused is not None:
            raise refused

    def _check_token(self, head: h11.Request) -> None:
        """Refuse a caller that can't read the token's file, such as a run.

        Raises:
            Refused: The token is missing or wrong.
        """
        given = dict(head.headers).get(TOKEN_HEADER.encode())
        if self.token and not is_same(given, self.token):
            reason = f"the header {TOKEN_HEADER} must have what is in {TOKEN_FILE}, beside the socket"
            raise Refused(status=HTTPStatus.FORBIDDEN, reason=reason)

    def _check_owner(self, head: h11.Request) -> None:
        """Refuse a call for the daemon of another state folder.

        Raises:
            Refused: The call is for another one.
        """
        owner = dict(head.headers).get(OWNER_HEADER.encode())
        if self.owner and owner is not None and owner.decode() != self.owner:
            reason = "the daemon of another state folder answers here; give each daemon another control.folder"
            raise Refused(status=HTTPStatus.MISDIRECTED_REQUEST, reason=reason)

    @contextmanager
    def _counted(self, visitor: Visitor, stream: SocketStream) -> Iterator[None]:
        """Count a connection while it is open; where there are too many, one gives way that has proven nothing yet.

        Raises:
            Refused: There are too many, and all have.
        """
        limits, key = self.limits, visitor.key
        most = limits.connections + (limits.kept_for_root if visitor.is_root else 0)
        if self._open.total() >= most and not self._give_way():
            reason = f"{most} connections are open already; repeat this later"
            raise Refused(status=HTTPStatus.SERVICE_UNAVAILABLE, reason=reason)
        if self._open[key] >= limits.connections_each and not self._give_way(key):
            reason = f"{limits.connections_each} connections from where this one comes are open already; close some"
            raise Refused(status=HTTPStatus.SERVICE_UNAVAILABLE, reason=reason)
        self._open[key] += 1
        self._unproven[stream] = key
        try:
            yield
        finally:
            was_counted = stream in self._unproven or stream in self._proven
            self._unproven.pop(stream, None)
            self._proven.discard(stream)
            if was_counted:
                self._forget(key)

    def _give_way(self, key: Hashable = None) -> bool:
        """End the oldest connection that has proven nothing, of one peer or (None) of all; False if there is none."""
        for stream, other in self._unproven.items():
            if key is None or other == key:
                del self._unproven[stream]
                self._forget(other)
                # Whoever waits for its request finds it ended.
                with suppress(OSError):
                    stream.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)  # noqa: S610  # not Django's
                return True
        return False

    def _forget(self, key: Hashable) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

"""Control socket: its address, its requests and replies, and its limits."""

import os
import resource
import socket
import struct
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote

from attrs import field, frozen

from dispatchd.errors import DispatchdError
from dispatchd.network.request_target import absolute_target
from dispatchd.protocol.job import Json

SOCKET: Final = "control.sock"
"""Name of the socket in the state folder."""

OWNER_HEADER: Final = "dispatchd-state"
"""Request header with the state folder that the caller means, as device and inode; see `owner_of`."""

_MOST_CONNECTIONS: Final = 32
"""Connections of a server (count), where the limit of descriptors allows it."""

_PEERGROUPS: Final = 59
"""SO_PEERGROUPS of asm-generic/socket.h (Linux 4.13), which Python doesn't name."""

_PEERGROUPS_BYTES: Final = 1024
"""Largest buffer of Python's getsockopt (bytes), which is 256 groups."""


class Refused(DispatchdError):
    """A call that isn't carried out. `status` says which side is at fault, and `reason` goes to the caller.

    Acts use 400 for bad input, 404 for a missing thing, 409 for a call that the present state doesn't allow.
    """

    def __init__(self, *, status: int, reason: str, allow: Sequence[str] = ()) -> None:
        self.status, self.reason, self.allow = status, reason, tuple(allow)
        super().__init__(reason)


@frozen(kw_only=True)
class Peer:
    """Credentials of the peer at the moment of connect(2); the process may have ended since."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    """`gid` and the supplementary groups; only `gid` for a user in more than 256."""


@frozen(kw_only=True)
class Call:
    """One request: `path` has the percent-decoded segments, `parameters` those that the route names."""

    method: str
    path: tuple[str, ...]
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    body: Json
    peer: Peer | None
    """Peer that calls; None where peers aren't identified, as for a scrape over TCP."""


@frozen(kw_only=True)
class Reply:
    """One JSON document, with a status that allows a body."""

    status: int = 200
    body: Json = None


@frozen(kw_only=True)
class Lines:
    """JSON documents, one on each line, until the generator ends or the client goes; then the generator is closed."""

    items: AsyncGenerator[Json, None]


@frozen(kw_only=True)
class Text:
    """A text for other programs, with its media type."""

    body: str
    media_type: str


Act = Callable[[Call], Awaitable[Reply | Text | Lines]]
"""Carries out a call or raises Refused. It is cancelled only when the server stops, not when the client goes."""


def _most_connections() -> int:
    """Return the most connections of a server: a small part of the descriptors, which the loops need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_CONNECTIONS
    return max(1, min(most, soft // 8)) if soft != resource.RLIM_INFINITY else most


@frozen(kw_only=True)
class Limits:
    """Limits for one client, and for all clients of a server."""

    head_bytes: int = 16 * 1024
    body_bytes: int = 1024 * 1024
    request_s: float = 10.0
    """Time for the whole request to arrive (seconds)."""
    reply_s: float = 10.0
    """Time for the client to take the reply, or one line of a stream (seconds)."""
    connections: int = field(factory=_most_connections)
    """Most open connections (count)."""
    kept_for_root: int = 4
    """Further connections for root (count), so that other users can't keep root out."""

    @property
    def connections_each(self) -> int:
        """Most connections of one peer (count), so that some are left for others."""
        return max(1, self.connections * 3 // 4)


@contextmanager
def socket_address(folder: Path) -> Iterator[str]:
    """Yield an address of the folder's socket that is short however long the folder's path is.

    A socket address holds 108 bytes (unix(7)), and a state folder may need more.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def owner_of(folder: Path) -> str:
    """Return the identity of a state folder, the same for each of its paths: device and inode, or 0:0 for none."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return "0:0"
    return f"{status.st_dev}:{status.st_ino}"


def peer_of(connection: socket.socket) -> Peer:
    """Return the peer of a Unix socket."""
    form = "iII"  # struct ucred of unix(7)
    packed = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form)
    )
    pid, uid, gid = struct.unpack(form, packed)
    groups = frozenset({gid, *_supplementary_groups(connection)})
    return Peer(pid=pid, uid=uid, gid=gid, groups=groups)


def control_group(pid: int) -> str:
    """Return the control groups of a process (cgroups(7)), or its pid in words if it has ended."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cgroup").read_bytes())
    except OSError:
        return f"pid {pid}"


def _supplementary_groups(connection: socket.socket) -> tuple[int, ...]:
    # Not from /proc/PID/status, which may be about another process that has the pid now.
    try:
        packed = connection.getsockopt(
            socket.SOL_SOCKET, _PEERGROUPS, _PEERGROUPS_BYTES
        )
    except OSError:
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)


def target_parts(target: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the decoded segments and the decoded query of a request target (RFC 9112, 3.2.1 and 3.2.2).

    Raises:
        Refused: It isn't a path, or isn't valid text.
    """
    absolute = absolute_target(target)
    origin_form = target if absolute is None else absolute.origin_form
    path, _, query = origin_form.partition("?")
    if not path.startswith("/"):
        raise Refused(status=400, reason="the request target must begin with /")
    try:
        # As permissive as `client.in_path`, which takes any id that JSON can carry.
        segments = [
            unquote(segment, errors="surrogatepass") for segment in path[1:].split("/")
        ]
        named = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError as error:
        reason = f"the request target can't be decoded ({error})"
        raise Refused(status=400, reason=reason) from error
    return tuple(segments), dict(named)


def parameters_of(pattern: str, path: tuple[str, ...]) -> dict[str, str] | None:
    """Return the part of a path for each `{name}` of a pattern, or None if it doesn't match."""
    segments = pattern[1:].split("/")
    if len(segments) != len(path):
        return None
    parameters: dict[str, str] = {}
    for name, segment in zip(segments, path, strict=True):
        if name.startswith("{") and segment:
            parameters[name.strip("{}")] = segment
        elif name != segment:
            return None
    return parameters

"""The socket through which people and tools on this machine steer the daemon: its place and its words."""

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

from dispatchd.domain.job import Json
from dispatchd.errors import DispatchdError

SOCKET: Final = "control.sock"
"""The socket's name in the state folder."""

OWNER_HEADER: Final = "dispatchd-state"
"""Request header with the state folder that is meant, as device and inode; see `owner_of`."""

_MOST_CONNECTIONS: Final = 32
"""Connections of a server (count), where the limit of descriptors allows it."""

_PEERGROUPS: Final = 59
"""SO_PEERGROUPS of asm-generic/socket.h (Linux 4.13), which Python doesn't name."""

_PEERGROUPS_BYTES: Final = 1024
"""The most that Python's getsockopt takes, which is 256 groups."""


class Refused(DispatchdError):
    """A call that isn't carried out; `status` says whose fault that is and `reason` goes to the caller.

    Acts use 400 for bad input, 404 for what doesn't exist, 409 for what the present state doesn't allow.
    """

    def __init__(self, *, status: int, reason: str, allow: Sequence[str] = ()) -> None:
        self.status, self.reason, self.allow = status, reason, tuple(allow)
        super().__init__(reason)


@frozen(kw_only=True)
class Peer:
    """Who connected, at the moment of connect(2); the process may have ended since."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    """`gid` and the supplementary groups; only `gid` for who is in more than 256."""


@frozen(kw_only=True)
class Call:
    """One request: `path` has the percent-decoded segments, `parameters` those that the route names."""

    method: str
    path: tuple[str, ...]
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    body: Json
    peer: Peer | None
    """Who asks; None where nobody is asked, as by a scrape over TCP."""


@frozen(kw_only=True)
class Reply:
    """One JSON document, with a status that allows a body."""

    status: int = 200
    body: Json = None


@frozen(kw_only=True)
class Lines:
    """JSON documents, one on each line, until the generator ends or the client goes; then it is closed."""

    items: AsyncGenerator[Json, None]


@frozen(kw_only=True)
class Text:
    """A text for other programs, with its media type."""

    body: str
    media_type: str


Act = Callable[[Call], Awaitable[Reply | Text | Lines]]
"""Carries out a call or raises Refused; is cancelled only when the server stops, not when the client goes."""


def _most_connections() -> int:
    """Return how many connections a server may have: by far not all descriptors, which the loops need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_CONNECTIONS
    return max(1, min(most, soft // 8)) if soft != resource.RLIM_INFINITY else most


@frozen(kw_only=True)
class Limits:
    """Limits for one client, and for all clients of a server."""

    head_bytes: int = 16 * 1024
    body_bytes: int = 1024 * 1024
    request_s: float = 10.0
    """For the whole request to come (seconds)."""
    reply_s: float = 10.0
    """For the client to take the reply, or one line of a stream (seconds)."""
    connections: int = field(factory=_most_connections)
    """Open at a time (count)."""
    kept_for_root: int = 4
    """Connections beyond that for root (count): whoever may connect must not keep it out."""

    @property
    def connections_each(self) -> int:
        """Connections of one peer (count), so that some are left for others."""
        return max(1, self.connections * 3 // 4)


@contextmanager
def socket_address(folder: Path) -> Iterator[str]:
    """Give an address of the folder's socket that is short however long the folder's path is.

    A socket address holds 108 bytes (unix(7)), and a state folder may need more.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def owner_of(folder: Path) -> str:
    """Return what tells a state folder from others, by whatever path: its device and inode, or 0:0 for none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return "0:0"
    return f"{found.st_dev}:{found.st_ino}"


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end of a Unix socket."""
    form = "iII"  # struct ucred of unix(7)
    packed = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form)
    )
    pid, uid, gid = struct.unpack(form, packed)
    groups = frozenset({gid, *_supplementary_groups(connection)})
    return Peer(pid=pid, uid=uid, gid=gid, groups=groups)


def control_group(pid: int) -> str:
    """Return the control groups of a process (cgroups(7)), or its pid in words where it has gone already."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return f"pid {pid}"


def _supplementary_groups(connection: socket.socket) -> tuple[int, ...]:
    # Not from /proc/PID/status, which would speak of the process that has the pid now.
    try:
        packed = connection.getsockopt(
            socket.SOL_SOCKET, _PEERGROUPS, _PEERGROUPS_BYTES
        )
    except OSError:
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)


def target_parts(target: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the decoded segments and the decoded query of a request target (RFC 9112, section 3.2.1).

    Raises:
        Refused: It isn't a path, or doesn't stand for text.
    """
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        raise Refused(status=400, reason="the request target must begin with /")
    try:
        # As lenient as `client.in_path`, which takes any id that JSON can carry.
        segments = [
            unquote(each, errors="surrogatepass") for each in path[1:].split("/")
        ]
        named = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError as error:
        reason = f"the request target can't be decoded ({error})"
        raise Refused(status=400, reason=reason) from error
    return tuple(segments), dict(named)


def parameters_of(pattern: str, path: tuple[str, ...]) -> dict[str, str] | None:
    """Return what a path has in the place of each `{name}` of a pattern, or None if it doesn't fit."""
    wanted = pattern[1:].split("/")
    if len(wanted) != len(path):
        return None
    found: dict[str, str] = {}
    for name, segment in zip(wanted, path, strict=True):
        if name.startswith("{") and segment:
            found[name.strip("{}")] = segment
        elif name != segment:
            return None
    return found

"""Table of the hub's connections: their limits, their stages, and the one that is cut off when there are too many.

A connection is silent while the hub waits for its other end: for a head, a body, another request, or the reading
of an answer. One that has sent a whole request is being answered, and is never cut off for another one.
"""

from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Final

from attrs import define, field

_LEAST_SPEED: Final = 16 * 1024
"""Least speed of a body that is sent, or an answer that is read, after its time limit (bytes per second)."""

_MOST_DROPPED: Final = 64 * 1024 * 1024
"""Most that is read on and dropped of an answered body (bytes): a client that is cut off while sending sees no answer."""


class Stage(StrEnum):
    """Stage of a connection: the thing that it waits for."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    READER = "reader"
    DROPPING = "dropping"
    IDLE = "idle"


_LONGEST_S: Final = {
    Stage.HEAD: 10.0,
    Stage.BODY: 30.0,
    Stage.ANSWER: float("inf"),
    Stage.READER: 30.0,
    Stage.DROPPING: 30.0,
    Stage.IDLE: 80.0,
}
"""Time limits of the stages (seconds). An idle connection is closed earlier by the server's own timer, unless
somebody sends line breaks."""


@define(eq=False)
class Connection:
    """One connection; `end` cuts it off."""

    address: str
    end: Callable[[], None]
    stage: Stage = Stage.HEAD
    since: float = 0.0
    """Start of its stage (seconds)."""
    size: int = 0
    """Bytes that have come in its stage, or are still to be sent (count)."""

    def end_by(self, end: Callable[[], None]) -> None:
        """Set the call that cuts it off."""
        self.end = end

    def grow(self, size: int) -> None:
        """Count bytes that have come in its stage."""
        self.size += size

    def enter(self, stage: Stage, now: float, size: int) -> None:
        """Begin a stage, with the bytes that are still to be sent (count)."""
        self.stage, self.since, self.size = stage, now, size

    @property
    def is_silent(self) -> bool:
        """True if the hub waits for its other end."""
        return self.stage is not Stage.ANSWER

    @property
    def is_unfinished(self) -> bool:
        """True if it is silent before or within a request. Between two requests a fleet or a proxy has many of one address."""
        return self.is_silent and self.stage is not Stage.IDLE

    def is_overdue(self, now: float) -> bool:
        """Return whether it has taken more time, or sent more, than its stage permits."""
        if self.stage is Stage.DROPPING and self.size > _MOST_DROPPED:
            return True
        longest_s = _LONGEST_S[self.stage]
        if self.stage in (Stage.BODY, Stage.READER):
            longest_s = max(longest_s, self.size / _LEAST_SPEED)
        return now - self.since > longest_s


@define
class Connections:
    """Connections of a hub.

    Args:
        most: Most connections in all (count).
        silent_per_address: Most unfinished connections of one address (count); 0 for no limit.
        now: Returns the time (seconds).
    """

    most: int
    silent_per_address: int
    now: Callable[[], float]
    is_closing: bool = field(default=False, init=False)
    """True once the hub stops: a connection that was accepted just before is closed as soon as it is made."""
    _all: set[Connection] = field(factory=set, init=False)
    _idle: dict[Connection, None] = field(factory=dict, init=False)
    """Connections between two requests, oldest first."""
    _unfinished: dict[Connection, None] = field(factory=dict, init=False)
    """Other silent connections, oldest first."""
    _of_address: dict[str, dict[Connection, None]] = field(factory=dict, init=False)
    """Other silent connections by address."""

    def begin_closing(self) -> None:
        """Set `is_closing`."""
        self.is_closing = True

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._all)

    def admit(self, host: str, end: Callable[[], None]) -> Connection | None:
        """Add and return a new connection; return None if there are too many, and none of them is silent.

        Args:
            host: The address of its other end.
            end: Cuts it off; `remove` has to follow.
        """
        if len(self._all) >= self.most and not self.end_oldest():
            return None
        connection = Connection(address_of(host), end, since=self.now())
        self._all.add(connection)
        self._note_silent(connection)
        return connection

    def move(self, connection: Connection, stage: Stage, size: int = 0) -> None:
        """Set the stage of a connection, and the bytes that are still to be sent (count)."""
        if connection not in self._all or connection.stage is stage:
            return
        self._forget_silent(connection)
        connection.enter(stage, self.now(), size)
        if connection.is_silent:
            self._note_silent(connection)

    def remove(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._all.discard(connection)
        self._forget_silent(connection)

    def end_oldest(self) -> bool:
        """Cut off the connection that has been silent for longest, of the kind with more connections: idle or unfinished.

        So a flood of one kind doesn't affect the other. Return False if none is silent.
        """
        kinds = sorted((self._idle, self._unfinished), key=len)
        return self._end_first(kinds[1])

    def sweep(self) -> int:
        """Cut off connections that have taken too long; return their number."""
        now = self.now()
        silent = (*self._unfinished, *self._idle)
        overdue = [connection for connection in silent if connection.is_overdue(now)]
        for connection in overdue:
            self._cut_off(connection)
        return len(overdue)

    def _note_silent(self, connection: Connection) -> None:
        if not connection.is_unfinished:
            self._idle[connection] = None
            return
        of_address = self._of_address.get(connection.address, {})
        if 0 < self.silent_per_address <= len(of_address):
            self._end_first(of_address)
        self._of_address.setdefault(connection.address, {})[connection] = None
        self._unfinished[connection] = None

    def _forget_silent(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._unfinished.pop(connection, None)
        of_address = self._of_address.get(connection.address, {})
        of_address.pop(connection, None)
        if not of_address:
            self._of_address.pop(connection.address, None)

    def _end_first(self, connections: dict[Connection, None]) -> bool:
        first = next(iter(connections), None)
        if first is None:
            return False
        self._cut_off(first)
        return True

    def _cut_off(self, connection: Connection) -> None:
        self.remove(connection)
        connection.end()


def address_of(host: str) -> str:
    """Return the key by which an address is counted: for IPv6 its network of 64 bits, which belongs to one site."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))

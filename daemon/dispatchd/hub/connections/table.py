"""The hub's connections: how many there may be, which of them are silent, and which one goes when there are too many.

A connection is silent while the hub waits for its other end: for a head, a body, another request, or for it to read
an answer. Who has sent a whole request is being answered, and never goes for another one.
"""

from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Final

from attrs import define, field

_LEAST_SPEED: Final = 16 * 1024
"""How fast a body has to come, and an answer to be read, that takes longer than its time (bytes per second)."""

_MOST_DROPPED: Final = 64 * 1024 * 1024
"""How much is read on and dropped of a body that has been answered (bytes): who is cut off while sending sees no answer."""


class Stage(StrEnum):
    """What a connection waits for."""

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
    Stage.DROPPING: 5.0,
    Stage.IDLE: 80.0,
}
"""How long a connection may stay in a stage (seconds). An idle one is closed before by the server's own timer, unless
somebody sends line breaks."""


@define(eq=False)
class Connection:
    """One connection; `end` cuts it off."""

    address: str
    end: Callable[[], None]
    stage: Stage = Stage.HEAD
    since: float = 0.0
    """When its stage began (seconds)."""
    size: int = 0
    """How much has come in its stage, or is to go (bytes)."""

    @property
    def is_silent(self) -> bool:
        """Whether the hub waits for its other end."""
        return self.stage is not Stage.ANSWER

    @property
    def is_unfinished(self) -> bool:
        """Whether it is silent before or within a request; between two, a fleet or a proxy has many of one address."""
        return self.is_silent and self.stage is not Stage.IDLE

    def is_overdue(self, now: float) -> bool:
        """Return whether it has taken more time, or sent more, than its stage allows."""
        if self.stage is Stage.DROPPING and self.size > _MOST_DROPPED:
            return True
        longest_s = _LONGEST_S[self.stage]
        if self.stage in (Stage.BODY, Stage.READER):
            longest_s = max(longest_s, self.size / _LEAST_SPEED)
        return now - self.since > longest_s


@define
class Connections:
    """All connections of a hub.

    Args:
        most: How many there may be (count).
        silent_per_address: How many of one address may be unfinished (count); 0 for any number.
        now: Returns the time (seconds).
    """

    most: int
    silent_per_address: int
    now: Callable[[], float]
    _all: set[Connection] = field(factory=set, init=False)
    _idle: dict[Connection, None] = field(factory=dict, init=False)
    """Those between two requests, oldest first."""
    _unfinished: dict[Connection, None] = field(factory=dict, init=False)
    """The other silent ones, oldest first."""
    _of_address: dict[str, dict[Connection, None]] = field(factory=dict, init=False)
    """The same by address."""

    def __len__(self) -> int:
        """Return how many there are (count)."""
        return len(self._all)

    def admit(self, host: str, end: Callable[[], None]) -> Connection | None:
        """Return a new connection; None if there are too many, and none of them is silent.

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
        """Note that a connection waits for something else now, and how much that is (bytes)."""
        if connection not in self._all or connection.stage is stage:
            return
        self._forget_silent(connection)
        connection.stage, connection.since, connection.size = stage, self.now(), size
        if connection.is_silent:
            self._note_silent(connection)

    def remove(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self._all.discard(connection)
        self._forget_silent(connection)

    def end_oldest(self) -> bool:
        """Cut the connection off that has been silent for longest, of the kind of which there are more.

        So a flood of one kind takes none of the other. Returns False if none is silent.
        """
        kinds = sorted((self._idle, self._unfinished), key=len)
        return self._end_first(kinds[1])

    def sweep(self) -> int:
        """Cut those off that have taken too long, and return how many."""
        now = self.now()
        silent = (*self._unfinished, *self._idle)
        overdue = [each for each in silent if each.is_overdue(now)]
        for each in overdue:
            self._cut_off(each)
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
    """Return by what an address is counted: of IPv6 its network of 64 bits, which one site has for itself."""
    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> 64 << 64))

"""The listening socket: a connection that is taken is in the table until its socket is closed.

asyncio takes connections by `socket.accept`, so what it must not see is settled there: too many connections, and a lack of
descriptors, for which it would write a traceback for each place of the backlog and stop listening for a second.
"""

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from typing_extensions import override

from dispatchd.hub.connections.table import Connection, Connections

_NONE_LEFT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What accept(2) says where there is no descriptor or memory left."""


_AT_ONCE: Final = 32
"""How many connections are taken between two turns of the loop (count): those that go for them are closed in between."""


class Accepted(socket.socket):
    """The socket of a connection that is in the table."""

    closing: Callable[[], None]

    @override
    def close(self) -> None:
        self.closing()
        super().close()


class Listening(socket.socket):
    """A listening socket that takes no more connections than the table has room for."""

    connections: Connections
    note: Callable[[str, str], None]
    """Called with the reason and the address for each connection that isn't taken."""
    taken: dict[int, Connection]
    """Those that are open, by their descriptors."""
    _spare: int = -1
    _in_turn: int = 0

    def guard(self, connections: Connections, note: Callable[[str, str], None]) -> None:
        """Put connections into a table from now on."""
        self.connections, self.note, self.taken = connections, note, {}
        self._spare = _spare()

    @override
    def accept(self) -> tuple[socket.socket, Any]:
        self._in_turn += 1
        if self._in_turn > _AT_ONCE:
            self._in_turn = 0
            raise BlockingIOError
        try:
            plain, address = super().accept()
        except BlockingIOError:
            self._in_turn = 0
            raise
        except OSError as error:
            if error.errno not in _NONE_LEFT:
                raise
            self._shed(error)
            raise BlockingIOError from error
        taken = Accepted(fileno=plain.detach())
        if not self._is_admitted(taken, address[0]):
            # The loop comes back for the next one.
            raise BlockingIOError
        return taken, address

    def _is_admitted(self, taken: Accepted, host: str) -> bool:
        def end() -> None:
            # The loop sees it, whether a protocol has the socket by now or not.
            with suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)

        connection, descriptor = self.connections.admit(host, end), taken.fileno()
        if connection is None:
            self.note("too many connections", host)
            taken.closing = _nothing
            taken.close()
            return False
        self.taken[descriptor] = connection

        def closing() -> None:
            self.connections.remove(connection)
            self.taken.pop(descriptor, None)

        taken.closing = closing
        return True

    @override
    def close(self) -> None:
        self._give_up_spare()
        super().close()

    def _give_up_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _shed(self, error: OSError) -> None:
        """Make room for the next connection, and give up the one that there was no descriptor for."""
        self.connections.end_oldest()
        self._give_up_spare()
        address = "", 0
        with suppress(OSError):
            given_up, address = super().accept()
            given_up.close()
        # Another thread may have been faster; then the next one that is closed makes room.
        with suppress(OSError):
            self._spare = _spare()
        self.note(str(error.strerror), address[0])


def _spare() -> int:
    """Return a descriptor that can be given up for one that is needed more."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _nothing() -> None:
    """Do nothing."""

"""Listening socket: an accepted connection is in the table until its socket is closed.

asyncio accepts connections by `socket.accept`, so that method handles the cases that asyncio must not see: too many
connections, and a lack of descriptors. For the latter asyncio would log a traceback for each place of the backlog and
stop listening for a second.
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
"""Errors of accept(2) when no descriptor or memory is left."""


_AT_ONCE: Final = 32
"""Most connections that are accepted between two turns of the event loop (count): those cut off for them are closed in
between."""


class Accepted(socket.socket):
    """Socket of a connection that is in the table."""

    _on_close: Callable[[], None] | None = None

    def when_closed(self, call: Callable[[], None]) -> None:
        """Call back at each close from now on."""
        self._on_close = call

    @override
    def close(self) -> None:
        if self._on_close is not None:
            self._on_close()
        super().close()


class Listening(socket.socket):
    """Listening socket that accepts at most as many connections as the table has room for."""

    connections: Connections
    note: Callable[[str, str], None]
    """Callback with the reason and the address of each refused connection."""
    taken: dict[int, Connection]
    """Open connections, by their descriptors."""
    _spare: int = -1
    _in_turn: int = 0

    def guard(self, connections: Connections, note: Callable[[str, str], None]) -> None:
        """Add accepted connections to a table from now on."""
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
            # The event loop comes back for the next one.
            raise BlockingIOError
        return taken, address

    def _is_admitted(self, taken: Accepted, host: str) -> bool:
        def end() -> None:
            # The event loop sees this, whether a protocol has the socket by now or not.
            with suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)

        connection, descriptor = self.connections.admit(host, end), taken.fileno()
        if connection is None:
            self.note("too many connections", host)
            taken.close()
            return False
        self.taken[descriptor] = connection

        def closing() -> None:
            self.connections.remove(connection)
            self.taken.pop(descriptor, None)

        taken.when_closed(closing)
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
        """Make room for the next connection, and close the one that there was no descriptor for."""
        self.connections.end_oldest()
        self._give_up_spare()
        address = "", 0
        with suppress(OSError):
            given_up, address = super().accept()
            given_up.close()
        # Another thread may have taken the descriptor; the next connection that is closed makes room then.
        with suppress(OSError):
            self._spare = _spare()
        self.note(str(error.strerror), address[0])


def _spare() -> int:
    """Return a spare descriptor, which can be closed to make room for an urgent one."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

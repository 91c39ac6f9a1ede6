"""Writing lines to a pipe, a terminal or a socket whose reader may have stopped reading, without waiting for it.

A pipe without a reader, a terminal after Ctrl-S and a journal that hangs block write(2) for ever, and with it
whoever writes. The descriptor of others isn't changed: O_NONBLOCK belongs to the open file, which they may share.
"""

import os
import select
import socket
import stat
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Self

from attrs import define, field

PATIENCE_S: Final = 0.2
"""Longest wait for a reader that is behind (seconds). It is waited for once, and not again before it reads."""

_AGAIN: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_MS: Final = 1000


@define
class LineWriter:
    """Writes whole lines; those for which there is no room are dropped. Safe to use from many threads."""

    _send: Callable[[bytes], int]
    _room: Callable[[float], bool]
    """Waits for room, at most for some seconds, and returns whether there is some."""
    dropped: int = field(default=0, init=False)
    """Lines dropped since the last one that was written (count)."""
    _left: bytes = field(default=b"", init=False)
    """The rest of a line that has been begun."""
    _is_stuck: bool = field(default=False, init=False)
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def of(cls, descriptor: int) -> Self:
        """Return a writer to a descriptor, which may be closed then.

        Raises:
            OSError: It isn't open.
        """
        mode = os.fstat(descriptor).st_mode
        own = os.dup(descriptor)
        if stat.S_ISSOCK(mode):
            return cls(partial(_send_at_once, own), _room_of(own))
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            try:
                again = os.open(f"/proc/self/fd/{own}", _AGAIN)
            except OSError:
                # Another user's, as after su(1).
                return cls(partial(_write_if_room, own), _room_of(own))
            os.close(own)
            own = again
        return cls(partial(os.write, own), _room_of(own))

    def write(self, line: bytes) -> None:
        """Write a line, or drop it.

        Raises:
            OSError: Nobody reads any more.
        """
        with self._guard:
            self._left = self._sent(self._left)
            if not self._left:
                left = self._sent(line)
                if len(left) < len(line):
                    self._left, self.dropped = left, 0
                    return
            self.dropped += 1

    def _sent(self, data: bytes) -> bytes:
        """Write what there is room for, and return the rest.

        Raises:
            OSError: Nobody reads any more.
        """
        while data:
            try:
                data = data[self._send(data) :]
            except BlockingIOError:
                if self._is_stuck or not self._room(PATIENCE_S):
                    self._is_stuck = True
                    return data
            except OSError:
                self._left = b""
                raise
            else:
                self._is_stuck = False
        return data


def _write_if_room(descriptor: int, data: bytes) -> int:
    """Write as much as a pipe takes at once.

    Raises:
        BlockingIOError: It takes nothing now.
    """
    if not _room_of(descriptor)(0.0):
        raise BlockingIOError
    return os.write(descriptor, data[: select.PIPE_BUF])


def _send_at_once(descriptor: int, data: bytes) -> int:
    shared = socket.socket(fileno=descriptor)
    try:
        return shared.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        shared.detach()


def _room_of(descriptor: int) -> Callable[[float], bool]:
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return lambda within_s: bool(poller.poll(within_s * _MS))

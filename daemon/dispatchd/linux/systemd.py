"""Client of the service manager: sd_notify(3), by its documented protocol.

It is own code because the protocol is one datagram: existing packages bind to a C library, or are unmaintained.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Self

from attrs import frozen

_LONGEST_USEC: Final = 18
"""Longest number of a variable (digits): more than ten thousand years."""


@frozen
class ServiceManager:
    """Client for sd_notify(3). Does nothing if NOTIFY_SOCKET is unset."""

    _address: str = ""
    watchdog_s: float = 0.0
    """Watchdog timeout (seconds); 0 if there is no watchdog."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Return the client for the environment (NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID)."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):
            return cls()
        usec, pid = (
            environment.get(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID")
        )
        ours = pid in ("", str(os.getpid()))
        watchdog_s = (
            int(usec) / 1e6
            if ours and usec.isascii() and usec.isdigit() and len(usec) <= _LONGEST_USEC
            else 0.0
        )
        return cls(address, watchdog_s)

    def ready(self, status: str) -> None:
        """Report that everything is up."""
        self._send(READY=1, STATUS=status)

    def reloading(self, monotonic_s: float) -> None:
        """Report that the configuration is being read; `ready` ends that."""
        self._send(RELOADING=1, MONOTONIC_USEC=round(monotonic_s * 1e6))

    def stopping(self, status: str) -> None:
        """Report that the daemon is stopping."""
        self._send(STOPPING=1, STATUS=status)

    def status(self, status: str) -> None:
        """Send the status, in one line."""
        self._send(STATUS=status)

    def is_well(self) -> None:
        """Keep the watchdog from firing."""
        self._send(WATCHDOG=1)

    def more_time(self, seconds: float) -> None:
        """Request more time to start or to stop (seconds)."""
        self._send(EXTEND_TIMEOUT_USEC=round(seconds * 1e6))

    def _send(self, **assignments: str | int) -> None:
        if not self._address:
            return
        lines = "\n".join(
            f"{name}={_one_line(value)}" for name, value in assignments.items()
        )
        # A leading @ stands for the zero byte of an abstract address (unix(7)).
        address = (
            self._address.replace("@", "\0", 1)
            if self._address[0] == "@"
            else self._address
        )
        # The daemon works on if the manager is gone, or has a full queue.
        with (
            suppress(OSError),
            socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
            ) as out,
        ):
            out.setblocking(False)
            out.sendto(lines.encode(), address)


def _one_line(value: str | int) -> str:
    return " ".join(str(value).split())

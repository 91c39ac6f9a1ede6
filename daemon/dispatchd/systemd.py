"""Words for the service manager: sd_notify(3), by its documented protocol.

Own code because it is one datagram: what exists for it are bindings to a C library, or unmaintained.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

from attrs import frozen


@frozen
class ServiceManager:
    """Who started this daemon, if it wants to know how it goes; says nothing to nobody."""

    _address: str = ""
    watchdog_s: float = 0.0
    """Within how many seconds it wants to hear that all is well; 0 if it doesn't."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Return the one that the environment names (NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID)."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):
            return cls()
        usec, pid = (
            environment.get(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID")
        )
        ours = pid in ("", str(os.getpid()))
        watchdog_s = (
            int(usec) / 1e6 if ours and usec.isascii() and usec.isdigit() else 0.0
        )
        return cls(address, watchdog_s)

    def ready(self, status: str) -> None:
        """Say that everything is up."""
        self._send(READY=1, STATUS=status)

    def reloading(self, monotonic_s: float) -> None:
        """Say that the configuration is being read; `ready` ends that."""
        self._send(RELOADING=1, MONOTONIC_USEC=round(monotonic_s * 1e6))

    def stopping(self, status: str) -> None:
        """Say that the daemon is on its way out."""
        self._send(STOPPING=1, STATUS=status)

    def status(self, status: str) -> None:
        """Say how it goes, in one line."""
        self._send(STATUS=status)

    def is_well(self) -> None:
        """Keep the watchdog from firing."""
        self._send(WATCHDOG=1)

    def more_time(self, seconds: float) -> None:
        """Ask for some more seconds to start or to stop in."""
        self._send(EXTEND_TIMEOUT_USEC=round(seconds * 1e6))

    def _send(self, **words: str | int) -> None:
        if not self._address:
            return
        lines = "\n".join(f"{name}={_one_line(word)}" for name, word in words.items())
        # A leading @ stands for the zero byte of an abstract address (unix(7)).
        address = (
            self._address.replace("@", "\0", 1)
            if self._address[0] == "@"
            else self._address
        )
        # A manager that is gone, or has a full queue, is no reason not to work.
        with (
            suppress(OSError),
            socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
            ) as out,
        ):
            out.setblocking(False)
            out.sendto(lines.encode(), address)


def _one_line(word: str | int) -> str:
    return " ".join(str(word).split())

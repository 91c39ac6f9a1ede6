"""A program of ours as a child: known to be ready by sd_notify(3), its output in a file."""

import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.cli.brand import brand, program
from dispatchd.errors import NotReachable
from dispatchd.linux.kernel import end_with_parent

_START_S: Final = 60.0
"""Longest wait until a child is ready (seconds)."""

_STOP_S: Final = 45.0
"""Longest wait for the end of a child (seconds): runs have 10 s to end, and reports 10 s to go out."""

_LINE: Final = 64 << 10
"""Largest message of sd_notify(3) that is read (bytes)."""


@frozen(kw_only=True)
class Child:
    """A running child, in a session of its own: Ctrl-C on the terminal reaches its parent alone. It ends with its parent."""

    what: str
    log: Path
    process: subprocess.Popen[bytes]
    notices: socket.socket
    pidfd: int

    @classmethod
    def start(cls, what: str, arguments: Sequence[str], log: Path) -> Self:
        """Start a child, and return when it is ready.

        Raises:
            NotReachable: It isn't.
        """
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        notices.bind(
            ""
        )  # an abstract address of the kernel's choice (unix(7), autobind)
        address = "@" + notices.getsockname()[1:].decode("ascii")
        environment = {**os.environ, "NOTIFY_SOCKET": address}  # noqa: TID251  # the child is this program
        with log.open("ab") as output:
            begins_at = output.tell()
            process = subprocess.Popen(  # noqa: S603  # this program
                [*program(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509  # this process has one thread
            )
        child = cls(
            what=what,
            log=log,
            process=process,
            notices=notices,
            pidfd=os.pidfd_open(process.pid),
        )
        try:
            ready = child.until("READY=1", _START_S)
        except BaseException:
            child.kill()
            raise
        if not ready:
            child.kill()
            raise NotReachable(cannot=f"start the {what}", reason=_last(log, begins_at))
        return child

    def until(self, assignment: str, within_s: float) -> bool:
        """Wait until the child has said something by sd_notify(3); False if it has ended, or the time is over."""
        while True:
            ready, _, _ = select.select(
                [self.notices.fileno(), self.pidfd], [], [], within_s
            )
            if self.notices.fileno() not in ready:
                return False
            if assignment in self.notices.recv(_LINE).decode().splitlines():
                return True

    @property
    def has_ended(self) -> bool:
        """True once the child has ended."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def stop(self, *numbers: signal.Signals) -> None:
        """End the child by signals: each after the first is sent once the child says that it is stopping."""
        for count, number in enumerate(numbers):
            # Two signals of a kind that wait at the same time would be one (signal(7)).
            if count and not self.until("STOPPING=1", _STOP_S):
                break
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End the child at once, if it hasn't ended, and let go of what it is watched by."""
        self.process.kill()
        self.process.wait()
        self.notices.close()
        os.close(self.pidfd)


def until_one_ends(children: Sequence[Child]) -> None:
    """Wait until one of some children ends."""
    select.select([child.pidfd for child in children], [], [])


def _last(log: Path, begins_at: int) -> str:
    """Return the last line of what a child has written."""
    lines = log.read_bytes()[begins_at:].decode(errors="replace").strip().splitlines()
    said = lines[-1].removeprefix(f"{brand().name}: ") if lines else "it says nothing"
    return f"{said} (see {log})"

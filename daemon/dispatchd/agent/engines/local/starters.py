"""The daemon's ends of its starters: processes that fork for it, and adopt what ended runs have left.

Comes from `gate.py` and `kill_leftovers.py`; the other end is `starter.py`.
"""

import errno
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from attrs import define, field, frozen

from dispatchd.agent.engines.local.enclosure import Enclosed
from dispatchd.agent.engines.local.process import REQUEST_NAME
from dispatchd.linux.descriptors import sending
from dispatchd.linux.subreaper import children_of, descendants_of, lists_children

_MESSAGE: Final = 64
"""Longest message of the starter (bytes)."""

_ANSWER_S: Final = 10.0
"""Time limit of the starter for a start, or for the status of a shim that has ended (seconds); then it is replaced."""

_GOING_S: Final = 1.0
"""Time limit of the starter for its own end (seconds); then it is killed."""

_MAIN: Final = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from dispatchd.agent.engines.local.starter import main; main(is_confined={})"
)

_LIBRARIES: Final = ("LD_LIBRARY_PATH",)
"""Variables of the daemon that the starter gets: its interpreter may need them to find its libraries."""

_TITLE_ROOM: Final = 300
"""Room for the titles of the starter and its shims (bytes)."""


def _libraries_of(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in _LIBRARIES if name in environment}


@define
class Starter:
    """Process that forks for the daemon. Started when it is needed, and replaced when it has gone. Calls block."""

    _libraries: Mapping[str, str] = field(converter=_libraries_of, factory=dict)
    """Environment of the daemon: only the variables about its interpreter's libraries are handed on."""
    _is_confined: bool = False
    """True for walled commands (`starter.main`)."""
    _daemon_end: socket.socket | None = field(default=None, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _ended: dict[int, int] = field(factory=dict)
    """Statuses (wait(2)) of shims that haven't been asked for yet, by pid."""
    _alive: set[int] = field(factory=set, init=False)
    """Pids of shims whose end the starter will report."""
    _adopted: set[int] = field(factory=set, init=False)
    """Pids of shims that ended as children of this starter, so that it has become the parent of what they left."""
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    def start(self, request: bytes, fds: list[int]) -> int:
        """Fork a shim and return its pid.

        Args:
            request: Its request (`starter.Request`).
            fds: Its gate, its output, the attempt's folder, and perhaps a control group's list of processes.

        Raises:
            ConnectionError: The starter was killed. It may have forked a shim, so no other one may wait at this gate.
            TimeoutError: It hangs. Likewise.
            OSError: The system refuses another process.
        """
        memory = os.memfd_create(REQUEST_NAME, os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(memory), "wb") as file:
                file.write(request)
            with self._guard:
                try:
                    return self._ask([memory, *fds])
                except (ConnectionError, TimeoutError):
                    self._end()
                    raise
        finally:
            os.close(memory)

    def status(self, pid: int) -> int | None:
        """Return the status of a shim that has ended (wait(2)), or None if it isn't known."""
        with self._guard:
            try:
                while pid in self._alive and self._daemon_end is not None:
                    self._hear(self._daemon_end)
            except (ConnectionError, TimeoutError):
                self._end()
            return self._ended.pop(pid, None)

    def heard(self, pid: int) -> int | None:
        """Return the status of a shim that has ended, if the starter has reported it by now, else None. Doesn't block."""
        if not self._guard.acquire(blocking=False):
            return None
        try:
            # What fails here fails again for `status`, which ends the starter.
            with suppress(ConnectionError, TimeoutError):
                while (
                    pid in self._alive
                    and self._daemon_end is not None
                    and _has_message(self._daemon_end)
                ):
                    self._hear(self._daemon_end)
            return self._ended.pop(pid, None)
        finally:
            self._guard.release()

    def has_adopted(self, pid: int) -> bool:
        """Return whether everything that a shim which has ended has left is below this starter, and shown by `left`."""
        with self._guard:
            return (
                pid in self._adopted
                and lists_children()
                and self._process is not None
                and self._process.poll() is None
            )

    def forget(self, pid: int) -> None:
        """Forget a shim whose leftovers have been ended. Doesn't block."""
        # Without the guard, which may be held for as long as a starter hangs: nothing else is about this pid.
        self._adopted.discard(pid)

    def left(self) -> set[int]:
        """Return the pids of all processes below the starter that ended runs have left."""
        with self._guard:
            # While the guard is held, `_alive` has every shim; the other children are leftovers of runs.
            if self._process is None:
                return set()
            tops = [
                pid for pid in children_of(self._process.pid) if pid not in self._alive
            ]
        return {*tops, *(pid for top in tops for pid in descendants_of(top))}

    def hunt(self) -> None:
        """Kill all that runs which have ended have left below the starter, faster than it can become another process."""
        with self._guard:
            if self._daemon_end is None:
                return
            try:
                self._daemon_end.send(b"hunt")
                while self._hear(self._daemon_end)[0] != "hunted":
                    pass
            except (ConnectionError, TimeoutError):
                self._end()

    def close(self) -> None:
        """End the starter; its shims continue."""
        with self._guard:
            self._end()

    def _ask(self, fds: list[int]) -> int:
        """Fork a shim; `start` describes what it gets.

        Raises:
            OSError: The starter can't fork.
        """
        daemon_end = self._open()
        with sending():
            socket.send_fds(daemon_end, [b"start"], fds)
        while True:
            word, number = self._hear(daemon_end)
            if word == "started":
                # The status of an earlier process with this pid, which nothing has asked for.
                self._ended.pop(number, None)
                self._adopted.discard(number)
                self._alive.add(number)
                return number
            if word == "failed":
                raise OSError(number, os.strerror(number))

    def _hear(self, daemon_end: socket.socket) -> tuple[str, int]:
        """Receive one message, and store it if it reports an end.

        Raises:
            ConnectionResetError: The starter has gone.
        """
        message = daemon_end.recv(_MESSAGE)
        if not message:
            raise ConnectionResetError(errno.ECONNRESET, "the starter has gone")
        word, *numbers = message.decode().split()
        if word == "ended":
            self._alive.discard(int(numbers[0]))
            self._adopted.add(int(numbers[0]))
            self._ended[int(numbers[0])] = int(numbers[1])
        return word, int(numbers[0])

    def _open(self) -> socket.socket:
        if self._daemon_end is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                root = str(Path(__file__).parents[4])
                main = _MAIN.format(self._is_confined)
                self._process = subprocess.Popen(
                    # Isolated: neither the environment nor packages of the site may get in.
                    [sys.executable, "-I", "-S", "-c", main, root, " " * _TITLE_ROOM],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=self._libraries,
                    start_new_session=True,
                )
            ours.settimeout(_ANSWER_S)
            self._daemon_end = ours
        return self._daemon_end

    def _end(self) -> None:
        self._alive.clear()
        self._adopted.clear()
        if self._daemon_end is not None:
            self._daemon_end.close()
            self._daemon_end = None
        if self._process is not None:
            try:
                # It ends the leftovers of runs, and then itself.
                self._process.wait(_GOING_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


@frozen
class Starters:
    """The daemon's starters: one for walled commands, one for the others. Each is started when it is needed."""

    _confined: Starter
    _free: Starter

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Return the starters for a daemon's environment."""
        # A pid means one process for both, so they share the statuses.
        ended: dict[int, int] = {}
        return cls(
            Starter(environment, is_confined=True, ended=ended),
            Starter(environment, ended=ended),
        )

    def starter_for(self, enclosed: Enclosed) -> Starter:
        """Return the starter for a command."""
        return self._free if enclosed.rules is None else self._confined

    def status(self, pid: int) -> int | None:
        """Return the status of a shim that has ended (wait(2)), or None if it isn't known."""
        status = self._confined.status(pid)
        return self._free.status(pid) if status is None else status

    def heard(self, pid: int) -> int | None:
        """Return the status of a shim that has ended, if its starter has reported it by now, else None. Doesn't block."""
        status = self._confined.heard(pid)
        return self._free.heard(pid) if status is None else status

    def have_adopted(self, pid: int) -> bool:
        """Return whether everything that a shim which has ended has left is below a starter, and shown by `left`."""
        return self._confined.has_adopted(pid) or self._free.has_adopted(pid)

    def forget(self, pid: int) -> None:
        """Forget a shim whose leftovers have been ended. Doesn't block."""
        self._confined.forget(pid)
        self._free.forget(pid)

    def left(self) -> set[int]:
        """Return the pids of all processes below the starters that ended runs have left."""
        return self._confined.left() | self._free.left()

    def hunt(self) -> None:
        """Kill all that runs which have ended have left below the starters."""
        self._confined.hunt()
        self._free.hunt()

    def close(self) -> None:
        """End the starters; their shims continue."""
        self._confined.close()
        self._free.close()


def _has_message(daemon_end: socket.socket) -> bool:
    # Not select(2), which knows no descriptor above 1023.
    poll = select.poll()
    poll.register(daemon_end, select.POLLIN)
    return bool(poll.poll(0))

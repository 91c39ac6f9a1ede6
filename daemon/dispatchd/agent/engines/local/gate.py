"""The gate: an attempt gets a process, which runs nothing before the daemon has durably recorded it.

Comes from `engine.py`; continues in `starter.py`, the small process that forks, and `shim.py`, which waits at the gate.
If the daemon dies before it opens the gate, the shim ends, so an attempt that isn't recorded never runs. The status
of a shim is what the kernel told the starter; `exit` in the attempt's folder is for a daemon that was started later.
"""

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from attrs import define, field, frozen

from dispatchd.agent.domain.job import ProcessIdentity
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local.enclosure import Enclosed
from dispatchd.agent.engines.local.process import REQUEST_NAME, boot_id, identify
from dispatchd.agent.engines.local.shim import LEFTOVERS
from dispatchd.errors import SpawnFailed
from dispatchd.linux.descriptors import sending
from dispatchd.linux.subreaper import children_of, descendants_of
from dispatchd.linux.untrusted_files import read_regular
from dispatchd.protocol.outcome import Exit, NeverStarted

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_GIVEN: Final = "DISPATCHD_GIVEN_"
"""Prefix of the command's variables in the environment of a shim of an earlier release."""

_CODE: Final = re.compile(rb"[0-9]{1,3}\n")

_LONGEST_EXIT: Final = 16
"""Largest `exit` file that is read (bytes): more than an exit code and its line end have."""

_LONGEST_COUNT: Final = 16
"""Largest `leftovers` file that is read (bytes): more than a count and its line end have."""

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


@frozen(kw_only=True)
class Gated:
    """Shim that waits behind its gate; `gate` is the pipe's write end."""

    identity: ProcessIdentity
    gate: int

    @classmethod
    def spawn(
        cls,
        launch: Launch,
        enclosed: Enclosed,
        starter: Starter,
        group: int = -1,
    ) -> Self:
        """Start a shim behind a closed gate. Blocks for about a millisecond.

        Args:
            launch: The launch that it starts once the gate is open.
            enclosed: The command that is executed for it.
            starter: The process that forks it.
            group: The descriptor with which it enters its control group; -1 for none.

        Raises:
            SpawnFailed: The command can't be executed, or the system refuses another process.
        """
        program = enclosed.command[0]
        _check_program(program)
        request = json.dumps(
            {
                "command": enclosed.command,
                "env": enclosed.env,
                "workspace": str(launch.workspace),
                "folder": str(launch.folder),
                "rules": enclosed.rules,
                "deaf": enclosed.deaf,
            }
        ).encode()
        try:
            try:
                return cls._behind_a_gate(launch, request, starter, group)
            except (ConnectionError, TimeoutError):
                # The next starter's shim has a gate of its own; that of a shim of the last one is closed by now.
                return cls._behind_a_gate(launch, request, starter, group)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SpawnFailed(command=program, reason=reason) from error

    @classmethod
    def _behind_a_gate(
        cls, launch: Launch, request: bytes, starter: Starter, group: int
    ) -> Self:
        """Start a shim behind a gate of its own, which is closed if this fails.

        Raises:
            OSError: As `Starter.start`, or the shim vanished at once.
        """
        with ExitStack() as stack:

            def closed(fd: int) -> int:
                stack.callback(os.close, fd)
                return fd

            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            gate = stack.enter_context(os.fdopen(write_end, "wb", buffering=0))
            fds = [
                closed(read_end),
                closed(_open_output(launch.output_file)),
                closed(os.open(launch.folder, _FOLDER)),
                *([group] if group >= 0 else []),
            ]
            identity = identify(starter.start(request, fds))
            if identity is None:
                raise OSError(errno.ESRCH, "its process vanished at once")
            return cls(identity=identity, gate=os.dup(gate.fileno()))

    def open(self) -> None:
        """Let the command run."""
        os.write(self.gate, b"g")


def of_command(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a command from the environment of its shim, as in earlier releases."""
    given = {
        name.removeprefix(_GIVEN): text
        for name, text in environment.items()
        if name.startswith(_GIVEN)
    }
    return {**environment, **given}


def read_exit(folder: Path, process: ProcessIdentity) -> Exit | NeverStarted:
    """Return the end of an attempt, from the files that its shim has left in the attempt's folder."""
    try:
        # Without isolation the command could write here too; anything but an exit code is ignored.
        data = read_regular(folder / "exit", _LONGEST_EXIT) or b""
    except OSError:
        # After a power cut the marker may be missing although the gate was open: then the run may have begun.
        # So may the whole folder, if the command has removed it.
        try:
            here = folder.is_dir() and not (folder / "started").exists()
        except OSError:
            here = False
        if process.boot_id == boot_id() and here:
            return NeverStarted()
        return Exit(code=None)
    return Exit(code=int(data) if _CODE.fullmatch(data) else None)


def read_leftovers(folder: Path) -> int:
    """Return the number of an attempt's processes that its shim has ended (count); 0 if it has left them to the daemon."""
    try:
        data = read_regular(folder / LEFTOVERS, _LONGEST_COUNT) or b""
    except OSError:
        return 0
    return int(data) if data.strip().isdigit() else 0


def _open_output(file: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(file, flags, 0o600)


def _check_program(program: str) -> None:
    path = Path(program)
    try:
        if not path.exists():
            reason = "there is no such file"
        elif not path.is_file() or not os.access(path, os.X_OK):
            reason = "it isn't an executable file"
        else:
            return
    except OSError as error:
        # Such as a folder of another user on its way.
        reason = error.strerror or str(error)
    raise SpawnFailed(command=program, reason=reason, refused=True)

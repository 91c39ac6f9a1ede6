"""The shim: waits behind a gate, lets the command run behind its wall, and leaves the command's exit code.

Comes from `starter.py`, which forks it. It does nothing until the daemon has durably recorded its identity and opens the
gate; if the daemon dies before that, it reads end-of-file and ends, and nothing has run. It leads its own session and
outlives the daemon and the starter. The command has been forked by then, waits behind its wall for a word of the shim,
and can neither signal nor trace the shim, which is outside.

What the command leaves behind becomes a child of the shim, in whatever way it has tried to get out of sight; when the
shim has ended, one of the starter, or else the shim ends it first.

It works on descriptors, so that nothing that becomes of a path keeps it from its work. What it leaves in the attempt's
folder is `started`, made after the gate has opened, and `exit`, renamed into place when the command has ended, into
room that it has taken before: a full disk doesn't keep it from that.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from dispatchd.process.capabilities import drop_capabilities
from dispatchd.process.descendants import adopt_orphans, end_children
from dispatchd.process.kernel import PR_SET_NAME, process_control
from dispatchd.process.landlock import enter
from dispatchd.process.seccomp import Filter

_ASIDE: Final = "exit.aside"
_LONGEST: Final = 4
"""An exit code and its line end (bytes)."""

_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
"""Exit codes of a shell for what can't be executed, and for what isn't there (POSIX.1-2017, XCU 2.8.2)."""

_SIGNALED: Final = 128

_GRACE_S: Final = 2.0
"""How long what a command has left may take to end after SIGTERM (seconds)."""

_END_S: Final = 10.0
"""How long the end of what a command has left is waited for in all (seconds)."""

_MODE: Final = 0o600
_SHELL: Final = "/bin/sh"

_POLITE: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Sent to the whole group; they are for the command, and the shim stays to write its exit code."""

_DEFAULTS: Final = (*_POLITE, signal.SIGPIPE, signal.SIGXFSZ)
"""What is ignored here, and must not be in a command."""


class Order(NamedTuple):
    """One start; numbers are descriptors, -1 for none."""

    command: list[str]
    env: dict[str, str]
    workspace: str
    title: str
    request: int
    gate: int
    output: int
    folder: int
    group: int
    wall: int
    filter: Filter | None
    deaf: bool


def carry_out(order: Order) -> NoReturn:
    """Be the shim of an attempt until its end.

    Raises:
        AssertionError: Never; this process has ended before.
    """
    try:
        os._exit(_shim(order))
    finally:
        # Whatever went wrong: an exit code would be taken for the command's.
        os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _shim(order: Order) -> int:
    starter = os.getppid()
    os.setsid()
    adopt_orphans()
    for number in (*_POLITE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    if order.group >= 0:
        # Refused: then the run is found by its environment alone.
        with suppress(OSError):
            os.write(order.group, b"0")
    aside = _take_room(order.folder)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    command = os.fork()
    if command == 0:
        # Without it the read end tells when the shim has gone.
        os.close(write_end)
        _be_the_command(order, read_end)
    for fd in (read_end, order.output, order.group, order.wall):
        if fd >= 0:
            os.close(fd)
    set_title(order.title)
    if not os.read(order.gate, 1):
        os.close(write_end)
        os.waitpid(command, 0)
        with suppress(OSError):
            os.unlink(_ASIDE, dir_fd=order.folder)
        return 0
    _mark_started(order.folder)
    # It may have been killed already.
    with suppress(BrokenPipeError):
        os.write(write_end, b"g")
    os.close(write_end)
    code = _exit_code_of(command)
    _leave(order.folder, aside, code)
    if os.getppid() != starter:
        # Else what is left becomes the starter's, which ends it.
        end_children(_GRACE_S, _END_S)
    return code


def _exit_code_of(command: int) -> int:
    """Wait for a command, and for what it leaves meanwhile; return its exit code as a shell has it."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALED - code


def _take_room(folder: int) -> int:
    """Return the descriptor of a file with room for an exit code, or -1 if there is none to be had now."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        fd = os.open(_ASIDE, flags, _MODE, dir_fd=folder)
        os.write(fd, b" " * _LONGEST)
    except OSError:
        return -1
    return fd


def _mark_started(folder: int) -> None:
    # On a full disk there may be no mark; the daemon that opened the gate knows.
    with suppress(OSError):
        os.close(
            os.open(
                "started", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _MODE, dir_fd=folder
            )
        )


def _leave(folder: int, aside: int, code: int) -> None:
    """Leave the exit code, whole or not at all; without it the attempt counts as lost to a later daemon."""
    line = f"{code}\n".encode()
    with suppress(OSError):
        if aside < 0:
            aside = _take_room(folder)
        os.pwrite(aside, line, 0)
        os.ftruncate(aside, len(line))
        os.rename(_ASIDE, "exit", src_dir_fd=folder, dst_dir_fd=folder)


def _be_the_command(order: Order, word: int) -> NoReturn:
    """Go behind the wall, wait for the shim's word, and become the command; without a word, end."""
    code = _NOT_EXECUTABLE
    try:
        os.dup2(order.output, 1)
        os.dup2(order.output, 2)
        _reset_signals(_POLITE if order.deaf else ())
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _level_off()
        where = f"enter {order.workspace}"
        try:
            os.chdir(order.workspace)
            where = "set up its isolation"
            if order.wall >= 0:
                if os.geteuid() == 0:
                    drop_capabilities()
                enter(order.wall)
                if order.filter is not None:
                    order.filter.install()
            if not os.read(word, 1):
                os._exit(0)
            where = f"execute {order.command[0]}"
            _execute(order.command, order.env)
        except OSError as error:
            if error.errno == errno.ENOENT and where.startswith("execute"):
                code = _NOT_FOUND
            os.write(
                2,
                f"dispatchd: cannot {where}: {error.strerror}\n".encode(
                    errors="surrogateescape"
                ),
            )
    finally:
        os._exit(code)


def _reset_signals(ignored: Collection[int]) -> None:
    for number in _DEFAULTS:
        if number not in ignored:
            signal.signal(number, signal.SIG_DFL)


def _execute(command: list[str], env: dict[str, str]) -> NoReturn:
    try:
        os.execve(command[0], command, env)  # noqa: S606  # that is what it is for
    except OSError as error:
        # A script without `#!`, which a shell would execute itself (POSIX.1-2017, XCU 2.9.1.1).
        if error.errno != errno.ENOEXEC:
            raise
        os.execve(_SHELL, [_SHELL, *command], env)  # noqa: S606  # likewise


def _level_off() -> None:
    """Give up what the daemon has for itself, so that it stays alive when runs starve the machine.

    A unit's Nice= and OOMScoreAdjust= go on to children; giving them up needs no privilege (setpriority(2),
    proc_pid_oom_score_adj(5)).
    """
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:  # noqa: PTH123  # no pathlib in here
            if file.read(1) == b"-":
                file.seek(0)
                file.write(b"0")


def set_title(title: str) -> None:
    """Let ps(1) and pgrep(1) show a title for this process, in the room of its first command line."""
    with suppress(OSError, ValueError, IndexError):
        process_control(PR_SET_NAME, title.encode()[:15])
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  # no pathlib in here
            fields = file.read().rpartition(b")")[2].split()
        # proc_pid_stat(5), fields 48 and 49; the first one here is number 3.
        start, end = int(fields[45]), int(fields[46])
        text = os.fsencode(title)[: end - start - 1]
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)

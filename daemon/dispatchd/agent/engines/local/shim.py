"""The shim: waits behind a gate, runs the command behind its wall, and leaves the command's exit code.

Comes from `starter.py`, which forks it. It does nothing until the daemon has durably recorded its identity and opens
the gate. If the daemon dies before that, the shim reads end-of-file and ends, and nothing has run. It leads its own
session and outlives the daemon and the starter. The command has been forked by then, and waits behind its wall for a
message of the shim. It can neither signal nor trace the shim, which is outside of the wall.

Orphans of the command become children of the shim, however they have tried to hide. When the shim has ended, they
become children of the starter; if that is impossible, the shim ends them first.

The shim works on descriptors, so that a change of a path can't disturb it. It leaves two files in the attempt's
folder: `started`, made after the gate has opened, and `exit`, renamed into place when the command has ended. The
space for `exit` is allocated beforehand, so that a full disk can't prevent it. If it has ended processes itself, a third
one has their number: `leftovers`. If the gate never opens, it leaves `never-opened-PID`: only this says that nothing has
run, because a file system that fails may lose any of the others.
"""

import ctypes
import errno
import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from dispatchd.linux.descriptors import keep_some
from dispatchd.linux.kernel import PR_SET_NAME, leave_keyring, process_control
from dispatchd.linux.landlock import enter
from dispatchd.linux.subreaper import adopt_orphans, end_children

LEFTOVERS: Final = "leftovers"
"""File in an attempt's folder with the number of processes that its shim has ended."""

STARTED: Final = "started"
"""File in an attempt's folder that its shim makes when the gate has opened."""

NEVER_OPENED: Final = "never-opened-"
"""Prefix of the file that a shim leaves if its gate closed without opening; its pid follows."""

_ASIDE: Final = "exit.aside"
_LONGEST: Final = 4
"""Size of an exit code and its line end (bytes)."""

_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
"""Exit codes of a shell for a file that can't be executed, and for one that isn't found (POSIX.1-2017, XCU 2.8.2)."""

_SIGNALED: Final = 128

_GRACE_S: Final = 2.0
"""Time for the leftovers of a command to end after SIGTERM (seconds)."""

_END_S: Final = 10.0
"""Longest wait, in all, for the end of the leftovers of a command (seconds)."""

_MODE: Final = 0o600
_SHELL: Final = "/bin/sh"

_POLITE: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals that are sent to the whole group. They are for the command; the shim stays to write its exit code."""

_PASSES: Final = (errno.ETXTBSY, errno.EAGAIN)
"""Errors of execve(2) that pass by themselves: a program that is being installed, and too many processes of a user."""

_TRIES: Final = 50
"""Tries of an execution that fails with one of them, before the last one (count)."""

_LOOKED_AT: Final = 80
"""Beginning of a file by which a script is told from a program (bytes)."""

_PAUSE_S: Final = 0.2
"""Time between two tries (seconds)."""


class Order(NamedTuple):
    """Order for one start; numbers are descriptors, -1 for none."""

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
    deaf: bool


def carry_out(order: Order) -> NoReturn:
    """Be the shim of an attempt until its end.

    Raises:
        AssertionError: Never; this process has ended before.
    """
    try:
        os._exit(_shim(order))
    finally:
        # On any error: an exit code would be taken for the command's.
        os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _shim(order: Order) -> int:
    starter = os.getppid()
    os.setsid()
    adopt_orphans()
    for number in (*_POLITE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    if order.group >= 0:
        # If the kernel refuses, only the environment marks the run's processes.
        with suppress(OSError):
            os.write(order.group, b"0")
    aside = _take_room(order.folder)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    command = os.fork()
    if command == 0:
        # The write end is closed here, so that the read end shows the end of the shim.
        os.close(write_end)
        _be_the_command(order, read_end)
    for fd in (read_end, order.output, order.group, order.wall):
        if fd >= 0:
            os.close(fd)
    set_title(order.title)
    if not os.read(order.gate, 1):
        os.close(write_end)
        os.waitpid(command, 0)
        # No exit code: nothing has run. The file aside may be that of another shim by now.
        _mark(order.folder, f"{NEVER_OPENED}{os.getpid()}")
        os.kill(os.getpid(), signal.SIGKILL)
    # On a full disk there may be no mark; the daemon that opened the gate knows that the attempt has begun.
    _mark(order.folder, STARTED)
    # The command may have been killed already.
    with suppress(BrokenPipeError):
        os.write(write_end, b"g")
    os.close(write_end)
    code = _exit_code_of(command)
    _leave(order.folder, aside, code)
    if os.getppid() != starter:
        # If the starter is still there, the leftovers become its children, and it ends them.
        _note_leftovers(order.folder, end_children(_GRACE_S, _END_S))
    return code


def _exit_code_of(command: int) -> int:
    """Wait for a command, and for its orphans meanwhile. Return its exit code as a shell reports it."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALED - code


def _take_room(folder: int) -> int:
    """Return the descriptor of a file with space for an exit code, or -1 if there is no space now."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        fd = os.open(_ASIDE, flags, _MODE, dir_fd=folder)
        os.write(fd, b" " * _LONGEST)
    except OSError:
        return -1
    return fd


def _mark(folder: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    with suppress(OSError):
        os.close(os.open(name, flags, _MODE, dir_fd=folder))


def _leave(folder: int, aside: int, code: int) -> None:
    """Write the exit code, whole or not at all. Without it the attempt counts as lost to a later daemon."""
    line = f"{code}\n".encode()
    with suppress(OSError):
        if aside < 0:
            aside = _take_room(folder)
        os.pwrite(aside, line, 0)
        os.ftruncate(aside, len(line))
        os.rename(_ASIDE, "exit", src_dir_fd=folder, dst_dir_fd=folder)


def _note_leftovers(folder: int, count: int) -> None:
    """Leave the number of processes that were ended, for the summary; without room for it there is none."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(OSError):
        fd = os.open(LEFTOVERS, flags, _MODE, dir_fd=folder)
        os.write(fd, b"%d\n" % count)
        os.close(fd)


def _be_the_command(order: Order, word: int) -> NoReturn:
    """Go behind the wall, wait for the shim's message, and become the command. Without a message, end."""
    code = _NOT_EXECUTABLE
    try:
        # One of its own: what is set on an open file outlives the process.
        os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), 0)
        os.dup2(order.output, 1)
        os.dup2(order.output, 2)
        _reset_signals(_POLITE if order.deaf else ())
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _level_off()
        keep_some()
        where = f"enter {order.workspace}"
        try:
            os.chdir(order.workspace)
            where = "set up its isolation"
            if order.deaf:
                # Its namespaces hold all keys but those of the session, which it would inherit.
                leave_keyring()
            if order.wall >= 0:
                enter(order.wall)
            if not os.read(word, 1):
                os._exit(0)
            where = f"execute {order.command[0]}"
            _execute_in_time(order.command, order.env)
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
    """Give signals that are ignored here, or that whoever has started the daemon ignored, their defaults."""
    for number in signal.valid_signals():
        if number not in ignored and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _execute_in_time(command: list[str], env: dict[str, str]) -> NoReturn:
    """Execute a command, also one that is still being written, or for which the system has no room at this moment.

    Raises:
        OSError: It can't be executed.
    """
    for _ in range(_TRIES):
        try:
            _execute(command, env)
        except OSError as error:
            if error.errno not in _PASSES:
                raise
        time.sleep(_PAUSE_S)
    _execute(command, env)


def _execute(command: list[str], env: dict[str, str]) -> NoReturn:
    try:
        os.execve(command[0], command, env)  # noqa: S606  # that is what it is for
    except OSError as error:
        # A script without `#!`, which a shell would execute itself (POSIX.1-2017, XCU 2.9.1.1). One that is empty, and
        # a program for another kind of machine, are none: the first would succeed.
        if error.errno != errno.ENOEXEC or not _is_text(command[0]):
            raise
        os.execve(_SHELL, [_SHELL, *command], env)  # noqa: S606  # likewise


def _is_text(program: str) -> bool:
    """Return whether a file begins with text, as far as bash looks for a zero byte."""
    fd = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    head = os.read(fd, _LOOKED_AT)
    os.close(fd)
    return bool(head) and b"\0" not in head


def _level_off() -> None:
    """Give up the daemon's priority and OOM score, which keep it alive when runs starve the machine.

    A unit's Nice= and OOMScoreAdjust= are inherited by children. Giving them up needs no privilege (setpriority(2),
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
    """Show a title for this process in ps(1) and pgrep(1), in the space of its first command line."""
    with suppress(OSError, ValueError, IndexError):
        process_control(PR_SET_NAME, title.encode()[:15])
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  # no pathlib in here
            fields = file.read().rpartition(b")")[2].split()
        # proc_pid_stat(5), fields 48 and 49; the first one here is number 3.
        start, end = int(fields[45]), int(fields[46])
        text = os.fsencode(title)[: end - start - 1]
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)

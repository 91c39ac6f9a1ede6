"""Reaping of orphans: the duty of a container's first process, or a subreaper, to wait for orphaned processes.

The program continues in a child of its own, and the first process stays behind as a small init: it passes signals on,
waits for all orphans, and ends with the program's exit code. So it never takes away the status of the program's own
children. Facts from pid_namespaces(7), prctl(2) and wait(2).
"""

import ctypes
import os
import signal
from typing import Final, NoReturn

_PASSED_ON: Final = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)

# linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_CHILD_SUBREAPER: Final = 37

_SIGNAL_BASE: Final = 128
"""Offset of exit codes for signals: a shell reports a process that signal n ended as 128 + n
(POSIX.1-2017, Shell, 2.8.2)."""


def leave_orphans_to_init() -> None:
    """Return at once where other processes reap orphans. Otherwise return in a child, and make this process its init.

    For the start of a program, before it has threads.
    """
    if os.getpid() != 1 and not _is_subreaper():
        return
    init, waited_for = os.getpid(), {*_PASSED_ON, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    program = os.fork()
    if program:
        _be_init(program, waited_for)
    # A kill of the process that was started is meant for the program.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != init:
        os._exit(os.EX_SOFTWARE)
    # A terminal's Ctrl-C is for the init alone, which passes it on once.
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, waited_for)


def _be_init(program: int, waited_for: set[signal.Signals]) -> NoReturn:
    while True:
        number = signal.sigwait(waited_for)
        if number != signal.SIGCHLD:
            # It has not been waited for, so its pid isn't reused.
            os.kill(program, number)
        elif (status := _reap(program)) is not None:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else _SIGNAL_BASE - code)


def _reap(program: int) -> int | None:
    """Wait for all processes that have ended. Return the program's status if it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == program:
            return status
        if pid == 0:
            return None


def _is_subreaper() -> bool:
    flag = ctypes.c_int(0)
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag))
    return bool(flag.value)


def _prctl(option: int, argument: object) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)

"""System calls that Python's `os` doesn't have, by their number."""

import ctypes
import os
import signal
from contextlib import suppress
from typing import Final, Protocol

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_SET_SECCOMP: Final = 22
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47

_KEYCTL: Final = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
"""Its number by machine (uname(2))."""
_JOIN_SESSION_KEYRING: Final = 1
"""KEYCTL_JOIN_SESSION_KEYRING of linux/keyctl.h; without a name it is a new one."""

_LONG: Final = ctypes.c_long


class Kernel(Protocol):
    """Carries out system calls; a test has an implementation of its own."""

    def __call__(self, number: int, *arguments: int | bytes | None) -> int:
        """Return what the call returns; OSError if it fails."""
        ...


_libc = ctypes.CDLL(None, use_errno=True)
_syscall, _prctl = _libc.syscall, _libc.prctl


def system_call(number: int, *arguments: int | bytes | None) -> int:
    """Carry out a system call (syscall(2)).

    Raises:
        OSError: The kernel refuses it.
    """
    result = int(
        _syscall(_LONG(number), *[_passed(argument) for argument in arguments])
    )
    if result < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))
    return result


def process_control(option: int, *arguments: int | bytes) -> None:
    """Set an attribute of the calling process (prctl(2)).

    Raises:
        OSError: The kernel refuses it.
    """
    # The call takes four more arguments, and some options require zeros.
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if _prctl(ctypes.c_int(option), *[_passed(argument) for argument in padded]) < 0:
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))


def _passed(argument: int | bytes | None) -> object:
    return _LONG(argument) if isinstance(argument, int) else argument


def end_with_parent(parent: int) -> None:
    """Let the kernel send SIGTERM to this process once the thread that has forked it ends; it lasts over execve(2).

    Args:
        parent: Pid of that thread's process. If it has gone already, this process ends at once.
    """
    process_control(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def leave_keyring() -> None:
    """Give this process, and what it executes, a session keyring of its own, instead of the one that it shares (keyctl(2)).

    Where the kernel has no keys, or isn't known, there is nothing to leave.
    """
    number = _KEYCTL.get(os.uname().machine)
    if number is not None:
        with suppress(OSError):
            system_call(number, _JOIN_SESSION_KEYRING, None)


def forbid_tracing() -> None:
    """Keep other processes of this user from tracing this one, and from reading its memory and environment."""
    process_control(PR_SET_DUMPABLE, 0)

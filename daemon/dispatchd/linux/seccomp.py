"""Filter for system calls that reach other processes of the same user, and that no wall around files blocks.

Changing limits, priorities and scheduling is allowed for the calling process (target 0) and denied for a target that is
named. Keys of the user's keyring are out of reach. So are new user namespaces, in which a process has every capability, and
with them parts of the kernel that were written for root. All else is allowed. Facts from seccomp(2), the headers
linux/seccomp.h, linux/filter.h and linux/audit.h, and each architecture's table of system calls.
"""

import ctypes
import errno
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from dispatchd.linux.kernel import (
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    process_control,
)

_MODE_FILTER: Final = 2

_LOAD: Final = 0x20
"""BPF_LD | BPF_W | BPF_ABS."""
_IF_EQUAL: Final = 0x15
"""BPF_JMP | BPF_JEQ | BPF_K."""
_IF_AT_LEAST: Final = 0x35
"""BPF_JMP | BPF_JGE | BPF_K."""
_IF_ANY_BIT: Final = 0x45
"""BPF_JMP | BPF_JSET | BPF_K."""
_RETURN: Final = 0x06
"""BPF_RET | BPF_K."""

_ALLOW: Final = 0x7FFF0000
_FAIL: Final = 0x00050000
"""SECCOMP_RET_ERRNO; the error's number is added."""

_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST_ARGUMENT: Final = 16
"""Offset of the first argument in `struct seccomp_data` (bytes). Arguments have 8; a pid is in their lower half."""

_X32: Final = 0x40000000
"""Bit of the numbers of the x32 interface, which shares its architecture with x86-64."""

_INSTRUCTION: Final = struct.Struct("=HBBI")

_SELF: Final = 0


class Target(NamedTuple):
    """System call that names its target in an argument. Another argument may be the kind of target."""

    argument: int
    kind_argument: int = -1
    whole_user: int = -1
    """Kind that means every process of the user. It is refused, whatever the target."""


class Flags(NamedTuple):
    """A call that is refused some flags in its first argument."""

    refused: int


_NEW_USER: Final = Flags(0x10000000)
"""CLONE_NEWUSER of linux/sched.h."""

CALLS: Final[Mapping[str, Target | Flags | int]] = {
    "prlimit64": Target(0),
    "sched_setparam": Target(0),
    "sched_setscheduler": Target(0),
    "sched_setaffinity": Target(0),
    "sched_setattr": Target(0),
    # PRIO_USER of sys/resource.h.
    "setpriority": Target(1, kind_argument=0, whole_user=2),
    # IOPRIO_WHO_USER of linux/ioprio.h.
    "ioprio_set": Target(1, kind_argument=0, whole_user=3),
    "add_key": errno.EPERM,
    "request_key": errno.EPERM,
    "keyctl": errno.EPERM,
    "clone": _NEW_USER,
    "unshare": _NEW_USER,
    # Its flags are in memory, where no filter can look: without it, programs use `clone`.
    "clone3": errno.ENOSYS,
}
"""Filtered calls with their targets; a call with a number always fails with that error."""

_ORDER: Final = tuple(CALLS)

_X86_64: Final = (302, 142, 144, 203, 314, 141, 251, 248, 249, 250, 56, 272, 435)
_I386: Final = (340, 154, 156, 241, 351, 97, 289, 286, 287, 288, 120, 310, 435)
_GENERIC: Final = (261, 118, 119, 122, 274, 140, 30, 217, 218, 219, 220, 97, 435)
_ARM: Final = (369, 154, 156, 241, 380, 97, 314, 309, 310, 311, 120, 337, 435)
"""Numbers of the calls, in their order."""

_NUMBERS: Final[Mapping[str, Mapping[int, tuple[int, ...]]]] = {
    "x86_64": {0xC000003E: _X86_64, 0x40000003: _I386},
    "aarch64": {0xC00000B7: _GENERIC, 0x40000028: _ARM},
    "riscv64": {0xC00000F3: _GENERIC},
}
"""Numbers of the calls by machine (uname(2)) and architecture (AUDIT_ARCH_*); a process may mix architectures."""


def program(machine: str) -> bytes:
    """Return the filter for a machine, as BPF instructions; empty where its numbers aren't known."""
    sections = _NUMBERS.get(machine)
    if sections is None:
        return b""
    code = _INSTRUCTION.pack(_LOAD, 0, 0, _ARCHITECTURE)
    for architecture, numbers in sections.items():
        section = _section(numbers, has_x32=architecture == 0xC000003E)  # noqa: PLR2004
        length = len(section) // _INSTRUCTION.size
        code += _INSTRUCTION.pack(_IF_EQUAL, 0, length, architecture) + section
    return code + _fail(errno.ENOSYS)


class Filter:
    """Filter that is laid out once and installed by many processes."""

    def __init__(self, code: bytes) -> None:
        self._instructions = ctypes.create_string_buffer(code, len(code))
        count = len(code) // _INSTRUCTION.size
        # `struct sock_fprog`: the number of instructions, and their address.
        self._head = struct.pack("@HP", count, ctypes.addressof(self._instructions))

    def install(self) -> None:
        """Filter the calls of this process and its children from now on, for good.

        Raises:
            OSError: The kernel refuses.
        """
        process_control(PR_SET_NO_NEW_PRIVS, 1)
        process_control(PR_SET_SECCOMP, _MODE_FILTER, self._head)


def _section(numbers: tuple[int, ...], *, has_x32: bool) -> bytes:
    code = _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER)
    if has_x32:
        code += _INSTRUCTION.pack(_IF_AT_LEAST, 0, 1, _X32) + _fail(errno.ENOSYS)
    for name, number in zip(_ORDER, numbers, strict=True):
        block = _block(CALLS[name])
        length = len(block) // _INSTRUCTION.size
        code += _INSTRUCTION.pack(_IF_EQUAL, 0, length, number) + block
    return code + _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW)


def _block(held: Target | Flags | int) -> bytes:
    """Return the instructions that decide on one call; all of their paths return."""
    refuse = _fail(errno.EPERM)
    allow = _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW)
    if isinstance(held, int):
        return _fail(held)
    if isinstance(held, Flags):
        has_any = _INSTRUCTION.pack(_IF_ANY_BIT, 1, 0, held.refused)
        return _load_argument(0) + has_any + allow + refuse
    code = b""
    if held.kind_argument >= 0:
        # A match jumps over the three instructions that check the target, to the refusal.
        code += _load_argument(held.kind_argument)
        code += _INSTRUCTION.pack(_IF_EQUAL, 3, 0, held.whole_user)
    code += _load_argument(held.argument)
    code += _INSTRUCTION.pack(_IF_EQUAL, 0, 1, _SELF)
    return code + allow + refuse


def _load_argument(index: int) -> bytes:
    return _INSTRUCTION.pack(_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * index)


def _fail(number: int) -> bytes:
    return _INSTRUCTION.pack(_RETURN, 0, 0, _FAIL | number)

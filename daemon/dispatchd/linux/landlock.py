"""Wall of the kernel around this process and its children: files within reach, and processes that may be signalled.

Facts from landlock(7), landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2) and the kernel's
userspace-api/landlock.rst. Numbers of system calls are the same on every architecture but Alpha. Everything that no
rule allows is denied. A wall can be made narrower later, never wider.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterable
from enum import IntFlag
from typing import Final, NamedTuple

from dispatchd.linux.kernel import (
    PR_SET_NO_NEW_PRIVS,
    Kernel,
    process_control,
    system_call,
)

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446

_VERSION: Final = 1
"""LANDLOCK_CREATE_RULESET_VERSION: returns the version instead of a ruleset."""

_PATH_BENEATH: Final = 1
"""LANDLOCK_RULE_PATH_BENEATH: a rule about a file, or a folder and all below it."""


class Access(IntFlag):
    """Rights on a file or folder (LANDLOCK_ACCESS_FS_*)."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class Scope(IntFlag):
    """Ways to processes outside of the wall (LANDLOCK_SCOPE_*)."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


READ: Final = Access.EXECUTE | Access.READ_FILE | Access.READ_DIR
"""Right to read and execute."""

DEVICE: Final = (
    Access.READ_FILE | Access.WRITE_FILE | Access.IOCTL_DEV | Access.TRUNCATE
)
"""Right to use an existing file, such as a device."""

WRITE: Final = (
    READ | DEVICE | (Access(1 << 15) - 1) & ~Access.MAKE_CHAR & ~Access.MAKE_BLOCK
)
"""Every right but that to make devices."""

_OF_FILES: Final = Access.EXECUTE | DEVICE
"""Rights that apply to a file that is no folder; the kernel refuses a rule with more."""

_ADDED: Final = (
    (1, Access(Access.REFER - 1), Scope(0)),
    (2, Access.REFER, Scope(0)),
    (3, Access.TRUNCATE, Scope(0)),
    (5, Access.IOCTL_DEV, Scope(0)),
    (6, Access(0), Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL),
)
"""Rights and scopes by the version of the interface (ABI) that added them."""

_SIZES: Final = ((6, 24), (4, 16), (1, 8))
"""Sizes of `struct landlock_ruleset_attr` (bytes), by the first version with that size. Its second number, networks,
stays 0."""


_NOWHERE: Final = (0, 0)
"""Identity of a file that can't be reached."""


class Rule(NamedTuple):
    """Rights on a file, or on a folder and all below it."""

    path: str
    access: int
    is_real: bool = False
    """True if a path with a link in it is another one than was meant: it gets no opening."""


class Able(NamedTuple):
    """Abilities of a kernel; none where `abi` is 0."""

    abi: int
    access: Access = Access(0)
    scope: Scope = Scope(0)

    @property
    def gaps(self) -> tuple[str, ...]:
        """Gaps in a wall of this kernel, in words."""
        if not self.abi:
            return ()
        missing = []
        if not self.access & Access.TRUNCATE:
            missing.append("truncating files (Linux 6.2)")
        if not self.scope & Scope.SIGNAL:
            missing.append("signals and abstract sockets (Linux 6.12)")
        return tuple(missing)


def able(call: Kernel = system_call) -> Able:
    """Return the abilities of this kernel.

    Raises:
        OSError: The kernel refuses to answer, for an unknown reason.
    """
    try:
        abi = call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError as error:
        # Not built in, turned off at the start of the kernel, or refused by a filter around this process.
        if error.errno not in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
            raise
        return Able(0)
    access, scope = Access(0), Scope(0)
    for since, more, scopes in _ADDED:
        if abi >= since:
            access |= more
            scope |= scopes
    return Able(abi, access, scope)


def build(rules: Iterable[Rule], wall: Able, call: Kernel = system_call) -> int:
    """Return the descriptor of a wall with openings. The caller closes it. A missing path gets no opening.

    Raises:
        OSError: The kernel refuses.
    """
    return _built(rules, wall, call)[0]


def _built(
    rules: Iterable[Rule], wall: Able, call: Kernel
) -> tuple[int, list[tuple[int, int]]]:
    """Return the descriptor of a wall with openings, and the identities of the files that it opens.

    Raises:
        OSError: The kernel refuses.
    """
    ruleset = _create(wall, call)
    try:
        return ruleset, _allow(ruleset, rules, wall, call)
    except BaseException:
        os.close(ruleset)
        raise


class Builder:
    """Builder of walls for a process that needs many: it prepares what two in a row have in common for the next one."""

    def __init__(self, wall: Able) -> None:
        self._wall = wall
        self._last: list[Rule] = []
        self._common: list[Rule] = []
        self._identities: list[tuple[int, int]] = []
        self._prepared = -1

    def build(self, rules: list[Rule]) -> int:
        """Return the descriptor of a wall with openings. The caller closes it.

        Raises:
            OSError: The kernel refuses.
        """
        common, ruleset = self._common, self._prepared
        self._prepared = -1
        if ruleset >= 0 and not self._is_usable(rules):
            os.close(ruleset)
            ruleset = -1
        if ruleset < 0:
            common, ruleset = [], _create(self._wall, system_call)
        self._common = _common_start(self._last, rules)
        self._last = rules
        try:
            _allow(ruleset, rules[len(common) :], self._wall, system_call)
        except BaseException:
            os.close(ruleset)
            raise
        return ruleset

    @property
    def is_prepared(self) -> bool:
        """True if `prepare` has nothing to do."""
        return self._prepared >= 0 or not self._common

    def prepare(self) -> None:
        """Build what the last two walls had in common, after a wall has been used. Without it, `build` takes longer."""
        if self.is_prepared:
            return
        try:
            self._prepared, self._identities = _built(
                self._common, self._wall, system_call
            )
        except OSError:
            self._common = []

    def _is_usable(self, rules: list[Rule]) -> bool:
        """Return whether the prepared wall fits: its openings are wanted, and its paths are still the same files."""
        return rules[: len(self._common)] == self._common and all(
            map(_is_still, self._common, self._identities)
        )


def _common_start(some: list[Rule], others: list[Rule]) -> list[Rule]:
    """Return the rules that two lists begin with alike."""
    common = []
    for one, other in zip(some, others, strict=False):
        if one != other:
            break
        common.append(one)
    return common


def _is_still(rule: Rule, identity: tuple[int, int]) -> bool:
    """Return whether a rule's path leads to the file with an identity, or still to none that can be reached."""
    try:
        # A link in the place of a real path is another file.
        status = os.stat(rule.path, follow_symlinks=not rule.is_real)  # noqa: PTH116  # no pathlib in here
    except OSError:
        return identity == _NOWHERE
    return (status.st_dev, status.st_ino) == identity


def _create(wall: Able, call: Kernel) -> int:
    size = next(size for since, size in _SIZES if wall.abi >= since)
    attributes = struct.pack("=QQQ", wall.access, 0, wall.scope)[:size]
    return call(_CREATE_RULESET, attributes, size, 0)


def _allow(
    ruleset: int, rules: Iterable[Rule], wall: Able, call: Kernel
) -> list[tuple[int, int]]:
    """Add rules to a wall, and return the identities of their files.

    Raises:
        OSError: The kernel refuses.
    """
    # Plain numbers: arithmetic of flags would take most of the time.
    handled, of_files = int(wall.access), int(_OF_FILES)
    identities = []
    for rule in rules:
        accesses = (rule.access & handled, rule.access & handled & of_files)
        identities.append(_open(ruleset, rule, accesses, call))
    return identities


def _open(
    ruleset: int, rule: Rule, accesses: tuple[int, int], call: Kernel
) -> tuple[int, int]:
    """Add a rule for a folder or a file, and return its identity (device and inode; zeros without a rule).

    A path that is missing, or can't be reached, gets no rule.

    Raises:
        OSError: The kernel refuses.
    """
    try:
        fd = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP}:
            return _NOWHERE
        raise
    try:
        # As openat2(2) with RESOLVE_NO_SYMLINKS, which filters of containers may refuse.
        if rule.is_real and os.readlink(f"/proc/self/fd/{fd}") != rule.path:  # noqa: PTH115  # no pathlib in here
            return _NOWHERE
        status = os.fstat(fd)
        access = accesses[0 if stat.S_ISDIR(status.st_mode) else 1]
        if access:
            beneath = struct.pack("=Qi", access, fd)
            call(_ADD_RULE, ruleset, _PATH_BENEATH, beneath, 0)
        return status.st_dev, status.st_ino
    finally:
        os.close(fd)


def enter(ruleset: int, call: Kernel = system_call) -> None:
    """Put this process behind a wall for good. Programs that it executes can't gain privileges any more.

    Only for a process with a single thread: others would stay outside.

    Raises:
        OSError: The kernel refuses.
    """
    process_control(PR_SET_NO_NEW_PRIVS, 1)
    call(_RESTRICT_SELF, ruleset, 0)

"""Walls by Landlock: what each version of the kernel's interface is asked for, on a kernel that only listens."""

import errno
import os
import struct
from pathlib import Path

import pytest
from attrs import define, field

from dispatchd.linux.landlock import (
    DEVICE,
    READ,
    WRITE,
    Able,
    Access,
    Rule,
    Scope,
    able,
    build,
)

FIRST = 0x1FFF
"""All accesses of version 1 (landlock_create_ruleset(2))."""


@define
class Listening:
    """A kernel with some version of Landlock; keeps what it was asked."""

    version: int = 0
    refusal: int = 0
    sizes: list[int] = field(factory=list)
    attributes: list[bytes] = field(factory=list)
    accesses: list[int] = field(factory=list)

    def __call__(self, number: int, *arguments: int | bytes | None) -> int:
        if self.refusal:
            raise OSError(self.refusal, "refused")
        if number == 444 and arguments == (None, 0, 1):
            return self.version
        if number == 444:
            attributes, size, _ = arguments
            assert isinstance(attributes, bytes)
            assert isinstance(size, int)
            self.attributes.append(attributes)
            self.sizes.append(size)
            return os.open(os.devnull, os.O_RDONLY)
        assert number == 445
        _, kind, beneath, _ = arguments
        assert kind == 1
        assert isinstance(beneath, bytes)
        self.accesses.append(struct.unpack("=Qi", beneath)[0])
        return 0


@pytest.mark.parametrize(
    ("version", "access", "scope", "size"),
    [
        (1, FIRST, 0, 8),
        (2, FIRST | Access.REFER, 0, 8),
        (3, FIRST | Access.REFER | Access.TRUNCATE, 0, 8),
        (4, FIRST | Access.REFER | Access.TRUNCATE, 0, 16),
        (5, 0xFFFF, 0, 16),
        (6, 0xFFFF, 3, 24),
        (7, 0xFFFF, 3, 24),
        (99, 0xFFFF, 3, 24),
    ],
)
def test_a_kernel_is_asked_for_what_its_version_can_hold(
    version: int, access: int, scope: int, size: int
) -> None:
    kernel = Listening(version)

    wall = able(kernel)
    os.close(build([], wall, kernel))

    assert (wall.access, wall.scope) == (access, scope)
    assert kernel.sizes == [size]
    assert kernel.attributes == [struct.pack("=QQQ", access, 0, scope)[:size]]


@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_a_kernel_without_it_holds_nothing(refusal: int) -> None:
    assert able(Listening(refusal=refusal)) == Able(0)
    assert able(Listening(version=0)) == Able(0)


def test_another_refusal_is_no_answer() -> None:
    with pytest.raises(OSError, match="refused"):
        able(Listening(refusal=errno.EFAULT))


def test_what_stays_open_is_named() -> None:
    gaps = {version: able(Listening(version)).gaps for version in range(8)}

    assert gaps[0] == ()
    assert len(gaps[1]) == len(gaps[2]) == 2
    assert len(gaps[3]) == len(gaps[5]) == 1
    assert gaps[6] == gaps[7] == ()


def test_a_rule_asks_for_no_more_than_the_version_and_the_kind_of_file_allow(
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    file.touch()
    kernel = Listening(2)
    rules = [
        Rule(str(tmp_path), WRITE),
        Rule(str(file), WRITE),
        Rule(str(file), READ),
        Rule("/dev/null", DEVICE),
        Rule(str(tmp_path / "missing"), WRITE),
        Rule(str(file / "below"), WRITE),
    ]

    os.close(build(rules, able(kernel), kernel))

    devices = Access.MAKE_CHAR | Access.MAKE_BLOCK
    use = Access.READ_FILE | Access.WRITE_FILE
    assert kernel.accesses == [
        FIRST & ~devices | Access.REFER,
        use | Access.EXECUTE,
        Access.READ_FILE | Access.EXECUTE,
        use,
    ]


def test_nothing_stays_open_when_the_kernel_refuses_a_rule(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    kernel = Listening(7)

    def refusing(number: int, *arguments: int | bytes | None) -> int:
        if number == 445:
            raise OSError(errno.E2BIG, "too many")
        return kernel(number, *arguments)

    with pytest.raises(OSError, match="too many"):
        build([Rule(str(tmp_path), READ)], able(kernel), refusing)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_scopes_are_those_of_signals_and_abstract_sockets() -> None:
    assert int(Scope.ABSTRACT_UNIX_SOCKET) == 1
    assert int(Scope.SIGNAL) == 2

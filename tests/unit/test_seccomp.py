"""The filter of system calls: each instruction is carried out here, for every architecture that it knows."""

import errno
import struct

import pytest

from dispatchd.linux.seccomp import CALLS, program

ALLOWED = 0x7FFF0000
X86_64, I386, AARCH64, ARM, RISCV64 = (
    0xC000003E,
    0x40000003,
    0xC00000B7,
    0x40000028,
    0xC00000F3,
)


def outcome(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Return what a filter says of a call: the machine of seccomp(2), as far as it is used."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", code))
    at, loaded = 0, 0
    while True:
        operation, when_true, when_false, value = steps[at]
        at += 1
        match operation:
            case 0x20:
                [loaded] = struct.unpack_from("=I", data, value)
            case 0x15:
                at += when_true if loaded == value else when_false
            case 0x35:
                at += when_true if loaded >= value else when_false
            case 0x45:
                at += when_true if loaded & value else when_false
            case 0x06:
                return int(value)
            case _:
                pytest.fail(f"unknown operation {operation:#x}")


REFUSED = 0x00050000 | errno.EPERM
UNKNOWN = 0x00050000 | errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "architecture", "prlimit64", "setpriority", "ioprio_set", "keyctl"),
    [
        ("x86_64", X86_64, 302, 141, 251, 250),
        ("x86_64", I386, 340, 97, 289, 288),
        ("aarch64", AARCH64, 261, 140, 30, 219),
        ("aarch64", ARM, 369, 97, 314, 311),
        ("riscv64", RISCV64, 261, 140, 30, 219),
    ],
)
def test_only_the_calling_process_is_a_target(
    machine: str,
    architecture: int,
    prlimit64: int,
    setpriority: int,
    ioprio_set: int,
    keyctl: int,
) -> None:
    code = program(machine)

    def says(number: int, *arguments: int) -> int:
        return outcome(code, architecture, number, *arguments)

    assert says(prlimit64, 0, 7) == ALLOWED
    assert says(prlimit64, 42, 7) == REFUSED
    # PRIO_PROCESS and PRIO_PGRP of oneself, and PRIO_USER, which is everybody.
    assert says(setpriority, 0, 0) == ALLOWED
    assert says(setpriority, 1, 0) == ALLOWED
    assert says(setpriority, 0, 42) == REFUSED
    assert says(setpriority, 2, 0) == REFUSED
    # IOPRIO_WHO_PROCESS, IOPRIO_WHO_USER.
    assert says(ioprio_set, 1, 0) == ALLOWED
    assert says(ioprio_set, 1, 42) == REFUSED
    assert says(ioprio_set, 3, 0) == REFUSED
    assert says(keyctl, 0) == REFUSED
    for number in (0, 1, 59, 64, 400, 436):
        assert says(number, 42, 42) == ALLOWED


def test_the_other_interfaces_of_a_machine_are_no_way_around() -> None:
    code = program("x86_64")

    # x32, and an architecture that this machine doesn't have.
    assert outcome(code, X86_64, 0x40000000 | 302, 42) == UNKNOWN
    assert outcome(code, AARCH64, 261, 42) == UNKNOWN


def test_every_call_is_refused_to_a_target_of_its_own_number() -> None:
    code = program("x86_64")
    numbers = (302, 142, 144, 203, 314, 141, 251, 248, 249, 250, 56, 272)

    said = [outcome(code, X86_64, number, 0x10000000 | 42, 42) for number in numbers]

    assert said == [REFUSED] * (len(CALLS) - 1)


@pytest.mark.parametrize(
    ("machine", "architecture", "clone", "unshare"),
    [
        ("x86_64", X86_64, 56, 272),
        ("x86_64", I386, 120, 310),
        ("aarch64", AARCH64, 220, 97),
        ("aarch64", ARM, 120, 337),
        ("riscv64", RISCV64, 220, 97),
    ],
)
def test_no_user_namespace_can_be_made_and_all_else_can(
    machine: str, architecture: int, clone: int, unshare: int
) -> None:
    code = program(machine)
    new_user, thread, new_files = 0x10000000, 0x3D0F00, 0x00020000

    for number in (clone, unshare):
        assert outcome(code, architecture, number, new_user) == REFUSED
        assert outcome(code, architecture, number, new_user | new_files) == REFUSED
        assert outcome(code, architecture, number, thread) == ALLOWED
        assert outcome(code, architecture, number, new_files) == ALLOWED
    # Its flags can't be seen; programs fall back to `clone`.
    assert outcome(code, architecture, 435, 0) == UNKNOWN


def test_an_unknown_machine_has_no_filter() -> None:
    assert program("pdp11") == b""

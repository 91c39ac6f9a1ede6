"""Which connection goes when there are too many, or when one takes too long."""

import pytest
from attrs import define, field

from dispatchd.hub.connections.table import (
    Connection,
    Connections,
    Stage,
    address_of,
)

KIB = 1024


@define
class Clock:
    now: float = 0.0


@define
class Table:
    """A table and who was cut off, by name."""

    most: int = 3
    silent_per_address: int = 0
    clock: Clock = field(factory=Clock)
    ended: list[str] = field(factory=list)
    table: Connections = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.table = Connections(
            self.most, self.silent_per_address, lambda: self.clock.now
        )

    def admit(self, name: str, host: str = "192.0.2.1") -> Connection | None:
        self.clock.now += 0.001
        return self.table.admit(host, lambda: self.ended.append(name))

    def admitted(self, name: str, host: str = "192.0.2.1") -> Connection:
        found = self.admit(name, host)
        assert found is not None
        return found

    def after(self, seconds: float) -> list[str]:
        self.clock.now += seconds
        self.table.sweep()
        return self.ended


def test_the_one_that_was_silent_for_longest_goes_for_a_new_one() -> None:
    table = Table()
    first, _, third = [table.admitted(each) for each in "abc"]
    table.table.move(first, Stage.ANSWER)

    assert table.admit("d")
    table.table.move(third, Stage.ANSWER)
    table.table.move(third, Stage.READER)
    assert table.admit("e")

    assert table.ended == ["b", "d"]
    assert len(table.table) == 3


def test_a_flood_of_one_kind_takes_no_connection_of_the_other() -> None:
    table = Table(most=6)
    known = [table.admitted(each) for each in "ab"]
    for each in known:
        table.table.move(each, Stage.ANSWER)
        table.table.move(each, Stage.IDLE)
    for number in range(9):
        table.admit(f"silent {number}")
    assert table.ended == [f"silent {number}" for number in range(5)]

    table = Table(most=6)
    for number in range(6):
        table.table.move(table.admitted(f"idle {number}"), Stage.IDLE)
    for _ in range(3):
        table.admit("new")
    assert table.ended == [f"idle {number}" for number in range(3)]


def test_nobody_who_is_being_answered_goes_for_another_one() -> None:
    table = Table()
    answered = [table.admitted(each) for each in "abc"]
    for each in answered:
        table.table.move(each, Stage.ANSWER)

    assert table.admit("d") is None
    assert table.ended == []
    table.table.remove(answered[0])
    assert table.admit("e")


def test_an_address_has_so_many_silent_ones_and_any_number_that_are_answered() -> None:
    table = Table(most=100, silent_per_address=2)
    for number in range(9):
        table.table.move(table.admitted(f"proxy {number}"), Stage.ANSWER)
    table.admit("other", "192.0.2.2")
    three = [table.admitted(each) for each in "abc"]

    assert table.ended == ["a"]
    table.table.move(three[1], Stage.ANSWER)
    table.admit("d")
    assert table.ended == ["a"]
    # Between two requests any number may be: a fleet behind one address has so many.
    table.table.move(three[1], Stage.IDLE)
    assert table.ended == ["a"]
    table.table.move(three[1], Stage.HEAD)
    assert table.ended == ["a", "c"]


@pytest.mark.parametrize(
    ("stage", "size", "in_time_s"),
    [
        (Stage.HEAD, 9, 10),
        (Stage.BODY, 64 * KIB, 30),
        (Stage.BODY, 16 * KIB * 60, 60),
        (Stage.READER, 16 * KIB, 30),
        (Stage.READER, 32 * KIB * KIB, 2048),
        (Stage.DROPPING, KIB, 30),
        (Stage.IDLE, 0, 80),
    ],
)
def test_each_stage_has_its_time(stage: Stage, size: int, in_time_s: float) -> None:
    table = Table()
    connection = table.admitted("a")
    table.table.move(connection, Stage.ANSWER)
    assert table.after(10_000) == []
    table.table.move(connection, stage)
    connection.size = size

    assert table.after(in_time_s) == []
    assert table.after(0.1) == ["a"]
    assert len(table.table) == 0


def test_no_more_than_so_much_is_dropped_of_a_body() -> None:
    table = Table()
    connection = table.admitted("a")
    table.table.move(connection, Stage.ANSWER)
    table.table.move(connection, Stage.DROPPING)
    connection.size = 65 * KIB * KIB

    assert table.after(0.1) == ["a"]


def test_a_head_that_comes_byte_by_byte_has_no_more_time() -> None:
    table = Table()
    connection = table.admitted("a")
    for _ in range(9):
        table.clock.now += 1
        connection.size += 1
        table.table.move(connection, Stage.HEAD)

    assert table.after(1.5) == ["a"]


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_an_address_of_ipv6_is_counted_by_its_network(host: str, counted: str) -> None:
    assert address_of(host) == counted

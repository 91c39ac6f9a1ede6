"""When an installation may be told something, by a clock that the test sets."""

from itertools import pairwise

from attrs import define

from dispatchd.hub.github.api.pacing import Gates


@define
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def writes_within(gates: Gates, clock: Clock, seconds: float) -> list[float]:
    """Write whenever it is allowed; return when that was."""
    made, end = [], clock.now + seconds
    while clock.now < end:
        if gates.is_open(1):
            gates.spend(1)
            made.append(clock.now)
        clock.now += 0.1
    return made


def test_no_minute_has_more_writes_than_the_limit_and_a_small_burst() -> None:
    clock = Clock()
    gates = Gates(clock, 60)

    made = writes_within(gates, clock, 600)

    for start in range(1000, 1540):
        assert sum(start <= at < start + 60 for at in made) <= 60 + 5
    assert 595 <= len(made) <= 606


def test_writes_are_spaced_evenly_after_a_small_burst() -> None:
    clock = Clock()
    gates = Gates(clock, 60)

    made = writes_within(gates, clock, 30)

    assert made[4] - made[0] < 1
    gaps = [later - at for at, later in pairwise(made[5:])]
    assert all(0.85 < gap < 1.15 for gap in gaps)


def test_what_is_spent_beyond_the_limit_is_made_up_for() -> None:
    clock = Clock()
    gates = Gates(clock, 60)

    for _ in range(30):
        gates.spend(1)

    assert 25 < gates.closed()[1] < 27


def test_a_limit_closes_one_installation_and_no_other() -> None:
    clock = Clock()
    gates = Gates(clock, 60)

    gates.limit(1, 30)
    gates.limit(1, 10)

    assert not gates.is_open(1)
    assert gates.is_open(2)
    assert gates.closed() == {1: 30.0}
    clock.now += 30
    assert gates.is_open(1)
    assert gates.closed() == {}

"""How far the clock is from the endpoint's, where an answer takes its time."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from dispatchd.agent.endpoint.clock_skew import Reading, Skew

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def at(seconds: float, *, set_by: float = 0) -> Reading:
    """Return what the clocks show some seconds after noon; `set_by` is how far the wall clock was set meanwhile."""
    return Reading(NOON + timedelta(seconds=seconds + set_by), 5_000 + seconds)


def seen(date_s: float, asked: Reading, heard: Reading) -> Skew:
    skew = Skew()
    date = format_datetime(NOON + timedelta(seconds=date_s), usegmt=True)
    skew.see({"date": date}, asked, heard)
    return skew


@pytest.mark.parametrize("date_s", [0, 1, 25, 50, 51])
def test_an_answer_may_be_dated_whenever_it_was_on_its_way(date_s: float) -> None:
    skew = seen(date_s, at(0), at(51))

    assert skew.seconds == 0
    assert skew.message == ""


def test_a_poll_that_is_held_for_minutes_makes_no_clock_wrong() -> None:
    assert seen(0, at(0.4), at(600)).message == ""


@pytest.mark.parametrize(
    ("date_s", "seconds", "words"),
    [
        (-3600, 3600, "1 h ahead of"),
        (-61, 61, "1 min 1 s ahead of"),
        (-5, 5, ""),
        (-0.9, 0, ""),
        (50 + 3600, -3600, "1 h behind"),
        (53, -3, ""),
    ],
)
def test_what_lies_beyond_is_a_difference_of_at_least_that(
    date_s: float, seconds: float, words: str
) -> None:
    skew = seen(date_s, at(0), at(50))

    assert skew.seconds == pytest.approx(seconds, abs=1)
    assert (words in skew.message) if words else not skew.message


@pytest.mark.parametrize("set_by", [-7200, 7200])
def test_a_clock_that_is_set_while_a_poll_is_held_is_not_called_wrong_for_that(
    set_by: float,
) -> None:
    # Right by now: the answer's date is that of the beginning, or that of the end.
    for date_s in (0, 50):
        dated = seen(date_s, at(0, set_by=-set_by), at(50))
        assert dated.message == "", date_s


def test_a_machine_that_slept_while_a_poll_was_held_has_the_right_time() -> None:
    # The clock that only grows has stood still meanwhile.
    heard = Reading(NOON + timedelta(hours=8), 5_010)

    assert seen(0, at(0), heard).message == ""


def test_a_later_answer_replaces_an_earlier_one() -> None:
    skew = seen(-3600, at(0), at(1))
    date = format_datetime(NOON + timedelta(seconds=60), usegmt=True)
    skew.see({"date": date}, at(60), at(60.1))

    assert skew.seconds == 0
    skew.see({}, at(70), at(71))
    assert skew.seconds == 0

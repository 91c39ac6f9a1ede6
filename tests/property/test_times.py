"""Durations and points in time as texts: whatever the value, a text comes out, and what a person writes is read."""

import math
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.protocol.times import (
    ago,
    duration,
    iso,
    parse_duration,
    parse_time,
    rough,
    size,
    utc,
)

ANY_NUMBER = st.one_of(st.floats(), st.integers())
DAYS_S = 86_400.0

ONE = r"\d+(\.\d)? (d|h|min|s)"


@given(seconds=ANY_NUMBER)
def test_every_number_has_its_texts(seconds: float) -> None:
    assert re.fullmatch(rf"{ONE}( {ONE})?", duration(seconds))
    assert re.fullmatch(r"\d+ (d|h|min|s)", rough(seconds))
    assert re.fullmatch(rf"in {ONE}|{ONE} ago", ago(seconds))


UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@given(count=st.integers(-1, 2**53))
def test_a_size_says_a_tenth_too_little_at_most(count: int) -> None:
    number, unit = size(count).split(" ")

    assert re.fullmatch(r"\d\.\d|\d+", number)
    assert 0 <= count - float(number) * UNITS[unit] <= count / 10 or count < 1
    assert float(number) < 1024 or unit == "TiB"
    assert size(-1) == "0 B"


@given(seconds=st.floats(min_value=0, max_value=1e10))
def test_a_duration_is_read_again_within_its_smaller_unit(seconds: float) -> None:
    smallest = (
        0.051
        if seconds < 9.95
        else 0.51
        if seconds < 3599.5
        else 61
        if seconds < DAYS_S
        else 3601
    )

    assert abs(parse_duration(duration(seconds)) - seconds) <= smallest


@given(seconds=st.floats(min_value=0, max_value=1e10))
def test_a_rough_duration_never_says_too_much(seconds: float) -> None:
    assert seconds / 2 - 1 < parse_duration(rough(seconds)) <= seconds


@given(seconds=st.floats(min_value=0, max_value=1e10))
def test_what_is_written_twice_is_written_the_same(seconds: float) -> None:
    written = duration(seconds)

    assert duration(parse_duration(written)) == written


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (0.26, "0.3 s"),
        (3.0, "3 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (677, "11 min 17 s"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
        (DAYS_S + 5, "1 d"),
        (45 * DAYS_S + 3600, "45 d 1 h"),
        (-3, "0 s"),
        (math.nan, "0 s"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_distance_says_on_which_side_it_is() -> None:
    assert ago(None) == "never"
    assert ago(200) == "3 min ago"
    assert ago(-33 * DAYS_S - 7) == "in 33 d"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("10 min", 600),
        ("2h", 7200),
        ("1.5h", 5400),
        ("0.25s", 0.25),
        ("1d", DAYS_S),
        ("2h5m", 7500),
        ("2 h 5 min", 7500),
        (" 1d ", DAYS_S),
    ],
)
def test_what_a_person_writes_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "h", "-5s", "5m2h", "1e3", "nan", "inf", "٣s", "1,5h", "5 s s"),
        *("9d9d", "999999999d", "9" * 400),
    ],
)
def test_another_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration such as"):
        parse_duration(text)


@given(text=st.text(alphabet="0123456789. smhdin", max_size=20))
def test_what_is_read_is_a_number_of_seconds(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < math.inf


@given(
    at=st.datetimes(
        timezones=st.sampled_from(
            [UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))]
        )
    )
)
def test_a_point_in_time_is_written_in_utc(at: datetime) -> None:
    read = parse_time(iso(at))

    assert read is not None
    # A zone may move it over the end of the calendar, and a float rounds it up to the next second.
    assert abs(read - at.timestamp()) <= 1 or abs(at.year - 5000) > 4990
    assert utc(at) == iso(at).replace("T", " ").replace("Z", " UTC")


@given(at=ANY_NUMBER)
def test_every_number_is_a_point_in_time(at: float) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", iso(at))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", utc(at))


@given(text=st.text(max_size=40))
def test_a_text_is_a_point_in_time_or_none(text: str) -> None:
    assert isinstance(parse_time(text), float | None)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T01:01:00+01:00", 60),
        ("1970-01-01T00:01:00", 60),
        ("0001-01-01T00:00:00+01:00", -62_135_596_800 - 3600),
        ("soon", None),
    ],
)
def test_a_time_without_a_zone_is_in_utc(text: str, at: float | None) -> None:
    assert parse_time(text) == at

"""Due times of any schedule, and runs under a clock that is set at will."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from dispatchd.hub.domain.schedules.plan import Plan, cron_problem, zone_problem
from dispatchd.hub.domain.schedules.progress import (
    SET_BACK_S,
    Progress,
    due_now,
    fired,
    is_right_again,
    right_again,
    set_back,
    was_set_back,
)

DAY_S = 86_400
ZONES = st.sampled_from(
    [
        *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"),
        *("Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca"),
    ]
)
WITH_CHANGES_AT_MIDNIGHT = st.one_of(ZONES, st.just("America/Santiago"))
"""There `*/30 0 * * SUN` is due at a midnight that is missing, or not, as one looks from before that day or from within."""
TIMES = st.integers(1_735_689_600, 1_830_297_600).map(float)
"""Of the years 2025 to 2027, with their changes of summer time."""
MINUTES = st.lists(st.integers(0, 59), min_size=1, max_size=3, unique=True)
HOURS = st.lists(st.integers(0, 23), min_size=1, max_size=3, unique=True)


def listed(values: list[int]) -> str:
    return ",".join(map(str, values))


STARS = st.sampled_from(["*", "*/7", "*/30"])
CRONS = st.builds(
    "{} {} * * {}".format,
    st.one_of(STARS, MINUTES.map(listed)),
    st.one_of(STARS, HOURS.map(listed)),
    st.sampled_from(["*", "1-5", "SUN", "6"]),
)


@given(minutes=MINUTES, hours=HOURS, start=TIMES)
def test_in_utc_the_due_minutes_are_those_that_match(
    minutes: list[int], hours: list[int], start: float
) -> None:
    plan = Plan(cron=f"{listed(minutes)} {listed(hours)} * * *", timezone="UTC")
    first = datetime.fromtimestamp(start, UTC).replace(second=0) + timedelta(minutes=1)
    every = (first + timedelta(minutes=each) for each in range(2 * 24 * 60))
    expected = [
        each.timestamp()
        for each in every
        if each.minute in minutes and each.hour in hours
    ]

    assert [*islice(plan.after(start), len(expected))] == expected


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    zone=WITH_CHANGES_AT_MIDNIGHT,
    start=TIMES,
)
def test_a_fixed_time_is_due_once_on_each_day_of_its_zone(
    minute: int, hour: int, zone: str, start: float
) -> None:
    plan = Plan(cron=f"{minute} {hour} * * *", timezone=zone)
    here = ZoneInfo(zone)

    days = [
        datetime.fromtimestamp(due, here).date()
        for due in islice(plan.after(start), 370)
    ]

    assert days == [days[0] + timedelta(days=each) for each in range(370)]


@given(cron=CRONS, zone=ZONES, start=TIMES, share=st.floats(0, 0.99))
def test_the_next_due_time_is_the_same_from_wherever_one_looks(
    cron: str, zone: str, start: float, share: float
) -> None:
    plan = Plan(cron=cron, timezone=zone)
    first, second = islice(plan.after(start), 2)

    assert start < first < second
    assert plan.next_after(first) == second
    assert plan.next_after(first + (second - first) * share) == second


@given(cron=CRONS, zone=ZONES, start=TIMES, length_s=st.integers(0, 3 * DAY_S))
def test_the_newest_due_time_is_the_last_of_all(
    cron: str, zone: str, start: float, length_s: int
) -> None:
    plan = Plan(cron=cron, timezone=zone)
    until = start + length_s
    every = []
    for due in plan.after(start):
        if due > until:
            break
        every.append(due)

    assert plan.newest(start, until) == (every[-1] if every else None)


@given(
    cron=CRONS,
    zone=ZONES,
    start=TIMES,
    steps=st.lists(
        st.tuples(
            st.integers(0, 7200), st.sampled_from([0, 0, 0, -3600, 3600, -30, -DAY_S])
        ),
        max_size=30,
    ),
)
def test_no_run_fires_twice_and_none_after_the_last_set_back_is_lost(
    cron: str, zone: str, start: float, steps: list[tuple[int, int]]
) -> None:
    now = start
    progress = Progress(cron=cron, timezone=zone, until=now)
    jobs: list[float] = []
    for passes_s, set_by_s in [*steps, (0, 0)]:
        now += passes_s + set_by_s
        if was_set_back(progress, now=now):
            progress = set_back(progress, now=now)
        if is_right_again(progress, now=now):
            progress = right_again(progress)
        due = due_now(progress, now=now)
        if due is None:
            continue
        assert progress.until < due.at <= now
        progress = fired(progress, due, "", now=now)
        # The queue has one job of an id.
        if due.at not in jobs:
            jobs.append(due.at)
        assert due_now(progress, now=now) is None

    assert len(jobs) == len(set(jobs))
    newest = Plan(cron=cron, timezone=zone).newest(start, now)
    if newest is not None and progress.until <= now:
        assert newest <= progress.until
    assert progress.until <= now + SET_BACK_S


@given(st.text(st.sampled_from("0123456789*/,-#LWMONJAN? \t٣"), max_size=40))
def test_any_expression_is_accepted_or_has_a_problem_in_words(cron: str) -> None:
    problem = cron_problem(cron)

    assert problem or Plan(cron=cron, timezone="Europe/Berlin").next_after(0)


@given(st.text(max_size=40))
def test_any_name_of_a_zone_is_accepted_or_has_a_problem_in_words(name: str) -> None:
    if not zone_problem(name):
        assert Plan(cron="0 0 * * *", timezone=name).next_after(0)

"""Due times of schedules, what is decided about them, and mistakes in their configuration."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import attrs
import pytest
from attrs import evolve

from dispatchd.errors import ConfigError
from dispatchd.hub.config.load import load
from dispatchd.hub.config.schedules import Schedule
from dispatchd.hub.domain.schedules.plan import Plan
from dispatchd.hub.domain.schedules.progress import (
    MOST_COUNTED,
    Due,
    Progress,
    begun,
    due_now,
    fired,
    is_right_again,
    job_id_of,
    right_again,
    set_back,
    was_set_back,
)
from dispatchd.hub.init import init
from dispatchd.hub.queue.schedules import goes_by, plan_of, terms_of
from dispatchd.protocol.published.schemas import schema

NIGHTLY = Plan(cron="30 2 * * *", timezone="Europe/Berlin")


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def dues(plan: Plan, after: str, until: str) -> list[str]:
    """Return the due times between two times (UTC), as times in UTC."""
    found: list[str] = []
    for due in plan.after(at(after)):
        if due > at(until):
            break
        found.append(datetime.fromtimestamp(due, UTC).strftime("%m-%dT%H:%M"))
    return found


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        # 02:00 is followed by 03:00 local time.
        ("30 2 * * *", ["03-28T01:30", "03-29T01:00", "03-30T00:30"]),
        ("0 3 * * *", ["03-28T02:00", "03-29T01:00", "03-30T01:00"]),
        # Both are 03:00 on that day, which is one run.
        (
            "0 2,3 * * *",
            *[
                [
                    *("03-28T01:00", "03-28T02:00", "03-29T01:00"),
                    *("03-30T00:00", "03-30T01:00"),
                ]
            ],
        ),
    ],
)
def test_a_fixed_time_is_due_once_on_the_day_without_it(
    cron: str, expected: list[str]
) -> None:
    plan = Plan(cron=cron, timezone="Europe/Berlin")

    assert dues(plan, "2026-03-27T12:00", "2026-03-30T12:00") == expected


def test_a_fixed_time_is_due_once_on_the_day_that_has_it_twice() -> None:
    expected = ["10-24T00:30", "10-25T00:30", "10-26T01:30"]

    assert dues(NIGHTLY, "2026-10-23T12:00", "2026-10-26T12:00") == expected
    # Also seen from within the repeated hour, before and after its half.
    for start in ("2026-10-25T01:10", "2026-10-25T01:50"):
        assert dues(NIGHTLY, start, "2026-10-26T12:00") == ["10-26T01:30"]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_elapsed_time_counts_where_minute_or_hour_is_a_star(day: str) -> None:
    plan = Plan(cron="*/30 * * * *", timezone="Europe/Berlin")

    found = list(zip(plan.after(at(f"{day}T00:00")), range(10), strict=False))

    assert [due for due, _ in found] == [
        at(f"{day}T00:00") + 1800 * number for number in range(1, 11)
    ]


def test_the_newest_of_millions_is_found_and_the_others_are_counted() -> None:
    plan = Plan(cron="* * * * *", timezone="UTC")
    progress = Progress(cron="* * * * *", timezone="UTC", until=at("2016-01-01"))

    due = due_now(progress, now=at("2026-11-29T12:00:30"))

    assert due == Due(at=at("2026-11-29T12:00"), missed=MOST_COUNTED)
    assert plan.newest(at("2026-11-29T12:00"), at("2026-11-29T12:00:59")) is None


@pytest.mark.parametrize(
    ("until", "now", "expected"),
    [
        ("2026-11-28T02:00", "2026-11-28T02:29:59", None),
        ("2026-11-28T02:00", "2026-11-28T02:30:00", ("2026-11-28T02:30", 0)),
        ("2026-11-28T02:30", "2026-11-29T02:29:59", None),
        ("2026-11-25T12:00", "2026-11-28T12:00:00", ("2026-11-28T02:30", 2)),
        ("2026-11-28T12:00", "2026-11-28T11:00:00", None),
    ],
)
def test_the_newest_undecided_run_is_due(
    until: str, now: str, expected: tuple[str, int] | None
) -> None:
    progress = Progress(cron="30 2 * * *", timezone="UTC", until=at(until))

    due = due_now(progress, now=at(now))

    wanted = None if expected is None else Due(at=at(expected[0]), missed=expected[1])
    assert due == wanted


def test_a_run_is_decided_once_it_has_fired() -> None:
    now = at("2026-11-28T12:00")
    progress = Progress(cron="30 2 * * *", timezone="UTC", until=at("2026-11-26"))
    due = due_now(progress, now=now)
    assert due is not None

    after = fired(progress, due, "j", now=now)

    assert (after.due_at, after.fired_at, after.job_id) == (due.at, now, "j")
    assert after.missed == 2
    assert due_now(after, now=now) is None
    assert after.next_at == at("2026-11-29T02:30")


def test_a_run_that_fell_due_while_another_was_fired_is_not_lost() -> None:
    progress = Progress(cron="* * * * *", timezone="UTC", until=0.0)
    due = due_now(progress, now=60.0)
    assert due == Due(at=60.0, missed=0)

    after = fired(progress, due, "j", now=125.0)

    assert due_now(after, now=125.0) == Due(at=120.0, missed=0)


def test_what_a_newer_release_has_stored_beside_the_progress_is_left_out() -> None:
    progress = Progress(cron="0 0 * * *", timezone="UTC", until=1.0)

    assert Progress.read(f'{{"newer": [], {progress.text[1:]}') == progress


def test_a_new_plan_counts_from_now_on_and_the_same_one_from_where_it_was() -> None:
    now = at("2026-11-28T12:00")
    before = Progress(
        cron=NIGHTLY.cron, timezone=NIGHTLY.timezone, until=1.0, due_at=1.0, job_id="j"
    )
    other = Plan(cron="0 3 * * *", timezone="UTC")
    disabled = Plan(cron="", timezone="UTC")

    assert begun(before, NIGHTLY, now=now) == before
    assert begun(None, NIGHTLY, now=now).until == now
    changed = begun(before, other, now=now)
    assert (changed.plan, changed.until, changed.job_id) == (other, now, "j")
    off = begun(before, disabled, now=now)
    assert off.next_at is None
    assert begun(off, NIGHTLY, now=now + 9).until == now + 9


def test_a_clock_that_jitters_is_not_one_that_was_set_back() -> None:
    progress = Progress(cron="30 2 * * *", timezone="UTC", until=1000.0)

    assert not was_set_back(progress, now=941.0)
    assert was_set_back(progress, now=939.0)


YEARLY = Progress(
    cron="0 0 1 1 *", timezone="UTC", until=at("2026-01-01"), due_at=at("2026-01-01")
)


def test_a_clock_that_starts_in_1970_makes_no_run_of_long_ago_once_more() -> None:
    """A machine without a battery for its clock, months after a run whose job the hub has removed since."""
    assert was_set_back(YEARLY, now=20.0)
    back = set_back(YEARLY, now=20.0)
    assert due_now(back, now=25.0) is None

    now = at("2026-05-01T12:00")
    assert is_right_again(back, now=now)
    after = right_again(back)

    assert due_now(after, now=now) is None
    assert after.next_at == at("2027-01-01")
    assert not is_right_again(after, now=now)


def test_a_clock_that_starts_in_1970_twice_is_right_again_all_the_same() -> None:
    first = set_back(YEARLY, now=600.0)
    again = set_back(evolve(first, until=500.0), now=10.0)

    assert right_again(again).until == YEARLY.until


def test_what_is_due_between_a_set_back_and_the_time_before_is_made() -> None:
    """The clock was a day ahead. A run of that day has its id, and so no second job."""
    ahead = Progress(cron="0 * * * *", timezone="UTC", until=at("2026-11-29T12:00"))
    back = set_back(ahead, now=at("2026-11-28T12:10"))

    for hour in ("2026-11-28T13:00:01", "2026-11-29T11:00:01", "2026-11-29T12:00:01"):
        assert not is_right_again(back, now=at(hour))
        due = due_now(back, now=at(hour))
        assert due is not None
        back = fired(back, due, "j", now=at(hour))
    assert not is_right_again(back, now=at("2026-11-29T12:30"))
    assert due_now(back, now=at("2026-11-29T13:00")) == Due(
        at=at("2026-11-29T13:00"), missed=0
    )


@pytest.mark.parametrize("cron", ["* * * * *", "30 2 * * *", "0 0 29 2 *"])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12"])
def test_the_calendar_ends_without_an_error(cron: str, zone: str) -> None:
    plan, end = Plan(cron=cron, timezone=zone), at("9999-12-31T23:59:30")

    assert plan.next_after(end + 86_400) is None
    assert plan.next_after(end - 30) is None or cron == "* * * * *"
    progress = Progress(cron=cron, timezone=zone, until=at("2026-11-28"))
    due = due_now(progress, now=end)
    assert due is not None
    assert due.missed == MOST_COUNTED


def test_a_process_with_other_jobs_for_a_name_stands_aside() -> None:
    mine = Schedule(name="n", cron="0 0 * * *", workflow="w", inputs={"a": "1"})
    progress = begun(None, plan_of(mine), now=1.0, terms=terms_of(mine))

    assert goes_by(mine, progress)
    for other in (
        evolve(mine, workflow="v"),
        evolve(mine, inputs={"a": "2"}),
        evolve(mine, priority=1),
        evolve(mine, ref="refs/heads/main"),
    ):
        assert not goes_by(other, progress)
        # Its own start makes it the one that counts, and nothing that was missed is lost.
        after = begun(progress, plan_of(other), now=9.0, terms=terms_of(other))
        assert (goes_by(other, after), after.until) == (True, 1.0)
    # An earlier release stores no digest.
    assert goes_by(mine, begun(progress, plan_of(mine), now=1.0))


def test_the_progress_goes_through_its_text_unchanged() -> None:
    progress = Progress(
        cron="0 0 * * *", timezone="UTC", until=0.1 + 0.2, job_id="j", missed=3
    )

    assert Progress.read(progress.text) == progress


def test_the_id_of_a_job_says_when_it_was_due_in_utc() -> None:
    due = at("2026-10-25T02:30", "Europe/Berlin")

    assert job_id_of("nightly", due) == "schedule-nightly-20261025T003000Z"


def configured(folder: Path, **changed: str) -> Path:
    keys = {
        "name": '"nightly"',
        "cron": '"30 2 * * *"',
        "workflow": '"backup"',
        **changed,
    }
    table = "\n".join(f"{key} = {value}" for key, value in keys.items())
    file = folder / "hub.toml"
    file.write_text(f"[[schedules]]\n{table}\n")
    return file


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cron", "0 2 * *", "must have five fields"),
        ("cron", "0 0 2 * * *", "must have five fields"),
        ("cron", "61 2 * * *", "bad minute"),
        ("cron", "0 2 * * BAD", "bad day-of-week"),
        ("cron", "*/0 2 * * *", "bad minute"),
        ("cron", "0 0 30 2 *", "bad day-of-month"),
        ("cron", "@daily", "must have five fields"),
        ("timezone", "Europe/Berln", "must name a time zone such as Europe/Berlin"),
        ("timezone", "../../etc/passwd", "must name a time zone"),
        ("timezone", "/etc/localtime", "must name a time zone"),
        ("timezone", "Europe", "must name a time zone"),
        ("timezone", "CEST", "must name a time zone"),
        ("timezone", "\\u0000", "must name a time zone"),
        ("timezone", "Zürich", "must name a time zone"),
        ("workflow", "", "must not be empty"),
        ("name", "a b", "must be a name of letters"),
    ],
)
def test_a_mistake_names_file_table_key_and_what_to_do(
    tmp_path: Path, key: str, value: str, message: str
) -> None:
    file = configured(tmp_path, **{key: f'"{value}"'})

    with pytest.raises(ConfigError) as caught:
        load(file)

    [problem] = caught.value.problems
    assert (problem.file, problem.key) == (file, f"schedules[0].{key}")
    assert message in problem.expected
    assert "\n" not in problem.expected


def test_two_schedules_of_one_name_are_refused(tmp_path: Path) -> None:
    file = configured(tmp_path)
    file.write_text(file.read_text() * 2)

    with pytest.raises(ConfigError, match=r"schedules\[1\].name: must be unique"):
        load(file)


def test_the_schema_has_the_keys_and_defaults_of_our_type() -> None:
    properties = schema("hub-config")["properties"]["schedules"]["items"]["properties"]
    fields = attrs.fields_dict(Schedule)

    assert set(properties) == set(fields)
    defaults = attrs.asdict(Schedule(name="n", cron="c", workflow="w"))
    for name, each in properties.items():
        assert each.get("default", defaults[name]) == defaults[name]


def test_what_init_shows_of_schedules_can_be_read(tmp_path: Path) -> None:
    options = {"listen": "127.0.0.1:0", "database_url": "sqlite:///hub.db"}
    init(tmp_path, license_id="x", **options)
    file = tmp_path / "hub.toml"
    shown = file.read_text().partition("# [[schedules]]\n")[2].partition("\n\n")[0]
    file.write_text(
        "[[schedules]]\n" + shown.replace("# ", "", 1).replace("\n# ", "\n")
    )

    [schedule] = load(file).schedules

    assert (schedule.name, schedule.inputs) == ("nightly", {"level": "full"})


def test_every_configuration_of_schedules_in_the_documentation_can_be_read(
    tmp_path: Path,
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "hub.md").read_text()
    section = page.partition("\n## Schedules\n")[2].partition("\n## ")[0]
    block = section.partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "hub.toml"
    file.write_text(block)

    [schedule] = load(file).schedules

    assert schedule.inputs == {"level": "full"}
    for name in schema("hub-config")["properties"]["schedules"]["items"]["properties"]:
        assert f"`{name}`" in section


def test_a_client_without_the_extra_asks_a_hub_with_schedules(tmp_path: Path) -> None:
    schedule = '[[schedules]]\nname = "a"\ncron = "* * * * *"\nworkflow = "w"\n'
    (tmp_path / "hub.toml").write_text(f'listen = "127.0.0.1:9"\n{schedule}')
    (tmp_path / "admin-token").write_text("token")
    script = "import sys; sys.modules['cronsim'] = None; from dispatchd.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, "hub", "jobs", "--config", "hub.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == os.EX_UNAVAILABLE, done.stderr
    assert "no hub answers" in done.stderr

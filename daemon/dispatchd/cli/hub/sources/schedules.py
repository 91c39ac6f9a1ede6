"""`dispatchd hub schedules`: the schedules of the hub, with their next and last runs."""

from typing import Any, Final

import click

from dispatchd.cli.hub.client import HubClient, asks_hub, print_rows, when
from dispatchd.cli.screen.table import Column, Kind
from dispatchd.protocol.times import rough

_COLUMNS: Final = (
    Column("SCHEDULE"),
    Column("CRON", Kind.WHOLE),
    Column("ZONE"),
    Column("NEXT", Kind.WHOLE),
    Column("LAST"),
    Column("JOB", Kind.ID),
)

_LATE_S: Final = 60.0
"""Delay from which a run counts as late (seconds)."""


@click.command(short_help="List schedules, with their next and last runs.")
@asks_hub
def schedules(hub: HubClient, *, as_json: bool) -> None:
    """List the schedules of the hub's configuration ([[schedules]]), with their next and last runs."""
    rows = hub.rows(
        "/api/v1/schedules", "schedules", "hub-schedule", cannot="list schedules"
    )
    empty = "No schedules. Add [[schedules]] to hub.toml, and restart the hub."
    print_rows(rows, _COLUMNS, _row, as_json=as_json, empty=empty)


def _row(schedule: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a schedule, one for each of `_COLUMNS`."""
    is_active = schedule["state"] == "active"
    return (
        schedule["name"],
        schedule["cron"],
        schedule["timezone"],
        when(schedule["next_at"]) if is_active else schedule["state"],
        _last(schedule),
        schedule["job_id"],
    )


def _last(schedule: dict[str, Any]) -> str:
    """Return when the last run was due, and how late it came."""
    late_s = schedule["fired_at"] - schedule["due_at"]
    notes = [f"{rough(late_s)} late"] if late_s >= _LATE_S else []
    if schedule["missed"]:
        notes.append(f"{schedule['missed']} missed before it")
    about = f" ({', '.join(notes)})" if notes else ""
    return f"{when(schedule['due_at'])}{about}"

"""The tables `[[schedules]]` of the hub's configuration (contracts/schemas/hub-config.schema.json)."""

from collections.abc import Iterator, Mapping, Sequence

from attrs import field, frozen


@frozen(kw_only=True)
class Schedule:
    """Schedule that makes jobs at the times of a cron expression."""

    name: str
    """Unique name; a part of the ids of its jobs."""
    cron: str
    """Minute, hour, day of month, month, day of week."""
    workflow: str
    timezone: str = "UTC"
    """Time zone of the expression (IANA)."""
    repository: str = ""
    """Repository of its jobs, as OWNER/NAME; empty for none."""
    ref: str = ""
    sha: str = ""
    inputs: Mapping[str, str] = field(factory=dict, hash=False)
    """Inputs of its jobs; they are `inputs` of the payload."""
    priority: int = 0
    enabled: bool = True


def mistakes(schedules: Sequence[Schedule]) -> Iterator[tuple[str, str]]:
    """Yield the mistakes that a schema can't express: key and expectation."""
    if not schedules:
        return
    try:
        # Only a hub with schedules needs cronsim.
        from dispatchd.hub.domain.schedules.plan import (  # noqa: PLC0415
            cron_problem,
            zone_problem,
        )
    except ModuleNotFoundError:
        # A client of a hub has no extra packages; the hub checks it.
        return

    names = [schedule.name for schedule in schedules]
    for index, schedule in enumerate(schedules):
        key = f"schedules[{index}]"
        if schedule.name in names[:index]:
            yield f"{key}.name", f"must be unique; {schedule.name!r} isn't"
        if problem := cron_problem(schedule.cron):
            yield f"{key}.cron", f"{problem} (schedule {schedule.name!r})"
        if problem := zone_problem(schedule.timezone):
            yield f"{key}.timezone", f"{problem} (schedule {schedule.name!r})"

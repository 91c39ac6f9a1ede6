"""`dispatchd status`: one screen about the daemon, from its control socket."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from dispatchd.agent.config.load import Places
from dispatchd.agent.domain.intake import Intake, Mode
from dispatchd.agent.domain.phase import Phase
from dispatchd.cli.agent.views import age_s
from dispatchd.cli.options import config_option, find_daemon, json_option, print_json
from dispatchd.cli.screen.table import print_pairs
from dispatchd.cli.terminal import echo
from dispatchd.errors import FolderUnusable, NotReachable
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import ago, duration, utc

_JOBS_SHOWN = 5
"""Most jobs of an engine that the screen shows (count)."""

_TIMEOUT_S: Final = 5.0
"""Longest time of a healthy daemon to send its status (seconds)."""

_AGAIN_S: Final = 1.0
"""Time between two screens (seconds)."""

_HELD: Final = {None: "not seen yet", True: "held", False: "at intervals"}


@click.command()
@config_option
@json_option
@click.option("-w", "--watch", is_flag=True, help="Refresh every second, until Ctrl-C.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Show the machine, its folders and loops too."
)
def status(
    config_file: Path | None, *, as_json: bool, watch: bool, verbose: bool
) -> None:
    """Show the status of the daemon and the machine.

    Exit code: 0 if it takes jobs, or takes none only because it is paused or drained, 1 if something is wrong, 69 if no
    daemon answers.
    """
    places = find_daemon(config_file)
    while watch:
        _clear_screen()
        try:
            _print(_ask(places), as_json=as_json, verbose=verbose)
        except NotReachable as error:
            echo(error)
        time.sleep(_AGAIN_S)
    try:
        document = _ask(places)
    except NotReachable:
        # Facts from the store are shown all the same, if this user may read it.
        with suppress(FolderUnusable):
            _print_store(places, as_json=as_json)
        raise
    _print(document, as_json=as_json, verbose=verbose)
    sys.exit(1 if _is_wrong(document) else 0)


def _ask(places: Places) -> dict[str, Any]:
    from dispatchd.agent.control.client import ask

    document: Any = ask(
        places.control_folder,
        "GET",
        "/v1/status",
        cannot="get the daemon's status",
        timeout_s=_TIMEOUT_S,
        state=places.state_folder,
    )
    return document  # type: ignore[no-any-return]  # contracts/schemas/control-status.schema.json


def _is_wrong(document: dict[str, Any]) -> bool:
    """Return whether there is a problem beside that somebody has paused or drained the machine."""
    mode, reason = document["intake"]["mode"], document["intake"]["reason"]
    wanted = Intake(mode=Mode(mode), reason=reason).blocked_reason
    return any(problem != wanted for problem in document["problems"])


def _clear_screen() -> None:
    if sys.stdout.isatty():
        click.clear()


def _print(document: dict[str, Any], *, as_json: bool, verbose: bool) -> None:
    if as_json:
        print_json(document)
        return
    lines = [*_lines(document), *(_more(document) if verbose else ())]
    print_pairs(dict(lines), states={"daemon": _state(document)})


def _print_store(places: Places, *, as_json: bool) -> None:
    """Print the facts that are known without a daemon."""
    from dispatchd.agent.store.jobs import read_all

    counts: dict[str, Json] = {
        phase.value: 0 for phase in Phase if phase is not Phase.HISTORY
    }
    waiting: list[datetime] = []
    for record in read_all(places.state_folder):
        if record.phase is Phase.HISTORY:
            continue
        counts[record.phase.value] = int(str(counts[record.phase.value])) + 1
        if record.phase is Phase.FINISHING:
            waiting.append(record.changed_at)
    oldest_s = age_s(min(waiting)) if waiting else None
    if as_json:
        print_json(
            {"running": False, "jobs": counts, "oldest_unreported_age_s": oldest_s}
        )
        return
    print_pairs(
        {
            "daemon": "not running; its store has:",
            "jobs": _counted(counts),
            "unreported": f"for {duration(oldest_s)}" if oldest_s is not None else "",
        }
    )


def _state(document: dict[str, Any]) -> str:
    """Return the state of a daemon in a word: a machine that a person has taken out of service is not faulty."""
    mode = document["intake"]["mode"]
    if _is_wrong(document) or (mode == "pulling" and not document["ready"]):
        return "not ready"
    return "ready" if mode == "pulling" else str(mode)


def _lines(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines of the screen: name and value, empty if there is none."""
    endpoint, slots, outbox = (
        document[name] for name in ("endpoint", "slots", "outbox")
    )
    up_s = age_s(datetime.fromisoformat(document["started_at"]))
    yield (
        "daemon",
        f"{_state(document)}; version {document['version']}, pid {document['pid']}, up {duration(up_s)}",
    )
    for number, problem in enumerate(document["problems"], start=1):
        yield ("why" if number == 1 else f"why {number}"), problem
    yield "intake", _intake(document["intake"])
    pulled = ago(endpoint["last_pull_age_s"])
    yield "endpoint", f"{endpoint['url']}: {endpoint['state']}; last pull {pulled}"
    yield "slots", f"{slots['used']} of {slots['total']} in use"
    yield "jobs", _counted(document["jobs"])
    for name, engine in document.get("engines", {}).items():
        yield f"engine {name}", _engine(engine)
    yield (
        "unreported",
        f"{outbox['depth']}; {outbox['oldest_job']} for {duration(outbox['oldest_age_s'])}"
        if outbox["depth"]
        else "none",
    )
    for number, warning in enumerate(document["warnings"], start=1):
        yield f"warning {number}", warning


def _more(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines that a machine in good order has no need of."""
    endpoint, machine, disk = (
        document[name] for name in ("endpoint", "machine", "disk")
    )
    yield (
        "machine",
        f"{machine['server_id'] or '?'} under license {machine['license_id'] or '?'}",
    )
    yield "license", _license(document["license"])
    yield "last report", ago(_since(endpoint["last_report_at"]))
    yield "polls", _HELD[endpoint["long_poll"]]
    yield "extensions", ", ".join(endpoint["extensions"])
    yield "clock", _clock(endpoint["clock_skew_s"])
    yield "runs kept by", document["containment"]
    yield "isolation", document["isolation"]
    free = f"{disk['free_bytes'] / (1 << 30):.1f} GiB and {disk['free_inodes']:,} inodes free"
    yield "disk", f"{disk['error']}; {free}" if disk["error"] else free
    yield "state", document["state_folder"]
    reloaded = ago(_since(document["reloaded_at"])) if document["reloaded_at"] else ""
    yield (
        "config",
        document["config_file"] + (f", reloaded {reloaded}" if reloaded else ""),
    )
    for name, doing in document["loops"].items():
        yield f"{name} loop", doing


def _engine(engine: dict[str, Any]) -> str:
    """Return an engine's slots, and where its first jobs are."""
    jobs = engine["jobs"]
    shown = [f"{job}: {where}" for job, where in islice(jobs.items(), _JOBS_SHOWN)]
    more = len(jobs) - len(shown)
    others = [f"and {more} more"] if more else []
    return "; ".join([f"{len(jobs)} of {engine['slots']} slots", *shown, *others])


def _clock(skew_s: float | None) -> str:
    if skew_s is None:
        return ""
    if not skew_s:
        return "in step with the endpoint"
    side = "ahead of" if skew_s > 0 else "behind"
    return f"{duration(abs(skew_s))} {side} the endpoint"


def _license(license_status: dict[str, Any] | None) -> str:
    if license_status is None:
        return ""
    if not license_status["good"]:
        return str(license_status["blocked_reason"])
    until = (
        f", until {utc(datetime.fromisoformat(license_status['expires_at']))}"
        if license_status["expires_at"]
        else ""
    )
    return f"{license_status['plan'] or 'good'} ({license_status['validity']}){until}"


def _intake(intake: dict[str, Any]) -> str:
    why = f" ({intake['reason']})" if intake["reason"] else ""
    if intake["mode"] == "pulling":
        return ""
    since = ago(_since(intake["since"]))
    left = f"; {intake['left']} left" if intake["mode"] == "draining" else ""
    until = (
        f"; what runs is ended at {utc(datetime.fromisoformat(intake['until']))}"
        if intake["until"]
        else ""
    )
    return f"{intake['mode']}{why}, since {since}{left}{until}"


def _counted(jobs: dict[str, Json]) -> str:
    return (
        ", ".join(f"{count} {phase}" for phase, count in jobs.items() if count)
        or "none"
    )


def _since(instant: str | None) -> float | None:
    return None if instant is None else age_s(datetime.fromisoformat(instant))

"""A hub's job for people: the output of `dispatchd hub show`."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from dispatchd.cli.agent.views import age_s, annotation_line
from dispatchd.cli.hub.client import when
from dispatchd.cli.screen.table import print_pairs
from dispatchd.cli.terminal import echo
from dispatchd.protocol.times import duration, rough
from dispatchd.redaction.escapes import coloured

_NAMES: Final = (
    ("id", "id"),
    ("state", "state"),
    ("dag_name", "workflow"),
    ("command", "command"),
    ("repository_name", "repository"),
    ("link", "link"),
    ("pull_request_number", "pull request"),
    ("issue_number", "issue"),
    ("ref", "ref"),
    ("sha", "commit"),
    ("actor_login", "actor"),
    ("delivery_id", "delivery"),
    ("run_id", "run"),
    ("reason", "reason"),
    ("result_cause", "cause"),
    ("result_summary", "summary"),
)
"""Single values of a job: name on the wire, and label."""


def print_job(job: Mapping[str, Any]) -> None:
    """Print everything about a job (contracts/schemas/hub-job.schema.json)."""
    pairs = {shown: _line(job.get(name)) for name, shown in _NAMES}
    event = (job.get("event_name"), job.get("event_action"))
    pairs["event"] = _line(".".join(str(part) for part in event if part))
    pairs["machine"] = _machine(job)
    if job["cancel_requested"] and not job["ended"]:
        pairs["cancel"] = "requested; its machine ends the run"
    if said := decided(job):
        decision = job["decision"]
        pairs["decision"] = f"{said} (by {decision['by']}, {when(decision['at'])})"
        pairs["note"] = _line(decision["note"])
    for name in ("created", "claimed", "accepted", "started", "finished"):
        pairs[name] = when(job.get(f"{name}_at") or 0)
    print_pairs(pairs)
    for attempt in job["attempts"]:
        until = when(attempt["ended_at"]) or "now"
        said = f"claim {attempt['number']}  {_machine(attempt)}  {when(attempt['claimed_at'])} to {until}  {attempt['outcome']} {attempt['cause']}"
        echo(said.rstrip())
    for title, lines in (
        ("Step summary", [str(job.get("result_step_summary") or "")]),
        ("Outputs", [*_outputs(job)]),
        ("Annotations", [*_annotations(job)]),
        ("Phases and spans", [*_spans(job)]),
    ):
        text = "\n".join(lines)
        if text:
            echo(f"\n{title}\n{text}")
    if output := str(job.get("result_output") or ""):
        click.echo(f"\nOutput\n{coloured(output)}")


def _spans(job: Mapping[str, Any]) -> Iterator[str]:
    for span in job.get("result_spans") or ():
        took = duration(span["duration_seconds"])
        failed = "" if span.get("ok", True) else ", failed"
        begun = duration(span["start_seconds"])
        yield f"{span['kind']}  {_line(span['name'])}  {took}, from {begun}{failed}"


def decided(job: Mapping[str, Any]) -> str:
    """Return the newest decision about a job while it was parked, in words; empty before the first."""
    decision = job["decision"]
    if decision is None:
        return ""
    follows = {
        "waiting": f"waiting for the machine {_machine(job)}",
        "sent": "sent to its machine",
        "overtaken": "never reached its machine",
    }[decision["state"]]
    return f"decided: {decision['as']}, {follows}"


def took(job: Mapping[str, Any]) -> str:
    """Return the time from a machine's accept to the end of a job, or to now; empty if none has accepted it."""
    if not job["accepted_at"]:
        return ""
    accepted_s = age_s(job["accepted_at"])
    return rough(accepted_s - (age_s(job["finished_at"]) if job["finished_at"] else 0))


def _machine(record: Mapping[str, Any]) -> str:
    return _line(record.get("machine_name") or record["machine"])


def _line(value: object) -> str:
    return " ".join(str(value or "").split())


def _outputs(job: Mapping[str, Any]) -> Iterator[str]:
    for name, value in (job.get("result_outputs") or {}).items():
        yield f"{name}={value}"


def _annotations(job: Mapping[str, Any]) -> Iterator[str]:
    for annotation in job.get("result_annotations") or []:
        yield annotation_line(
            str(annotation["level"]),
            str(annotation["path"]),
            int(annotation["start_line"]),
            str(annotation["message"]),
        )

"""A hub's job for people: the output of `dispatchd hub show`."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from dispatchd.cli.agent.views import annotation_line
from dispatchd.cli.hub.client import when
from dispatchd.cli.options import print_pairs
from dispatchd.cli.terminal import echo
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


def print_job(found: Mapping[str, Any]) -> None:
    """Print everything about a job (contracts/schemas/hub-job.schema.json)."""
    pairs = {shown: _line(found.get(name)) for name, shown in _NAMES}
    event = (found.get("event_name"), found.get("event_action"))
    pairs["event"] = _line(".".join(str(each) for each in event if each))
    pairs["machine"] = _machine(found)
    if found["cancel_requested"] and not found["ended"]:
        pairs["cancel"] = "requested; its machine ends the run"
    for name in ("created_at", "claimed_at", "accepted_at", "finished_at"):
        pairs[name.removesuffix("_at")] = when(found[name])
    print_pairs(pairs)
    for each in found["attempts"]:
        until = when(each["ended_at"]) or "now"
        said = f"claim {each['number']}  {_machine(each)}  {when(each['claimed_at'])} to {until}  {each['outcome']} {each['cause']}"
        echo(said.rstrip())
    for title, lines in (
        ("Step summary", [str(found.get("result_step_summary") or "")]),
        ("Outputs", [*_outputs(found)]),
        ("Annotations", [*_annotations(found)]),
    ):
        text = "\n".join(lines)
        if text:
            echo(f"\n{title}\n{text}")
    if output := str(found.get("result_output") or ""):
        click.echo(f"\nOutput\n{coloured(output)}")


def _machine(found: Mapping[str, Any]) -> str:
    return _line(found.get("machine_name") or found["machine"])


def _line(value: object) -> str:
    return " ".join(str(value or "").split())


def _outputs(found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in (found.get("result_outputs") or {}).items():
        yield f"{name}={value}"


def _annotations(found: Mapping[str, Any]) -> Iterator[str]:
    for each in found.get("result_annotations") or []:
        yield annotation_line(
            str(each["level"]),
            str(each["path"]),
            int(each["start_line"]),
            str(each["message"]),
        )

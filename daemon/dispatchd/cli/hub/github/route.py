"""`dispatchd hub route EVENT.json`: explain the effect of a GitHub event without acting on it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from dispatchd.cli.hub.client import config_option
from dispatchd.cli.hub.github.settings import github_settings
from dispatchd.cli.options import json_option, print_json, read_text
from dispatchd.cli.terminal import echo
from dispatchd.errors import ContractViolation, UsageError
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import at, text
from dispatchd.protocol.json_text import loads

if TYPE_CHECKING:
    from dispatchd.hub.config.github import GithubSettings
    from dispatchd.hub.github.dry_run import Line, Match, Outcome


@frozen(kw_only=True)
class _Given:
    """Event in a file."""

    event: str
    delivery_id: str
    payload: Json


@click.command(short_help="Explain what an event of GitHub would start.")
@config_option
@json_option
@click.option(
    "--event",
    default="",
    help="The event of a bare payload, as in X-GitHub-Event.",
)
@click.option(
    "--permission",
    default="",
    help="Play GitHub's answer: what whoever gave a command may do (read, triage, write, maintain, admin, none).",
)
@click.option(
    "--pull",
    "pull_file",
    type=click.Path(path_type=Path),
    help="Play GitHub's answer: a file with the pull request, as its API has it.",
)
@click.argument("file", metavar="EVENT.json", type=click.Path(path_type=Path))
def route(
    config_file: Path,
    *,
    as_json: bool,
    event: str,
    permission: str,
    pull_file: Path | None,
    file: Path,
) -> None:
    """Explain what an event of GitHub would start, and why, without doing it.

    The file has a bare payload, with --event, or a delivery as GitHub's API has it: `event`, `guid` and
    `request` with `headers` and `payload`.
    """
    from dispatchd.hub.github import dry_run as explain
    from dispatchd.hub.github.event import read_event
    from dispatchd.hub.github.routing.route import route as plan_of

    settings = github_settings(config_file, before_app=True)
    given = _given(file, event)
    _check_event(file, given.event, settings)
    pull = None if pull_file is None else _parsed(pull_file)
    github_event = read_event(given.event, given.payload)
    plan = plan_of(github_event, settings)
    played = explain.Played(permission=permission, pull=pull)
    lines = [*explain.lines(github_event, settings)]
    matches = [*explain.matches(github_event, settings, lines)]
    outcomes = [
        *explain.outcomes(github_event, given.payload, plan, given.delivery_id, played)
    ]
    report = {
        "event": github_event.name,
        "action": github_event.action or None,
        "repository": github_event.repository or None,
        "actor": github_event.actor or None,
        "reason": plan.reason,
        "commands_refused": explain.refusal(github_event, settings) or None,
        **_report(matches, lines, outcomes),
    }
    if as_json:
        print_json(report)
    else:
        _say(report)


def _given(file: Path, event: str) -> _Given:
    document = _parsed(file)
    if at(document, "request") is None:
        if not event:
            reason = "it is a bare payload, so --event has to name its event"
            raise UsageError(cannot=f"use {file}", reason=reason)
        return _Given(event=event, delivery_id="", payload=document)
    payload = at(document, "request", "payload")
    if isinstance(payload, str):
        payload = _loaded(file, payload)
    own = text(document, "event") or _header(at(document, "request", "headers"))
    if not (own or event):
        reason = "the delivery names no event, so --event has to"
        raise UsageError(cannot=f"use {file}", reason=reason)
    if own and event and own != event:
        reason = f"the delivery is of the event {own}, and not {event}"
        raise UsageError(cannot=f"use {file}", reason=reason)
    guid = text(document, "guid")
    return _Given(event=own or event, delivery_id=guid, payload=payload)


def _header(headers: Json) -> str:
    pairs = headers.items() if isinstance(headers, dict) else ()
    named = [str(value) for name, value in pairs if name.lower() == "x-github-event"]
    return named[0] if named else ""


def _check_event(file: Path, event: str, settings: "GithubSettings") -> None:
    from difflib import get_close_matches

    from dispatchd.hub.github.app.needs import KNOWN_EVENTS

    known = KNOWN_EVENTS.union(*(rule.events for rule in settings.rules))
    if event in known:
        return
    near = get_close_matches(event, sorted(known), n=1)
    hint = f"; {near[0]} is one" if near else ""
    raise UsageError(
        cannot=f"use {file}", reason=f"GitHub has no event {event!r}{hint}"
    )


def _parsed(file: Path) -> Json:
    return _loaded(file, read_text(file))


def _loaded(file: Path, content: str) -> Json:
    try:
        return loads(content)
    except ContractViolation as violation:
        raise UsageError(
            cannot=f"use {file}", reason=f"{violation.path} {violation.rule}"
        ) from violation


def _report(
    matches: "list[Match]", lines: "list[Line]", outcomes: "list[Outcome]"
) -> dict[str, Any]:
    return {
        "rules": [
            {
                "rule": match.rule.name,
                "matches": not match.why_not,
                "by_command": match.by_command,
                "waits_for_command": match.waits,
                "workflow": match.rule.workflow,
                "priority": match.rule.priority,
                "why_not": match.why_not or None,
            }
            for match in matches
        ],
        "commands": [
            {
                "line": line.text,
                "is_command": line.command is not None,
                "rules": [rule.name for rule in line.rules],
            }
            for line in lines
        ],
        "steps": [
            {
                "does": outcome.summary,
                "asks_github": list(outcome.asks),
                "decision": outcome.decision or None,
                "job": outcome.job,
            }
            for outcome in outcomes
        ],
    }


def _say(report: dict[str, Any]) -> None:
    name = ".".join(filter(None, (report["event"], report["action"])))
    echo(
        f"{name} on {report['repository'] or '(no repository)'} by {report['actor'] or '(nobody)'}"
    )
    echo(
        f"it {'would start' if report['steps'] else 'starts nothing'}: {report['reason']}"
    )
    if report["commands_refused"]:
        echo(f"no command counts: {report['commands_refused']}")
    for command in report["commands"]:
        echo(f"  {_command_text(command)}")
    for rule in report["rules"]:
        echo(f"  rule {rule['rule']} {_rule_text(rule)}")
    for number, step in enumerate(report["steps"], 1):
        echo(f"\n{number}. {step['does']}")
        for question in step["asks_github"]:
            echo(f"   first asks GitHub: {question}")
        if step["decision"]:
            echo(f"   with these answers: {step['decision']}")
        for key, value in (step["job"] or {}).items():
            shown = value if isinstance(value, str) else json.dumps(value)
            echo(f"   {key:21}{shown}")


def _command_text(line: dict[str, Any]) -> str:
    if not line["is_command"]:
        return f"{line['line']!r} is no command: it is quoted, in code, or not alone on its line"
    if line["rules"]:
        return f"{line['line']} -> {', '.join(line['rules'])}"
    return line["line"] if line["line"] == "/cancel" else f"{line['line']} -> no rule"


def _rule_text(rule: dict[str, Any]) -> str:
    how = " by command" if rule["by_command"] else ""
    if not rule["matches"]:
        return f"doesn't match: {rule['why_not']}"
    waits = (
        ", once somebody who may write says /run SHA"
        if rule["waits_for_command"]
        else ""
    )
    return f"matches{how} -> workflow {rule['workflow']} (priority {rule['priority']}){waits}"

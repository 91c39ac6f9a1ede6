"""Dry run of an event: the jobs that it would make, and why. Pure, for `dispatchd hub route`."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

from dispatchd.hub.config.github import GithubSettings, Rule, Subject
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.event_kinds import COMMENT_EVENTS
from dispatchd.hub.github.event import GithubEvent
from dispatchd.hub.github.ingest.decide import Free, decide, denied, may, needed_for
from dispatchd.hub.github.routing.comment import Command, Verb, commands
from dispatchd.hub.github.routing.job_fields import job_fields
from dispatchd.hub.github.routing.matching import mismatch
from dispatchd.hub.github.routing.route import (
    Button,
    Cancel,
    Plan,
    Resolve,
    Run,
    SuiteAgain,
    candidates,
    refusal_of_comment,
)
from dispatchd.protocol.job import Json

_LIKE_A_COMMAND: Final = re.compile(
    r"(?<![\w/])/(?:run|cancel|resolve)\b", re.IGNORECASE
)


@frozen(kw_only=True)
class Played:
    """Simulated answers of GitHub."""

    permission: str = ""
    """Permission of the command's author (GitHub's role name); empty if it isn't simulated."""
    pull: Json = None
    """The pull request, as GitHub's API has it; None if it isn't simulated."""


@frozen(kw_only=True)
class Match:
    """Result of matching an event with a rule; the rule doesn't match if `why_not` isn't empty."""

    rule: Rule
    why_not: str
    by_command: bool = False
    """True if a command in the comment means the rule."""
    waits: bool = False
    """True if the rule matches, and the code comes from a fork that somebody has to read first."""


@frozen(kw_only=True)
class Line:
    """A line of a comment that is a command or looks like one."""

    text: str
    command: Command | None
    rules: tuple[Rule, ...] = ()
    """Rules that the command may mean."""


@frozen(kw_only=True)
class Outcome:
    """Result of a step of the plan."""

    summary: str
    asks: tuple[str, ...] = ()
    """Questions to GitHub that would come first, in words."""
    job: dict[str, Json] | None = None
    """Fields of the job as it would be queued; None where there is no job."""
    decision: str = ""
    """Decision that follows from the simulated answers; empty where there are none."""


def matches(
    event: GithubEvent, settings: GithubSettings, lines: Sequence[Line]
) -> Iterator[Match]:
    """Yield the match of each rule with an event, in the configuration's order.

    Args:
        event: The event.
        settings: The configuration.
        lines: The commands in it.
    """
    meant = {rule.name for line in lines for rule in line.rules}
    for rule in settings.rules:
        if rule.name in meant:
            yield Match(rule=rule, why_not="", by_command=True)
        elif rule.command:
            why_not = f"it is for /run {rule.command} under {_subject_name(rule.on)}"
            yield Match(rule=rule, why_not=why_not)
        else:
            why_not = mismatch(rule, event)
            waits = not why_not and event.from_fork
            yield Match(rule=rule, why_not=why_not, waits=waits)


def refusal(event: GithubEvent, settings: GithubSettings) -> str:
    """Return the reason why all commands of a comment are ignored; empty if they aren't."""
    is_comment = event.name in COMMENT_EVENTS and event.body
    return refusal_of_comment(event, settings) if is_comment else ""


def lines(event: GithubEvent, settings: GithubSettings) -> Iterator[Line]:
    """Yield the lines of a comment that are commands, and those that only look like one."""
    if event.name not in COMMENT_EVENTS:
        return
    parsed = commands(event.body)
    for command in parsed:
        rules = candidates(command, event, settings) if command.verb is Verb.RUN else ()
        yield Line(text=_written(command), command=command, rules=tuple(rules))
    for line in event.body.splitlines():
        if _LIKE_A_COMMAND.search(line) and not set(commands(line)) & set(parsed):
            yield Line(text=line.strip(), command=None)


def outcomes(
    event: GithubEvent,
    payload: Json,
    plan: Plan,
    delivery_id: str,
    played: Played,
) -> Iterator[Outcome]:
    """Yield the result of each step of a plan.

    Args:
        event: The event.
        payload: Its payload.
        plan: The steps that it asks for.
        delivery_id: The delivery of the event, or an empty string.
        played: Simulated answers of GitHub.
    """
    for step in plan.steps:
        match step:
            case Run():
                yield _of_run(event, payload, step, delivery_id, played)
            case Cancel():
                yield _of_cancel(event, step, delivery_id, played)
            case Resolve():
                yield _of_resolve(event, step, played)
            case Button(external_id=external_id, again=again):
                act = "runs again what" if again else "ends what"
                job_id = external_id.partition("#")[0]
                yield Outcome(summary=f"{act} job {job_id} stands for")
            case SuiteAgain(sha=sha):
                summary = f"runs again the newest job of each check of {sha}"
                yield Outcome(summary=summary)


def _of_run(
    event: GithubEvent, payload: Json, step: Run, delivery_id: str, played: Played
) -> Outcome:
    rule, fields = step.rule, job_fields(event, delivery_id, step)
    summary = f"rule {rule.name}: workflow {rule.workflow}, priority {rule.priority}"
    if step.command is None:
        asks = (f"the commit of {event.ref}",) if step.asks_for_commit else ()
        return Outcome(summary=summary, asks=asks, job=dict(fields))
    least = needed_for(rule, from_fork=False).value
    of_forks = needed_for(rule, from_fork=True).value
    who = f"whether {event.actor} has the permission {_either(least, of_forks)}"
    number = event.pull_request
    code = f"pull request {number}: open, its newest commit, base, fork, draft, labels"
    questions = (who, code) if event.is_on_pull_request else (who,)
    decision, job = _decision(event, payload, step, fields, played)
    return Outcome(
        summary=summary,
        asks=questions,
        job=None if job is None else dict(job),
        decision=decision,
    )


def _of_cancel(
    event: GithubEvent, step: Cancel, delivery_id: str, played: Played
) -> Outcome:
    needed = needed_for(None, from_fork=False)
    summary = (
        f"cancel: ends what runs or waits for #{event.pull_request or event.issue}"
    )
    asks = (f"whether {event.actor} has the permission {needed.value}",)
    job: dict[str, Json] | None = dict(job_fields(event, delivery_id, step))
    decision = "it is carried out" if played.permission else ""
    if played.permission and not may(played.permission, needed):
        decision = f"refused: {denied(event, played.permission, needed).reason}"
        job = None
    return Outcome(summary=summary, asks=asks, job=job, decision=decision)


def _of_resolve(event: GithubEvent, step: Resolve, played: Played) -> Outcome:
    needed = needed_for(None, from_fork=False)
    of = step.external_id.partition("#")[0] or f"#{event.pull_request or event.issue}"
    summary = f"resolve: decides about the parked job of {of}: {step.choice}"
    who = f"whether {event.actor} has the permission {needed.value}, or more if the rule of that job needs more"
    decision = ""
    if played.permission:
        decision = "it is carried out, unless the job's rule needs another permission"
        if not may(played.permission, needed):
            reason = denied(event, played.permission, needed).reason
            decision = f"refused: {reason}"
    return Outcome(summary=summary, asks=(who,), decision=decision)


def _decision(
    event: GithubEvent,
    payload: Json,
    step: Run,
    fields: JobDocument,
    played: Played,
) -> tuple[str, JobDocument | None]:
    """Return the decision that follows from the simulated answers, in words, and the job after it."""
    if not played.permission:
        return "", fields
    if event.is_on_pull_request and played.pull is None:
        return "not known without the pull request as well (--pull)", fields
    decision = decide(
        step.rule,
        event.name,
        payload if isinstance(payload, dict) else {},
        fields,
        pull=played.pull if event.is_on_pull_request else None,
        permission=played.permission,
    )
    if not isinstance(decision, Free):
        return f"refused: {decision.reason}", None
    sha = decision.document.sha
    held = ", without secrets" if decision.document.from_fork else ""
    return (f"queued for {sha}{held}" if sha else "queued"), decision.document


def _subject_name(subject: Subject) -> str:
    return "a pull request" if subject is Subject.PULL_REQUEST else "an issue"


def _either(least: str, of_forks: str) -> str:
    return least if least == of_forks else f"{least} ({of_forks} if it is a fork's)"


def _written(command: Command) -> str:
    words = (command.name, command.sha, command.choice, command.note)
    return " ".join(filter(None, (f"/{command.verb}", *words)))

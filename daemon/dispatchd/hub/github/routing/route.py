"""Routing of events to the jobs that they ask for. Pure, so that `dispatchd hub route` can explain it in a dry run.

For most rules the event's payload is enough. For a command in a comment it isn't: only GitHub knows the author's
permission and the commit. So its job stays received until GitHub has been asked (`ingest/resolve.py`).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from attrs import frozen

from dispatchd.hub.config.github import PULL_REQUEST, GithubSettings, Rule, Subject
from dispatchd.hub.domain.event_kinds import COMMENT_EVENTS
from dispatchd.hub.github.event import GithubEvent, asks_for_commit
from dispatchd.hub.github.routing.comment import Command, Verb, commands
from dispatchd.hub.github.routing.interest import (
    AGAIN,
    NEW,
    OF_A_CHECK,
    OF_CHECKS,
    PING,
    PRESSED,
)
from dispatchd.hub.github.routing.matching import (
    mismatch,
    mismatch_of_repository,
    why_none,
)
from dispatchd.protocol.outcome import CHOICES

CANCEL_BUTTON: Final = "cancel"
"""Identifier of the button on a check run that ends its job."""

OUR_MARK: Final = "<!-- dispatchd -->"
"""First line of every comment by the hub, so that it never takes one for a command."""

_SKIPPED: Final = (
    *("[skip ci]", "[ci skip]", "[no ci]", "[skip actions]", "[actions skip]"),
)
"""Marks in a commit's message that make its push start nothing (GitHub docs, Skipping workflow runs)."""

_SKIP_TRAILER: Final = re.compile(r"skip-checks:[ \t]*true[ \t]*", re.IGNORECASE)
"""Line of a message's last paragraph that means the same (same source, and git-interpret-trailers(1))."""


@frozen(kw_only=True)
class Run:
    """A job that a rule makes of an event."""

    rule: Rule
    command: Command | None = None
    """Command that asks for the job; None where the event itself does."""
    asks_for_commit: bool = False
    """True if the commit of the event's ref has to be read from GitHub."""

    @property
    def must_ask(self) -> bool:
        """True if GitHub has to be asked before the job is queued."""
        return self.asks_for_commit or self.command is not None


@frozen(kw_only=True)
class Cancel:
    """Cancellation of the unfinished jobs of a pull request or issue, if the author of the command may do that."""


@frozen(kw_only=True)
class Resolve:
    """Decision about a parked job of a pull request or issue, or of a check run, if its author may make it."""

    choice: str
    note: str = ""
    external_id: str = ""
    """Id of the check run whose button was pressed; empty for a command."""
    stay: str = ""
    """The stay in `needs_attention` that the button was for (`stay_tag`)."""


@frozen(kw_only=True)
class Button:
    """A pressed button on one of the hub's check runs: it ends the job, or runs it again."""

    external_id: str
    again: bool


@frozen(kw_only=True)
class SuiteAgain:
    """Re-run of all the hub's checks of a commit."""

    sha: str


Step = Run | Cancel | Resolve | Button | SuiteAgain


@frozen(kw_only=True)
class Plan:
    """Steps that an event asks for; `reason` explains them in words, or explains why there are none."""

    steps: tuple[Step, ...] = ()
    reason: str


def route(event: GithubEvent, settings: GithubSettings) -> Plan:
    """Return the plan for an event."""
    refusal = _refusal(event, settings)
    if refusal:
        return Plan(reason=refusal)
    match event.name:
        case "check_run":
            return _of_check_run(event, settings)
        case "check_suite":
            return _of_check_suite(event, settings)
        case _ if event.name in COMMENT_EVENTS and _speaks(event):
            return _of_comment(event, settings)
        case _:
            return _of_rules(event, settings)


def candidates(
    command: Command, event: GithubEvent, settings: GithubSettings
) -> Iterator[Rule]:
    """Yield the rules that a command under an issue or pull request may mean."""
    subject = Subject.PULL_REQUEST if event.is_on_pull_request else Subject.ISSUE
    for rule in settings.rules:
        if command.name:
            named = rule.command == command.name and rule.on is subject
        else:
            named = PULL_REQUEST in rule.events and event.is_on_pull_request
        if named and not mismatch_of_repository(rule, event):
            yield rule


def _refusal(event: GithubEvent, settings: GithubSettings) -> str:
    if event.name == "ping":
        return PING
    if settings.installations and event.installation not in settings.installations:
        return f"the installation {event.installation} is none of github.installations"
    if not event.repository:
        return f"the event {event.name} names no repository"
    return ""


def _of_check_run(event: GithubEvent, settings: GithubSettings) -> Plan:
    foreign = _foreign(event, settings)
    if foreign:
        return Plan(reason=foreign)
    if event.action not in (AGAIN, PRESSED):
        return Plan(reason=OF_A_CHECK)
    if not event.external_id:
        return Plan(reason="the check run doesn't say which job it shows")
    if event.action == PRESSED and event.button != CANCEL_BUTTON:
        return _of_decision_button(event)
    again = event.action == AGAIN
    action = "re-run" if again else "cancel"
    button = Button(external_id=event.external_id, again=again)
    return Plan(steps=(button,), reason=f"{event.actor} wants its {action}")


def _of_decision_button(event: GithubEvent) -> Plan:
    choice, _, stay = event.button.partition("#")
    if choice not in CHOICES or not stay:
        return Plan(reason=f"there is no button {event.button!r}")
    if not event.actor or event.actor_is_bot:
        return Plan(reason=f"{event.actor or 'nobody'} decides nothing by a button")
    step = Resolve(choice=choice, external_id=event.external_id, stay=stay)
    return Plan(steps=(step,), reason=_summary(step))


def _of_check_suite(event: GithubEvent, settings: GithubSettings) -> Plan:
    foreign = _foreign(event, settings)
    if foreign:
        return Plan(reason=foreign)
    if event.action != AGAIN or not event.sha:
        return Plan(reason=OF_CHECKS)
    reason = f"{event.actor} wants all checks of {event.sha} once more"
    return Plan(steps=(SuiteAgain(sha=event.sha),), reason=reason)


def _foreign(event: GithubEvent, settings: GithubSettings) -> str:
    """Return the reason why a check isn't the hub's; empty if it is."""
    if settings.is_app and event.app == settings.app_id:
        return ""
    return "it is about a check of somebody else"


def _speaks(event: GithubEvent) -> bool:
    """Return whether a comment can contain a command."""
    return event.name == "issue_comment" or bool(event.body)


def _of_comment(event: GithubEvent, settings: GithubSettings) -> Plan:
    refusal = refusal_of_comment(event, settings)
    parsed = [] if refusal else commands(event.body)
    if not parsed:
        by_rules = _of_rules(event, settings)
        reason = refusal or "the comment holds no command"
        return by_rules if by_rules.steps else Plan(reason=reason)
    steps: dict[Step, None] = {}
    unknown: list[str] = []
    for command in parsed:
        if command.verb is not Verb.RUN:
            if any(not mismatch_of_repository(rule, event) for rule in settings.rules):
                steps[_without_rule(command)] = None
            else:
                unknown.append("no rule is for this repository")
            continue
        meant = [
            Run(rule=rule, command=command)
            for rule in candidates(command, event, settings)
        ]
        steps |= dict.fromkeys(meant)
        if not meant:
            unknown.append(f"no rule is for /run {command.name}".rstrip())
    said = [_summary(step) for step in steps]
    return Plan(steps=tuple(steps), reason="; ".join([*said, *unknown]))


def _without_rule(command: Command) -> Cancel | Resolve:
    if command.verb is Verb.CANCEL:
        return Cancel()
    return Resolve(choice=command.choice, note=command.note)


def refusal_of_comment(event: GithubEvent, settings: GithubSettings) -> str:
    """Return the reason why a comment is ignored, whatever its text; empty if it isn't."""
    if event.action != NEW[event.name]:
        return f"only new comments count, and this one was {event.action or 'not new'}"
    if OUR_MARK in event.body or (
        settings.is_app and event.author_app == settings.app_id
    ):
        return "we have written the comment ourselves"
    if event.actor_is_bot:
        return f"{event.actor} is a bot, and bots give no commands"
    if not event.actor:
        return "the comment doesn't say who has written it"
    return ""


def _of_rules(event: GithubEvent, settings: GithubSettings) -> Plan:
    if event.is_deleted:
        return Plan(reason="it has removed a ref")
    skip = _skip(event.message)
    if skip:
        return Plan(reason=f"the message of its commit has {skip}")
    asks = asks_for_commit(event)
    why = {rule.name: mismatch(rule, event) for rule in settings.rules}
    runs = [
        Run(rule=rule, asks_for_commit=asks)
        for rule in settings.rules
        if not why[rule.name]
        # Code of a fork waits for the command of somebody with permission.
        and not event.from_fork
    ]
    if runs:
        return Plan(steps=tuple(runs), reason="; ".join(map(_summary, runs)))
    return Plan(reason=_why_not(event, why))


def _skip(message: str) -> str:
    """Return the mark in a commit's message that makes its push start nothing; empty if there is none."""
    for mark in _SKIPPED:
        if mark in message:
            return mark
    _, *further = re.split(
        r"\n[ \t]*(?:\n[ \t]*)+", message.replace("\r\n", "\n").strip()
    )
    last = further[-1].split("\n") if further else []
    return next((line for line in last if _SKIP_TRAILER.fullmatch(line)), "")


def _why_not(event: GithubEvent, why: Mapping[str, str]) -> str:
    waiting = [name for name, reason in why.items() if not reason]
    if waiting:
        names = ", ".join(waiting)
        return (
            f"its code comes from a fork; {names}: waits for /run {event.sha}".rstrip()
        )
    return why_none(event.name, why)


def _summary(step: Step) -> str:
    match step:
        case Run(rule=rule, command=None):
            return f"rule {rule.name}: workflow {rule.workflow}"
        case Run(rule=rule):
            return f"rule {rule.name}: workflow {rule.workflow}, if GitHub agrees"
        case Cancel():
            return "cancel, if GitHub agrees"
        case Resolve(choice=choice):
            return f"{choice} of the parked job, if GitHub agrees"
        case Button(again=again):
            return "re-run" if again else "cancel"
        case SuiteAgain(sha=sha):
            return f"all checks of {sha} once more"

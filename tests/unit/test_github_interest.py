"""What name and action alone rule out: never more than the whole event would."""

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.hub.config.github import GithubSettings, Rule
from dispatchd.hub.github.event import GithubEvent, read_event
from dispatchd.hub.github.routing.interest import idle
from dispatchd.hub.github.routing.route import route
from support.github_events import APP, HEAD, REAL, SETTINGS, event_of, name_of

NAMES = [
    *("pull_request", "push", "merge_group", "issues", "release", "workflow_run"),
    *("issue_comment", "pull_request_review", "pull_request_review_comment"),
    *("check_run", "check_suite", "ping", "star", "create", "repository_dispatch"),
]
ACTIONS = [
    *("", "opened", "synchronize", "labeled", "created", "submitted", "edited"),
    *("rerequested", "requested_action", "completed", "checks_requested", "published"),
]


@pytest.mark.parametrize("path", REAL, ids=name_of)
def test_what_is_ruled_out_of_real_events_would_be_ignored(path: Path) -> None:
    event = read_event(event_of(path), json.loads(path.read_text()))

    if idle(event.name, event.action, SETTINGS):
        assert not route(event, SETTINGS).steps


@given(
    name=st.sampled_from(NAMES),
    action=st.sampled_from(ACTIONS),
    events=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    actions=st.lists(st.sampled_from(ACTIONS), max_size=2),
    labels=st.sampled_from([(), ("urgent",)]),
    body=st.sampled_from(["", "/run", "/run deploy", "/cancel", "hello"]),
)
def test_what_is_ruled_out_by_any_rules_would_be_ignored(
    name: str,
    action: str,
    events: list[str],
    actions: list[str],
    labels: tuple[str, ...],
    body: str,
) -> None:
    rule = Rule(
        name="r",
        workflow="w",
        repositories=("*",),
        events=tuple(events),
        actions=tuple(actions),
        labels=labels,
    )
    command = Rule(name="c", workflow="w", repositories=("*",), command="deploy")
    settings = GithubSettings(app_id=APP, rules=(rule, command))
    event = GithubEvent(
        name=name,
        action=action,
        repository="o/r",
        actor="octocat",
        sha=HEAD,
        ref="refs/heads/main",
        pull_request=1,
        labels=("urgent",),
        body=body,
        app=APP,
        external_id="j",
        button="cancel",
    )

    wanted = bool(route(event, settings).steps)

    for told in (action, ""):
        # The list may leave the action out.
        assert not (wanted and idle(name, told, settings))


@pytest.mark.parametrize(
    ("name", "action", "reason"),
    [
        ("star", "created", "no rule is for the event star"),
        ("pull_request", "closed", "tests: the action closed isn't one of opened"),
        ("issue_comment", "edited", "no rule is for the event issue_comment"),
        ("check_run", "completed", "it only says what became of a check"),
        ("check_suite", "requested", "it only says what became of checks"),
        ("ping", "", "GitHub asks whether this hub is there; it is"),
    ],
)
def test_most_of_what_comes_in_is_ruled_out_with_its_reason(
    name: str, action: str, reason: str
) -> None:
    assert idle(name, action, SETTINGS).startswith(reason)


@pytest.mark.parametrize(
    ("name", "action"),
    [
        *(("push", ""), ("pull_request", "opened"), ("pull_request", "")),
        *(("issue_comment", "created"), ("pull_request_review", "submitted")),
        *(("check_run", "rerequested"), ("check_run", "requested_action")),
        ("check_suite", "rerequested"),
    ],
)
def test_what_may_be_wanted_is_not_ruled_out(name: str, action: str) -> None:
    assert idle(name, action, SETTINGS) == ""


def test_the_reason_is_the_one_that_the_whole_event_gets() -> None:
    cases: list[dict[str, Any]] = [
        {"name": "star", "action": "created"},
        {"name": "pull_request", "action": "closed"},
        {"name": "check_run", "action": "completed"},
        {"name": "check_suite", "action": "requested"},
        {"name": "ping"},
    ]
    for fields in cases:
        event = GithubEvent(repository="o/r", app=APP, actor="o", **fields)
        mine = idle(event.name, event.action, SETTINGS)

        assert mine == route(event, SETTINGS).reason
        assert mine == route(evolve(event, body="/run"), SETTINGS).reason

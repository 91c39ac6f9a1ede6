"""Which events make which jobs, and why not."""

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dispatchd.hub.config.github import Forks, GithubSettings, Rule, mistakes
from dispatchd.hub.github.event import read_event
from dispatchd.hub.github.routing.route import Button, Plan, Run, SuiteAgain, route
from support.github_events import (
    APP,
    HEAD,
    REAL,
    REPOSITORY,
    SETTINGS,
    comment,
    event_of,
    name_of,
    pull_request,
    real,
)


def plan(
    name: str, payload: dict[str, Any], settings: GithubSettings = SETTINGS
) -> Plan:
    return route(read_event(name, payload), settings)


def rules_of(found: Plan) -> list[str]:
    return [each.rule.name for each in found.steps if isinstance(each, Run)]


def only(**fields: Any) -> GithubSettings:
    rule = {"name": "r", "workflow": "w", "repositories": ("*",), **fields}
    return evolve(SETTINGS, rules=(Rule(**rule),))


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        ("opened", True),
        ("synchronize", True),
        ("reopened", True),
        ("ready_for_review", True),
        ("labeled", False),
        ("closed", False),
        ("edited", False),
        ("", False),
    ],
)
def test_a_pull_request_counts_when_its_code_is_new(
    action: str, *, wanted: bool
) -> None:
    found = plan("pull_request", pull_request(action))

    assert rules_of(found) == (["tests", "lint"] if wanted else [])
    assert not any(each.must_ask for each in found.steps if isinstance(each, Run))
    if not wanted:
        assert f"the action {action or '(none)'} isn't one of" in found.reason


def test_each_rule_that_fits_makes_a_job_with_its_workflow() -> None:
    found = plan("pull_request", pull_request())

    assert found.reason == "rule tests: workflow ci; rule lint: workflow lint"


def test_a_pull_request_from_a_fork_waits_for_somebody_who_may_write() -> None:
    found = plan("pull_request", pull_request(fork=True))

    assert found.steps == ()
    assert f"tests: waits for /run {HEAD}" in found.reason

    never = plan(
        "pull_request", pull_request(fork=True), only(events=("pull_request",))
    )
    assert never.reason == "r: its code comes from a fork"


def test_a_draft_counts_only_where_a_rule_says_so() -> None:
    event = pull_request(draft=True)

    assert rules_of(plan("pull_request", event)) == []
    assert rules_of(
        plan("pull_request", event, only(events=("pull_request",), drafts=True))
    ) == ["r"]


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (("refs/heads/master",), True),
        (("master",), True),
        (("ma*",), True),
        (("*",), True),
        (("main", "master"), True),
        (("main",), False),
        (("changes",), False),
    ],
)
def test_of_a_pull_request_the_base_is_its_ref(
    patterns: tuple[str, ...], *, wanted: bool
) -> None:
    settings = only(events=("pull_request",), refs=patterns)

    found = plan("pull_request", pull_request(), settings)

    assert bool(found.steps) is wanted


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (("refs/heads/*",), False),
        (("refs/tags/*",), True),
        (("simple-*",), True),
        ((), True),
    ],
)
def test_of_a_push_the_ref_counts_in_full_or_short(
    patterns: tuple[str, ...], *, wanted: bool
) -> None:
    found = plan("push", real("push/00"), only(events=("push",), refs=patterns))

    assert bool(found.steps) is wanted


def test_a_push_that_removes_a_ref_starts_nothing() -> None:
    event = {**real("push/00"), "deleted": True, "after": "0" * 40}

    assert plan("push", event).reason == "it has removed a ref"


@pytest.mark.parametrize("mark", ["[skip ci]", "[ci skip]", "[no ci]"])
def test_a_push_whose_commit_says_so_starts_nothing(mark: str) -> None:
    event = {**real("push/00"), "head_commit": {"message": f"Mend it {mark}"}}

    assert plan("push", event).steps == ()
    assert mark in plan("push", event).reason


def test_a_label_counts_when_it_is_given_or_there() -> None:
    settings = only(events=("pull_request",), labels=("ci:*",))
    given = {**pull_request("labeled"), "label": {"name": "ci:full"}}
    other = {**pull_request("labeled", labels=("ci:x",)), "label": {"name": "docs"}}

    assert rules_of(plan("pull_request", given, settings)) == ["r"]
    assert rules_of(plan("pull_request", other, settings)) == []
    there = pull_request("synchronize", labels=("ci:x", "docs"))
    assert rules_of(plan("pull_request", there, settings)) == ["r"]
    without = pull_request("synchronize")
    assert "none of the labels" in plan("pull_request", without, settings).reason


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (("Codertocat/*",), True),
        (("codertocat/hello-world",), True),
        (("CODERTOCAT/*",), True),
        (("acme/*", "*/Hello*"), True),
        (("acme/*",), False),
        (("Codertocat",), False),
    ],
)
def test_a_rule_is_for_the_repositories_that_it_names(
    patterns: tuple[str, ...], *, wanted: bool
) -> None:
    settings = only(events=("pull_request",), repositories=patterns)

    assert bool(plan("pull_request", pull_request(), settings).steps) is wanted


def test_a_merge_group_is_answered_by_the_rule_of_the_pull_request() -> None:
    event = real("merge_group/01-checks_requested")

    found = read_event(
        "merge_group", {**event, "repository": real("push/00")["repository"]}
    )

    assert rules_of(route(found, SETTINGS)) == ["tests"]
    assert found.sha == event["merge_group"]["head_sha"]


@pytest.mark.parametrize(
    ("name", "payload", "ref"),
    [
        ("release", "release/00-published", "refs/tags/0.0.1"),
        ("create", "create/00", "refs/tags/simple-tag"),
        (
            "repository_dispatch",
            "repository_dispatch/00-on-demand-test",
            "refs/heads/master",
        ),
        ("workflow_dispatch", "workflow_dispatch/01", "refs/heads/master"),
    ],
)
def test_an_event_without_a_commit_asks_for_that_of_its_ref(
    name: str, payload: str, ref: str
) -> None:
    event = read_event(name, real(payload))

    [step] = route(event, only(events=(name,))).steps

    assert isinstance(step, Run)
    assert step.must_ask
    assert event.ref == ref


def test_an_issue_has_a_job_without_a_commit() -> None:
    [step] = plan("issues", real("issues/17-opened"), only(events=("issues",))).steps

    assert isinstance(step, Run)
    assert not step.must_ask


def check_run(action: str, **fields: Any) -> dict[str, Any]:
    found = real("check_run/08-rerequested")
    found["action"] = action
    found["check_run"]["app"]["id"] = APP
    found["check_run"]["external_id"] = "job-1"
    return {**found, **fields}


def test_the_buttons_of_our_checks_run_again_and_cancel() -> None:
    button = {"requested_action": {"identifier": "cancel"}}

    assert plan("check_run", check_run("rerequested")).steps == (
        Button(external_id="job-1", again=True),
    )
    assert plan("check_run", check_run("requested_action", **button)).steps == (
        Button(external_id="job-1", again=False),
    )


def test_what_others_do_with_checks_is_nothing_to_us() -> None:
    foreign = check_run("rerequested")
    foreign["check_run"]["app"]["id"] = APP + 1
    unknown = check_run("requested_action", requested_action={"identifier": "fix"})

    for each in (foreign, unknown, check_run("created"), check_run("completed")):
        assert plan("check_run", each).steps == ()


def test_a_suite_that_is_wanted_again_means_all_our_checks_of_its_commit() -> None:
    suite = real("check_suite/07-rerequested")
    sha = suite["check_suite"]["head_sha"]
    ours = {**suite, "check_suite": {**suite["check_suite"], "app": {"id": APP}}}

    assert plan("check_suite", ours).steps == (SuiteAgain(sha=sha),)
    assert plan("check_suite", suite).steps == ()
    assert plan("check_suite", {**ours, "action": "requested"}).steps == ()


def test_an_installation_that_is_not_listed_starts_nothing() -> None:
    event = {**pull_request(), "installation": {"id": 7}}

    assert plan("pull_request", event, evolve(SETTINGS, installations=(7,))).steps
    found = plan("pull_request", event, evolve(SETTINGS, installations=(8,)))
    assert found.steps == ()
    assert "installation 7" in found.reason


def test_a_review_starts_a_job_if_a_rule_wants_reviews() -> None:
    event = real("pull_request_review/02-submitted")
    settings = only(events=("pull_request_review",), forks=Forks.COMMAND)

    assert rules_of(plan("pull_request_review", event, settings)) == ["r"]


@pytest.mark.parametrize("path", REAL, ids=name_of)
def test_every_real_payload_is_routed_or_has_a_reason(path: Path) -> None:
    found = plan(event_of(path), json.loads(path.read_text()))

    assert found.reason


@pytest.mark.parametrize(
    "payload",
    [None, [], "x", 5, {}, {"repository": "x"}, {"repository": {"full_name": 5}}],
)
def test_a_payload_of_another_kind_has_a_reason(payload: Any) -> None:
    for name in ("push", "pull_request", "issue_comment", "check_run", "ping", "?"):
        found = route(read_event(name, payload), SETTINGS)
        assert found.steps == ()
        assert found.reason


def test_a_repository_is_what_has_an_owner_and_a_name() -> None:
    for name in ("..", "a/../b", "a/b/c", "-", "a/b\n", "a" * 600):
        event = pull_request()
        event["repository"]["full_name"] = name
        assert read_event("pull_request", event).repository in ("", REPOSITORY)


@pytest.mark.parametrize(
    "fields",
    [
        {"events": ("status",)},
        {"events": ("push", "deployment")},
        {"events": ("deployment_status",)},
        {"events": ("deployment_protection_rule",)},
        {"events": ("check_run",)},
        {"command": "cancel"},
    ],
    ids=str,
)
def test_no_rule_is_for_what_could_be_anybodys_commit(fields: dict[str, Any]) -> None:
    settings = evolve(
        only(**fields), private_key_file=Path("key"), webhook_secret_files=(Path("s"),)
    )

    [(key, expected)] = list(mistakes(settings))

    assert key.startswith("github.rules[0].")
    assert expected.startswith("must not")


def test_a_cancel_in_a_repository_of_no_rule_is_nothing() -> None:
    settings = only(command="deploy", repositories=("acme/*",))

    found = plan("issue_comment", comment("/cancel"), settings)

    assert found.steps == ()
    assert found.reason == "no rule is for this repository"

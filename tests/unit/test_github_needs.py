"""What an App needs for a configuration: all of it, no more, and by GitHub's own word on events and calls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.errors import UsageError
from dispatchd.hub.config.github import (
    _NOT_BY_RULES,
    Forks,
    GithubSettings,
    Rule,
    Subject,
)
from dispatchd.hub.github.app.manifest import (
    code_of,
    expected_url,
    form_page,
    form_url,
    manifest,
    website,
)
from dispatchd.hub.github.app.needs import (
    KNOWN_EVENTS,
    PERMISSION_OF,
    covers,
    events,
    needs,
    permissions,
    shows_checks,
)
from dispatchd.hub.github.event import read_event
from dispatchd.hub.github.ingest.inbox import check_for
from dispatchd.hub.github.routing.job_fields import job_fields
from dispatchd.hub.github.routing.route import Cancel, Run, route
from support.fixtures import ROOT
from support.github import OPENAPI
from support.github_events import APP, REAL, SETTINGS, comment, event_of

OF_GITHUB: dict[str, Any] = json.loads(
    (ROOT / "github-permissions" / "events.json").read_text()
)
CALLS: dict[str, list[str]] = json.loads(
    (ROOT / "github-permissions" / "calls.json").read_text()
)
IN_THE_API = {
    "Actions": "actions",
    "Administration": "administration",
    "Checks": "checks",
    "Code scanning alerts": "security_events",
    "Commit statuses": "statuses",
    "Contents": "contents",
    "Dependabot alerts": "vulnerability_alerts",
    "Deployments": "deployments",
    "Discussions": "discussions",
    "Issues": "issues",
    "Members": "members",
    "Merge queues": "merge_queues",
    "Metadata": "metadata",
    "Packages": "packages",
    "Pages": "pages",
    "Pull requests": "pull_requests",
    "Secret scanning alerts": "secret_scanning_alerts",
}
"""What the docs call a permission -> what the API calls it."""

NAMES_A_REF = {"release", "create", "repository_dispatch", "workflow_dispatch"}
REPO = "/repos/{owner}/{repo}"
REACT = f"POST {REPO}/issues/comments/{{comment_id}}/reactions"
REACT_IN_REVIEW = f"POST {REPO}/pulls/comments/{{comment_id}}/reactions"
COMMENT = f"POST {REPO}/issues/{{issue_number}}/comments"


def test_every_event_needs_what_github_says() -> None:
    for event, permission in PERMISSION_OF.items():
        words = OF_GITHUB[event]["permission"]
        assert IN_THE_API[words.split('"')[1]] == permission, (event, words)
        assert OF_GITHUB[event]["to_apps"]


def test_every_event_of_github_is_known_and_no_other() -> None:
    assert set(OF_GITHUB) == KNOWN_EVENTS


def test_permissions_have_the_names_of_the_api() -> None:
    text = (OPENAPI / "api.github.com.subset.json").read_text()
    names = json.loads(text)["components"]["schemas"]["app-permissions"]["properties"]

    assert set(PERMISSION_OF.values()) <= set(names)


def broken(
    settings: GithubSettings, held: dict[str, str], told: set[str]
) -> Iterator[str]:
    """Yield what doesn't work with some permissions and events: an oracle of its own, from what routing takes."""

    def hears(event: str) -> bool:
        words = OF_GITHUB[event]["permission"].split('"')[1]
        return event in told and covers(held.get(IN_THE_API[words], ""), "read")

    def may(call: str, *without: str) -> bool:
        pairs = [each.split(": ") for each in CALLS[call]]
        return any(
            covers(held.get(name, ""), access)
            for name, access in pairs
            if name not in without
        )

    if not covers(held.get("metadata", ""), "read"):
        yield "metadata"
    yield from (
        each for rule in settings.rules for each in rule.events if not hears(each)
    )
    wanted = {each for rule in settings.rules for each in rule.events}
    if NAMES_A_REF & wanted and not may(f"GET {REPO}/branches/{{branch}}"):
        yield "a branch"
    writes = may(f"POST {REPO}/check-runs")
    if {"push", "pull_request", "release"} & wanted and not (
        writes and {"check_run", "check_suite"} <= told
    ):
        yield "checks"
    yield from _broken_commands(settings, hears, may)
    of_rules = [each.run_permissions or {} for each in settings.rules]
    for name, access in [
        pair for each in (settings.run_permissions, *of_rules) for pair in each.items()
    ]:
        yield from () if covers(held.get(name, ""), access) else (name,)


def _broken_commands(settings: GithubSettings, hears: Any, may: Any) -> Iterator[str]:
    pulls = _obeys(settings, "pull_request")
    issues = _obeys(settings, "issue")
    if (pulls or issues) and not hears("issue_comment"):
        yield "issue_comment"
    if pulls:
        yield from (
            event
            for event in ("pull_request_review", "pull_request_review_comment")
            if not hears(event)
        )
        for call in (REACT, COMMENT, REACT_IN_REVIEW):
            # Under a pull request it is the permission for pull requests that counts.
            yield from () if may(call, "issues") else (call,)
    if issues:
        for call in (REACT, COMMENT):
            yield from () if may(call, "pull_requests") else (call,)


def _obeys(settings: GithubSettings, on: str) -> bool:
    """Return whether a comment can run something, or end what an event about its subject has started."""
    names = ["", *(rule.command for rule in settings.rules if rule.command)]
    body = "\n".join(f"/run {name}".rstrip() for name in names)
    event = read_event("issue_comment", comment(body, on=on))
    started = "issues" if on == "issue" else "pull_request"
    return any(isinstance(step, Run) for step in route(event, settings).steps) or any(
        started in rule.events for rule in settings.rules
    )


RULES = st.builds(
    lambda events, command, subject, wanted: Rule(
        name="r",
        workflow="w",
        repositories=("*",),
        events=() if command else tuple(events),
        command=command,
        on=subject,
        run_permissions=wanted,
    ),
    st.lists(
        st.sampled_from(sorted(PERMISSION_OF.keys() - _NOT_BY_RULES)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["", "", "deploy"]),
    st.sampled_from(Subject),
    st.none()
    | st.dictionaries(
        st.sampled_from(["contents", "deployments"]), st.sampled_from(["read", "write"])
    ),
)
CONFIGURATIONS = st.builds(
    lambda rules, wanted: GithubSettings(
        app_id=APP, rules=tuple(rules), run_permissions=wanted
    ),
    st.lists(RULES, min_size=1, max_size=3),
    st.dictionaries(
        st.sampled_from(["contents", "packages", "statuses", "issues"]),
        st.sampled_from(["read", "write"]),
    ),
)


@given(CONFIGURATIONS)
def test_everything_works_with_what_is_asked_for(settings: GithubSettings) -> None:
    assert [*broken(settings, permissions(settings), set(events(settings)))] == []


@given(CONFIGURATIONS)
def test_something_needs_each_permission_and_each_event(
    settings: GithubSettings,
) -> None:
    held, told = permissions(settings), set(events(settings))
    # What the oracle doesn't know: that a command may be given for the code of a pull request that no event starts.
    commits = {"checks"} if shows_checks(settings) else set()

    for name, access in held.items():
        less = {**held, name: "read"} if access == "write" else {**held, name: ""}
        assert name in commits or [*broken(settings, less, told)], (name, access)
    for event in told - ({"check_run", "check_suite"} if commits else set()):
        assert [*broken(settings, held, told - {event})], event


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"events": ("issues",)}, {"issues": "write"}),
        ({"events": ("push",)}, {"checks": "write", "contents": "read"}),
        ({"events": ("workflow_run",)}, {"actions": "read", "checks": "write"}),
        ({"events": ("deployment",)}, {"checks": "write", "deployments": "read"}),
        (
            {"events": ("pull_request",)},
            {"checks": "write", "issues": "read", "pull_requests": "write"},
        ),
        (
            {"command": "deploy"},
            {"checks": "write", "issues": "read", "pull_requests": "write"},
        ),
        ({"command": "triage", "on": Subject.ISSUE}, {"issues": "write"}),
        ({"events": ("merge_group",)}, {"checks": "write", "merge_queues": "read"}),
        ({"events": ("star", "no_such_event")}, {}),
    ],
)
def test_a_rule_needs(rule: dict[str, Any], wanted: dict[str, str]) -> None:
    only = Rule(name="r", workflow="w", repositories=("*",), **rule)

    assert permissions(GithubSettings(rules=(only,))) == {**wanted, "metadata": "read"}


def test_every_job_about_a_commit_can_show_its_check() -> None:
    for path in REAL:
        if event_of(path) in _NOT_BY_RULES:
            continue
        event = read_event(event_of(path), json.loads(path.read_text()))
        rule = Rule(
            name="r",
            workflow="w",
            repositories=("*",),
            events=(event.name,),
            forks=Forks.COMMAND,
        )
        settings = GithubSettings(app_id=APP, rules=(rule,))
        for step in route(event, settings).steps:
            assert isinstance(step, Run | Cancel)
            check = check_for(job_fields(event, "", step), "r")
            assert check is None or shows_checks(settings), path


def test_each_need_says_what_for() -> None:
    assert all(each.why for each in needs(SETTINGS))
    assert "rule tests" in {each.why for each in needs(SETTINGS)}


OPTIONS = {"name": "our-ci", "webhook_url": "", "redirect_url": "http://127.0.0.1:1/"}
HUB = evolve(
    SETTINGS,
    public_url="https://hub.example/",
    run_permissions={"contents": "write", "packages": "read"},
)


def test_the_manifest_is_what_github_documents() -> None:
    assert manifest(HUB, **OPTIONS) == {
        "name": "our-ci",
        "url": "https://hub.example/",
        "hook_attributes": {
            "url": "https://hub.example/webhooks/github",
            "active": True,
        },
        "redirect_url": "http://127.0.0.1:1/",
        "callback_urls": ["https://hub.example/login/github/callback"],
        "public": False,
        "default_permissions": {
            "checks": "write",
            "contents": "write",
            "issues": "write",
            "merge_queues": "read",
            "metadata": "read",
            "packages": "read",
            "pull_requests": "write",
        },
        "default_events": [
            "check_run",
            "check_suite",
            "issue_comment",
            "merge_group",
            "pull_request",
            "pull_request_review",
            "pull_request_review_comment",
            "push",
        ],
    }


def test_a_webhook_of_another_address_gives_the_homepage_where_there_is_none() -> None:
    url = "https://relay.example:8443/hooks/1"

    found = manifest(SETTINGS, **{**OPTIONS, "webhook_url": url})

    assert found["url"] == "https://relay.example:8443"
    assert found["hook_attributes"] == {"url": url, "active": True}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "x" * 35}, "1 to 34 characters, and this one has 35"),
        ({"name": ""}, "1 to 34 characters"),
        ({"webhook_url": "ftp://hub.example/"}, "no http(s) address"),
        ({"webhook_url": "https://"}, "no http(s) address"),
        ({"webhook_url": "http://localhost:8484/"}, "no address of the machine itself"),
        ({"webhook_url": "http://127.1.2.3/"}, "no address of the machine itself"),
        ({"webhook_url": "http://[::1]/"}, "no address of the machine itself"),
    ],
)
def test_what_github_would_not_take_is_said_before(
    changed: dict[str, str], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        manifest(HUB, **{**OPTIONS, **changed})

    assert words in str(caught.value)


def test_without_any_address_the_way_out_is_said() -> None:
    with pytest.raises(UsageError, match=r"set github.public_url, or give --webhook"):
        manifest(SETTINGS, **OPTIONS)


@pytest.mark.parametrize(
    ("api", "site"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://api.github.com/", "https://github.com"),
        ("https://api.acme.ghe.com", "https://acme.ghe.com"),
        ("https://git.acme.example/api/v3", "https://git.acme.example"),
        ("https://api.acme.example/api/v3", "https://api.acme.example"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
    ],
)
def test_the_site_for_people_follows_from_the_api(api: str, site: str) -> None:
    assert website(api) == site
    assert form_url(api, "") == f"{site}/settings/apps/new"
    assert form_url(api, "a/b") == f"{site}/organizations/a%2Fb/settings/apps/new"


def test_the_page_holds_the_manifest_and_nothing_can_break_out_of_it() -> None:
    odd = {"name": '"><script>alert(1)</script>'}

    page = form_page(odd, "https://github.com/settings/apps/new")

    assert "alert" in page
    assert "<script>alert" not in page
    assert 'action="https://github.com/settings/apps/new"' in page


@pytest.mark.parametrize(
    "given",
    [
        "a1b2",
        " a1b2\n",
        "http://127.0.0.1:1/?code=a1b2",
        "https://x/y?state=1&code=a1b2",
    ],
)
def test_a_code_is_found_in_what_was_copied(given: str) -> None:
    assert code_of(given) == "a1b2"


def test_the_expected_address_needs_a_public_one() -> None:
    assert expected_url(SETTINGS) == ""
    assert expected_url(HUB) == "https://hub.example/webhooks/github"


def test_the_fixture_says_where_it_is_from() -> None:
    folder: Path = ROOT / "github-permissions"

    assert {each.name for each in folder.iterdir()} == {
        *("LICENSE", "PROVENANCE.md"),
        *("calls.json", "events.json"),
    }

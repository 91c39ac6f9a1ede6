"""What GitHub's events mean where they aren't what one would expect of them."""

from typing import Any

import pytest
from attrs import evolve

from dispatchd.hub.config.github import Forks, GithubSettings, Rule
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.event_kinds import must_be_asked_about
from dispatchd.hub.github.event import read_event
from dispatchd.hub.github.ingest.decide import Free, decide
from dispatchd.hub.github.routing.job_fields import job_fields
from dispatchd.hub.github.routing.route import Plan, Run, route
from dispatchd.protocol.github_event import job_from_event
from dispatchd.protocol.job import Job
from support.github_events import HEAD, SETTINGS, comment, pull, pull_request, real

COMMIT = "a11ce00000000000000000000000000000000002"
TAG_OBJECT = "b5c0ffee00000000000000000000000000000001"
ZEROS = "0" * 40
DEPENDABOT: dict[str, Any] = {"login": "dependabot[bot]", "type": "Bot"}


def only(**fields: Any) -> GithubSettings:
    rule = {"name": "r", "workflow": "w", "repositories": ("*",), **fields}
    return evolve(SETTINGS, rules=(Rule(**rule),))


PUSHES = only(events=("push",))


def push(**fields: Any) -> dict[str, Any]:
    """Return the push of a branch, or what its fields make of it."""
    head = {"id": COMMIT, "message": "Mend it"}
    made = {"ref": "refs/heads/main", "after": COMMIT, "head_commit": head}
    return {**real("push/00"), "deleted": False, **made, **fields}


def plan(name: str, payload: dict[str, Any], settings: GithubSettings = PUSHES) -> Plan:
    return route(read_event(name, payload), settings)


def fields_of(
    name: str, payload: dict[str, Any], settings: GithubSettings
) -> dict[str, Any]:
    """Return the fields of the only job of an event."""
    event = read_event(name, payload)
    [step] = route(event, settings).steps
    assert isinstance(step, Run)
    return dict(job_fields(event, "", step))


@pytest.mark.parametrize("after", [TAG_OBJECT, COMMIT], ids=["annotated", "light"])
def test_the_push_of_a_tag_is_about_the_commit_that_it_names(after: str) -> None:
    event = push(ref="refs/tags/v1.0.0", after=after)

    assert fields_of("push", event, PUSHES)["sha"] == COMMIT
    assert job_from_event("j", "w", "push", event).sha == COMMIT


@pytest.mark.parametrize("head", [None, {}, {"id": 5}, {"id": ZEROS}])
def test_github_is_asked_for_the_commit_of_a_tag_whose_push_has_none(head: Any) -> None:
    event = push(ref="refs/tags/v1.0.0", after=TAG_OBJECT, head_commit=head)

    [step] = plan("push", event).steps
    assert isinstance(step, Run)
    assert step.must_ask
    fields = job_fields(read_event("push", event), "", step)
    assert "sha" not in fields
    # So it is when the same job is wanted once more before GitHub has answered.
    assert must_be_asked_about(fields)
    assert not must_be_asked_about(fields.changed(sha=COMMIT))


def test_the_push_of_a_branch_without_its_commit_is_about_what_it_says() -> None:
    assert fields_of("push", push(head_commit=None), PUSHES)["sha"] == COMMIT


@pytest.mark.parametrize("zeros", [ZEROS, "0" * 64])
@pytest.mark.parametrize("ref", ["refs/heads/main", "refs/tags/v1.0.0"])
def test_a_push_to_no_commit_has_removed_its_ref(ref: str, zeros: str) -> None:
    event = push(ref=ref, after=zeros, head_commit=None)
    del event["deleted"]

    assert plan("push", event).reason == "it has removed a ref"
    assert not job_from_event("j", "w", "push", event).sha


SKIPPED = [
    *("Mend it [actions skip]", "[skip actions] Mend it"),
    *("Mend it\n\n\nskip-checks: true", "Mend it\n\n\nskip-checks:true\n"),
    "Mend it\n\nAs said.\n\nSigned-off-by: Kim <kim@example.org>\nskip-checks: true",
    "Mend it\r\n\r\n\r\nskip-checks: true\r\n",
    "Mend it\n\nSkip-Checks: true\nCo-authored-by: Kim <kim@example.org>",
]
NOT_SKIPPED = [
    *("", "skip-checks: true", "Mend it\nskip-checks: true"),
    "Mend it\n\nskip-checks: true\n\nIs what this says.",
    *("Mend it\n\nskip-checks: false", "Mend it\n\nSay skip-checks: true here"),
    *("Mend it [actions  skip]", "request-checks: true"),
]


@pytest.mark.parametrize("message", SKIPPED)
def test_a_push_starts_nothing_whose_commit_says_so(message: str) -> None:
    found = plan("push", push(head_commit={"id": COMMIT, "message": message}))

    assert found.steps == ()
    assert found.reason.startswith("the message of its commit has ")


@pytest.mark.parametrize("message", NOT_SKIPPED)
def test_a_push_counts_whose_commit_only_sounds_like_that(message: str) -> None:
    assert plan("push", push(head_commit={"id": COMMIT, "message": message})).steps


@pytest.mark.parametrize(
    "name",
    [
        *("acme/.github", "acme/.github-private", "acme/.dotfiles", "acme/..."),
        *("acme/a.b", "acme/-x", "acme/_", "acme/..x", "a-b/shop", "octo_acme/shop"),
    ],
)
def test_a_repository_is_called_as_github_allows(name: str) -> None:
    event = push()
    event["repository"]["full_name"] = name

    assert plan("push", event, only(events=("push",), repositories=("*/*",))).steps
    assert Job(id="j", repository=name).owner_and_name == tuple(name.split("/"))


@pytest.mark.parametrize(
    "name",
    [
        *("acme/.", "acme/..", "./shop", "../shop", "a.b/shop", ".acme/shop", "/shop"),
        *("acme/", "acme", "acme/a/b", "acme/a b", "acme/..\n", "acme/\u00e9", "a//b"),
    ],
)
def test_what_is_no_repository_of_github_starts_nothing(name: str) -> None:
    event = push()
    event["repository"]["full_name"] = name

    assert plan("push", event).steps == ()
    assert Job(id="j", repository=name).owner_and_name is None


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("code_scanning_alert", "refs/pull/5/merge"),
        ("push", "refs/pull/5/head"),
        ("create", "refs/pull/5/head"),
        ("workflow_dispatch", "refs/pull/5/merge"),
    ],
)
@pytest.mark.parametrize("forks", Forks)
def test_what_is_about_a_pull_request_and_does_not_say_whose_is_a_forks(
    name: str, ref: str, forks: Forks
) -> None:
    event = {**push(ref=ref), "action": "created"}

    assert plan(name, event, only(events=(name,), forks=forks)).steps == ()
    assert plan(name, push(), only(events=(name,), forks=forks)).steps


def test_an_event_about_a_pull_request_that_says_whose_it_is_is_taken_at_its_word() -> (
    None
):
    settings = only(events=("pull_request",), forks=Forks.COMMAND)

    event = {**pull_request(), "ref": "refs/pull/2/merge"}
    forked = {**pull_request(fork=True), "ref": "refs/heads/main"}

    assert "from_fork" not in fields_of("pull_request", event, settings)
    assert plan("pull_request", forked, settings).steps == ()


def by_dependabot(name: str) -> dict[str, Any]:
    event = pull_request() if name == "pull_request" else push()
    return {**event, "sender": DEPENDABOT}


@pytest.mark.parametrize("name", ["pull_request", "push"])
def test_the_code_of_dependabot_gets_no_secrets_unless_a_rule_says_so(
    name: str,
) -> None:
    event = by_dependabot(name)
    trusting = only(events=(name,), dependabot_secrets=True)

    assert fields_of(name, event, only(events=(name,)))["from_fork"] is True
    assert "from_fork" not in fields_of(name, event, trusting)


def test_the_code_of_dependabot_stays_that_whoever_labels_it() -> None:
    event = pull_request("labeled")
    event["pull_request"]["user"] = DEPENDABOT
    settings = only(events=("pull_request",), actions=("labeled",))

    assert fields_of("pull_request", event, settings)["from_fork"] is True


@pytest.mark.parametrize(
    "login", ["renovate[bot]", "dependabot", "dependabot-fan", "xdependabot[bot]"]
)
def test_what_others_have_written_gets_its_secrets(login: str) -> None:
    event = {**pull_request(), "sender": {"login": login, "type": "Bot"}}
    settings = only(events=("pull_request",))

    assert "from_fork" not in fields_of("pull_request", event, settings)


@pytest.mark.parametrize(("trusts", "held"), [(False, True), (True, None)])
def test_a_command_for_the_code_of_dependabot_gets_no_secrets_either(
    *, trusts: bool, held: bool | None
) -> None:
    [rule] = only(command="deploy", dependabot_secrets=trusts).rules
    found = decide(
        rule,
        "issue_comment",
        comment("/run deploy"),
        JobDocument({}),
        pull={**pull(), "user": DEPENDABOT},
        permission="write",
    )

    assert isinstance(found, Free)
    assert found.document["sha"] == HEAD
    assert found.document.get("from_fork") is held


@pytest.mark.parametrize("login", ["dependabot[bot]", "renovate[bot]"])
def test_a_rule_may_leave_bots_out(login: str) -> None:
    event = {**push(), "sender": {"login": login, "type": "Bot"}}

    without = only(events=("push",), bots=False)
    assert plan("push", event, without).reason == f"r: {login} is a bot"
    assert plan("push", event).steps
    assert plan("push", push(), without).steps


def test_a_merge_group_is_answered_though_its_sender_is_always_a_bot() -> None:
    event = real("merge_group/01-checks_requested")
    event |= {"repository": real("push/00")["repository"]}
    event |= {"sender": {"login": "github-merge-queue[bot]", "type": "Bot"}}

    assert plan("merge_group", event, only(events=("merge_group",), bots=False)).steps


@pytest.mark.parametrize(
    ("name", "payload", "title"),
    [
        ("push", push(), "Mend it"),
        ("push", push(head_commit={"id": COMMIT, "message": "\n A\r\n\nB"}), "A"),
        ("push", push(head_commit={"id": COMMIT, "message": ["no text"]}), ""),
        ("push", push(head_commit={"id": COMMIT, "message": " \n "}), ""),
        ("push", push(head_commit={"id": COMMIT, "message": "x\ud800\0"}), "x?�"),
        (
            "push",
            push(head_commit={"id": COMMIT, "message": "<b>\x1b" + "x" * 10_000_000}),
            "<b>\x1b" + "x" * 196 + "…",
        ),
        ("pull_request", {"pull_request": {"title": "Of the PR"}}, "Of the PR"),
        ("issue_comment", {"issue": {"title": "Of the issue"}}, "Of the issue"),
        ("ping", {"zen": "Keep it"}, ""),
    ],
)
def test_a_job_is_titled_by_what_its_event_is_about(
    name: str, payload: dict[str, Any], title: str
) -> None:
    assert read_event(name, payload).title == title


def test_the_title_is_in_the_job() -> None:
    assert fields_of("push", push(), PUSHES)["title"] == "Mend it"

import json
from pathlib import Path
from unicodedata import category

import pytest

from dispatchd.domain.event import job_from_event
from dispatchd.domain.go_quote import go_quote
from dispatchd.domain.job import Job, Json
from dispatchd.domain.parameters import (
    LONGEST_TEXT,
    LONGEST_VALUE,
    RunPaths,
    derive,
    environment,
    runtime_parameters,
)
from support.fixtures import ROOT, Example, examples

JOB = Job(id="j", workflow="w")


def of(example: Example) -> dict[str, str]:
    payload = json.loads(example.text)
    return dict(
        derive(job_from_event("j", "w", example.event, payload), payload).values
    )


def named(event: str, name: str) -> Example:
    return Example(event, ROOT / "github-webhooks" / event / f"{name}.json")


def run(payload: str = "null", headers: str = "null") -> RunPaths:
    return RunPaths(
        run_id="j",
        attempt=1,
        workspace="/w",
        event_file="/e",
        headers_file="/h",
        payload_text=payload,
        headers_text=headers,
    )


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_every_real_payload_gives_its_repository_and_actor(example: Example) -> None:
    payload, values = json.loads(example.text), of(example)

    assert values.get("GITHUB_REPOSITORY") == payload.get("repository", {}).get(
        "full_name"
    )
    assert values.get("GITHUB_ACTOR") == payload.get("sender", {}).get("login")
    assert values["GITHUB_EVENT_NAME"] == example.event
    assert list(values) == sorted(values)
    assert "" not in values.values()


def test_a_push_names_branch_and_commit() -> None:
    values = of(named("push", "03"))
    payload = json.loads(named("push", "03").text)

    assert values["GITHUB_REF"] == payload["ref"]
    assert values["GITHUB_SHA"] == payload["after"]
    assert values["GITHUB_REF_NAME"] == payload["ref"].split("/", 2)[2]


def test_a_pull_request_names_both_branches() -> None:
    values = of(named("pull_request", "00-opened"))

    assert values["GITHUB_PR_NUMBER"] == "2"
    assert (values["GITHUB_HEAD_REF"], values["GITHUB_BASE_REF"]) == (
        "changes",
        "master",
    )
    assert values["GITHUB_REF"] == "refs/pull/2/head"
    assert values["GITHUB_REF_NAME"] == "2/head"
    assert values["GITHUB_SERVER_URL"] == "https://github.com"
    assert values["GITHUB_API_URL"] == "https://api.github.com"


def test_a_comment_names_issue_and_comment() -> None:
    values = of(named("issue_comment", "00-created"))

    assert values["GITHUB_ISSUE_NUMBER"] == "1"
    assert values["GITHUB_COMMENT_ID"].isdigit()
    assert "GITHUB_PR_NUMBER" not in values


def test_a_release_names_its_tag() -> None:
    assert of(named("release", "00-published"))["GITHUB_RELEASE_TAG"] == "0.0.1"


def test_an_enterprise_server_has_its_own_addresses() -> None:
    payload: Json = {"repository": {"html_url": "https://user:pw@git.example.com/o/r"}}

    values = derive(JOB, payload).values

    assert values["GITHUB_SERVER_URL"] == "https://git.example.com"
    assert values["GITHUB_API_URL"] == "https://git.example.com/api/v3"


@pytest.mark.parametrize(
    ("job", "payload", "name", "value"),
    [
        (Job(id="j", ref="refs/tags/v1"), None, "GITHUB_RELEASE_TAG", "v1"),
        (
            Job(id="j", ref="refs/tags/v1"),
            {"release": {"tag_name": "v2"}},
            "GITHUB_RELEASE_TAG",
            "v2",
        ),
        (
            JOB,
            {"workflow": ".github/workflows/a.yml"},
            "GITHUB_WORKFLOW",
            ".github/workflows/a.yml",
        ),
        (JOB, {"workflow": {"name": "CI", "path": "p"}}, "GITHUB_WORKFLOW", "CI"),
        (JOB, {"workflow": {"name": "", "path": "p"}}, "GITHUB_WORKFLOW", "p"),
        (JOB, {"workflow": 5}, "GITHUB_WORKFLOW", None),
        (
            Job(id="j", event="repository_dispatch", action="deploy"),
            {},
            "GITHUB_DISPATCH_EVENT_TYPE",
            "deploy",
        ),
        (
            Job(id="j", event="push", action="deploy"),
            {},
            "GITHUB_DISPATCH_EVENT_TYPE",
            None,
        ),
        (Job(id="j", command="deploy"), {}, "GITHUB_COMMAND", "deploy"),
        (Job(id="j", repository="o/r"), {}, "GITHUB_REPOSITORY_OWNER", "o"),
        (Job(id="j", ref="refs/heads/a/b"), {}, "GITHUB_REF_NAME", "a/b"),
        (Job(id="j", ref="refs/heads/a/b"), {}, "GITHUB_REF_TYPE", "branch"),
    ],
)
def test_a_parameter_comes_from_its_place(
    job: Job, payload: Json, name: str, value: str | None
) -> None:
    assert derive(job, payload).values.get(name) == value


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("x" * (LONGEST_VALUE + 1), "longer than"),
        ("a\nGITHUB_SHA=evil", "control character"),
        ("a\0b", "control character"),
        ("\ud800", "not Unicode"),
    ],
)
def test_an_unfit_value_is_left_out_and_named(ref: str, reason: str) -> None:
    found = derive(Job(id="j", ref=ref), None)

    assert "GITHUB_REF" not in found.values
    assert any(
        each.name == "GITHUB_REF" and reason in each.reason for each in found.left_out
    )


def test_a_value_of_the_longest_size_is_kept() -> None:
    assert (
        derive(Job(id="j", sha="x" * LONGEST_VALUE), None).values["GITHUB_SHA"]
        == "x" * LONGEST_VALUE
    )


@pytest.mark.parametrize(
    ("size", "kept"), [(LONGEST_TEXT - 1, True), (LONGEST_TEXT, False)]
)
def test_the_payload_is_a_string_only_where_short(size: int, kept: bool) -> None:  # noqa: FBT001  # a column of the table
    found = environment(JOB, None, run(payload="1" * size))

    assert ("WEBHOOK_PAYLOAD" in found.values) is kept
    assert found.values["WEBHOOK_PAYLOAD_FILE"] == "/e"


def test_a_run_is_told_who_it_is() -> None:
    values = environment(JOB, None, run()).values

    assert values["CI"] == values["DISPATCHD"] == "true"
    assert values["GITHUB_EVENT_PATH"] == "/e"
    assert values["WEBHOOK_HEADERS"] == "null"
    assert "GITHUB_ACTIONS" not in values


def test_dagus_inline_form_is_sorted_and_quoted() -> None:
    assert (
        runtime_parameters({"B": 'say "hi"\n', "A": "1"}) == r'A="1" B="say \"hi\"\n"'
    )


def test_quoting_is_that_of_go() -> None:
    pairs = json.loads((Path(ROOT) / "go-quote.json").read_text())["pairs"]
    # Go may know characters of a newer Unicode than this Python.
    known = [
        pair for pair in pairs if all(category(letter) != "Cn" for letter in pair[0])
    ]

    assert len(known) > 1000
    assert [go_quote(text) for text, _ in known] == [quoted for _, quoted in known]

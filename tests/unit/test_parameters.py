import json
from collections.abc import Mapping

import pytest

from dispatchd.agent.domain.run.environment import derive
from dispatchd.agent.domain.run.github_server import PUBLIC as PUBLIC_SERVER
from dispatchd.agent.domain.run.github_server import server_of
from dispatchd.protocol.github_event import job_from_event
from dispatchd.protocol.job import Job, Json
from support.fixtures import ROOT, Example, examples

JOB = Job(id="j", workflow="w")


def of(example: Example) -> dict[str, str]:
    payload = json.loads(example.text)
    return dict(
        derive(job_from_event("j", "w", example.event, payload), payload).values
    )


def named(event: str, name: str) -> Example:
    return Example(event, ROOT / "github-webhooks" / event / f"{name}.json")


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


PUBLIC = {"SERVER_URL": "https://github.com", "API_URL": "https://api.github.com"}
PULL_REQUEST = {
    "PR_NUMBER": "2",
    "HEAD_REF": "changes",
    "BASE_REF": "master",
    "REF": "refs/pull/2/head",
    "REF_NAME": "2/head",
    "REF_TYPE": None,
    "SHA": "ec26c3e57ca3a959ca5aad62de7213c562f8c821",
    "ISSUE_NUMBER": None,
}


@pytest.mark.parametrize(
    ("event", "name", "expected"),
    [
        (
            "push",
            "04",
            {
                "REF": "refs/heads/master",
                "REF_NAME": "master",
                "REF_TYPE": "branch",
                "SHA": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
                "REPOSITORY_ID": "186853002",
                "REPOSITORY_OWNER": "Codertocat",
                "RELEASE_TAG": None,
                "EVENT_ACTION": None,
                "HEAD_REF": None,
                **PUBLIC,
            },
        ),
        (
            "push",
            "00",
            {
                "REF_NAME": "simple-tag",
                "REF_TYPE": "tag",
                "RELEASE_TAG": "simple-tag",
            },
        ),
        ("create", "00", {"REF_NAME": "simple-tag", "REF_TYPE": "tag", "SHA": None}),
        ("delete", "02", {"REF": "simple-tag", "REF_TYPE": "tag"}),
        ("pull_request", "00-opened", {"EVENT_ACTION": "opened", **PULL_REQUEST}),
        ("pull_request_review", "02-submitted", PULL_REQUEST),
        (
            "pull_request_review_comment",
            "01-created",
            {"COMMENT_ID": "284312630", **PULL_REQUEST},
        ),
        (
            "issue_comment",
            "00-created",
            {
                "ISSUE_NUMBER": "1",
                "COMMENT_ID": "492700400",
                "PR_NUMBER": None,
                "REF": None,
                "SHA": None,
            },
        ),
        (
            "release",
            "00-published",
            {"RELEASE_TAG": "0.0.1", "REF_TYPE": "tag", "SHA": None},
        ),
        (
            "check_run",
            "08-rerequested",
            {
                "CHECK_RUN_ID": "4",
                "SHA": "d6fde92930d4715a2b49857d24b940956b26d2d3",
                "EVENT_ACTION": "rerequested",
            },
        ),
        (
            "check_suite",
            "07-rerequested",
            {
                "SHA": "ec26c3e57ca3a959ca5aad62de7213c562f8c821",
                "CHECK_RUN_ID": None,
            },
        ),
        (
            "workflow_dispatch",
            "01",
            {
                "WORKFLOW": ".github/workflows/hello-world-workflow.yml",
                "REF_NAME": "master",
                "DISPATCH_EVENT_TYPE": None,
            },
        ),
        ("workflow_run", "01-completed", {"WORKFLOW": "test"}),
        (
            "repository_dispatch",
            "00-on-demand-test",
            {"DISPATCH_EVENT_TYPE": "on-demand-test", "WORKFLOW": None},
        ),
        (
            "merge_group",
            "01-checks_requested",
            {"SHA": "2ffea6db159f6b6c47a24e778fb9ef40cf6b1c7d", "PR_NUMBER": None},
        ),
        (
            "security_advisory",
            "01-published",
            {"REPOSITORY": None, "REPOSITORY_OWNER": None, "ACTOR": None, **PUBLIC},
        ),
        ("installation", "01-created", {"REPOSITORY": None, **PUBLIC}),
    ],
)
def test_an_event_gives_what_it_knows(
    event: str, name: str, expected: Mapping[str, str | None]
) -> None:
    values = of(named(event, name))

    assert {key: values.get(f"GITHUB_{key}") for key in expected} == expected


ENTERPRISE = "https://octocoders.github.io"


@pytest.mark.parametrize(
    "example",
    [each for each in examples() if "ghes" in each.name],
    ids=lambda example: example.name,
)
def test_a_payload_of_an_enterprise_server_chooses_it_where_it_is_configured(
    example: Example,
) -> None:
    payload = json.loads(example.text)
    job = job_from_event("j", "w", example.event, payload)

    values = derive(job, payload, (PUBLIC_SERVER, ENTERPRISE)).values

    named = ENTERPRISE in example.text
    server = ENTERPRISE if named else PUBLIC_SERVER
    assert values["GITHUB_SERVER_URL"] == server
    assert (values["GITHUB_API_URL"] == f"{server}/api/v3") is named
    assert of(example)["GITHUB_SERVER_URL"] == PUBLIC_SERVER


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("https://user:pw@git.example.com/o/r", "https://git.example.com"),
        ("https://GIT.example.com:8443/o/r", "https://git.example.com:8443"),
        ("https://git.example.com:443/o/r", "https://git.example.com"),
        ("https://[2001:db8::1]:8443/o/r", "https://[2001:db8::1]:8443"),
        ("https://acme.ghe.com/o/r", "https://acme.ghe.com"),
        ("https://api.acme.ghe.com/repos/o/r", "https://acme.ghe.com"),
        ("https://api.github.com/repos/o/r", "https://github.com"),
        ("https://api.example.com/o/r", "https://api.example.com"),
        ("https://git.example.com/api/v3/repos/o/r", "https://git.example.com"),
        ("http://git.example.com/o/r", ""),
        ("ssh://git.example.com/o/r", ""),
        ("", ""),
        ("github.com/o/r", ""),
        ("file:///etc/passwd", ""),
        ("https:///o/r", ""),
        ("https://[::1", ""),
        ("https://a b/o", ""),
        ("https://a$(id)/o", ""),
        ("https://h:port/o", ""),
        ("https://h:999999/o", ""),
        ("https://user@/o", ""),
    ],
)
def test_an_address_has_a_server_or_none(address: str, server: str) -> None:
    assert server_of(address) == server


@pytest.mark.parametrize(
    ("server", "api", "graphql"),
    [
        (
            "https://github.com",
            "https://api.github.com",
            "https://api.github.com/graphql",
        ),
        (
            "https://acme.ghe.com",
            "https://api.acme.ghe.com",
            "https://api.acme.ghe.com/graphql",
        ),
        (
            "https://ghe.example:8443",
            "https://ghe.example:8443/api/v3",
            "https://ghe.example:8443/api/graphql",
        ),
    ],
)
def test_the_addresses_of_a_server(server: str, api: str, graphql: str) -> None:
    values = derive(JOB, None, (server,)).values

    assert values["GITHUB_SERVER_URL"] == server
    assert values["GITHUB_API_URL"] == api
    assert values["GITHUB_GRAPHQL_URL"] == graphql


@pytest.mark.parametrize(
    "repository",
    [
        {"html_url": "https://evil.example/o/r"},
        {"html_url": "http://ghe.example/o/r"},
        {"html_url": "https://ghe.example.evil.example/o/r"},
        {"html_url": "https://ghe.example:8443/o/r"},
        {"html_url": "https://github.com@evil.example/o/r"},
        {"html_url": "https://evil.ghe.com/o/r"},
        {"html_url": ["https://ghe.example/"]},
        {"url": "https://evil.example/api/v3/repos/o/r"},
    ],
)
def test_a_payload_names_no_server_of_its_own(repository: Json) -> None:
    payload: Json = {
        "repository": repository,
        "sender": {"html_url": "https://evil.example/u"},
    }

    values = derive(JOB, payload, (PUBLIC_SERVER, "https://ghe.example")).values

    assert values["GITHUB_SERVER_URL"] == PUBLIC_SERVER
    assert "evil" not in str(values)


def test_where_no_server_is_known_none_is_named() -> None:
    payload: Json = {"repository": {"html_url": "https://evil.example/o/r"}}

    assert not {each for each in derive(JOB, payload, ()).values if "URL" in each}


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
        (Job(id="j", repository="o"), {}, "GITHUB_REPOSITORY_OWNER", None),
        (Job(id="j", repository_id=0), {}, "GITHUB_REPOSITORY_ID", None),
        (Job(id="j", ref="main"), {"ref_type": "branch"}, "GITHUB_REF_TYPE", "branch"),
        (Job(id="j", ref="main"), {"ref_type": "x"}, "GITHUB_REF_TYPE", None),
        (
            Job(id="j", ref="refs/tags/a"),
            {"ref_type": "branch"},
            "GITHUB_REF_TYPE",
            "tag",
        ),
        (Job(id="j", ref="refs/heads/a/b"), {}, "GITHUB_REF_NAME", "a/b"),
        (Job(id="j", ref="refs/heads/a/b"), {}, "GITHUB_REF_TYPE", "branch"),
    ],
)
def test_a_parameter_comes_from_its_place(
    job: Job, payload: Json, name: str, value: str | None
) -> None:
    assert derive(job, payload).values.get(name) == value

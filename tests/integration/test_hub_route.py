"""`dispatchd hub route`: it says what the hub would do, does nothing, and never says more than one line of trouble."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from click.testing import CliRunner

from dispatchd.cli.hub.github.route import route
from support.cli import Done, dispatchd
from support.github_events import (
    HEAD,
    REAL,
    SECRET,
    comment,
    event_of,
    pull,
    pull_request,
    real,
    signature,
)
from support.hub import hub

CONFIG = """
[github]
[[github.rules]]
name = "tests"
workflow = "ci"
repositories = ["codertocat/*"]
events = ["pull_request", "push", "merge_group", "release", "check_new_thing"]
forks = "command"
priority = 3
[[github.rules]]
name = "deploy"
workflow = "deploy"
repositories = ["*"]
command = "deploy"
permission = "maintain"
[[github.rules]]
name = "triage"
workflow = "triage"
repositories = ["*"]
command = "triage"
on = "issue"
"""
WITH_APP = CONFIG.replace(
    "[github]\n",
    '[github]\napp_id = 4711\nprivate_key_file = "k"\ningest = "poll"\n',
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hub.toml").write_text(CONFIG)
    return tmp_path


def say(folder: Path, *words: str) -> Done:
    done = dispatchd("hub", "route", *words, cwd=folder)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def explained(folder: Path, payload: Any, *words: str) -> dict[str, Any]:
    """Return what is said of a payload, in this process, which is faster."""
    file = folder / "event.json"
    file.write_text(payload if isinstance(payload, str) else json.dumps(payload))
    config = ["--config", str(folder / "hub.toml")]
    done = CliRunner().invoke(route, [str(file), "--json", *config, *words])
    assert done.exception is None, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_real_payload_is_explained(folder: Path) -> None:
    for path in REAL:
        found = explained(folder, path.read_text(), "--event", event_of(path))

        assert found["reason"], path
        assert [each["rule"] for each in found["rules"]] == [
            "tests",
            "deploy",
            "triage",
        ]
        started = [each for each in found["steps"] if each["job"]]
        matching = [each for each in found["rules"] if each["matches"]]
        assert not started or matching, path


def test_people_read_which_rule_matches_and_what_is_queued(folder: Path) -> None:
    file = folder / "event.json"
    file.write_text(json.dumps(pull_request()))

    done = say(folder, "event.json", "--event", "pull_request")

    assert done.returncode == 0
    assert (
        done.stdout
        == f"""\
pull_request.opened on Codertocat/Hello-World by Codertocat
it would start: rule tests: workflow ci
  rule tests matches -> workflow ci (priority 3)
  rule deploy doesn't match: it is for /run deploy under a pull request
  rule triage doesn't match: it is for /run triage under an issue

1. rule tests: workflow ci, priority 3
   repository_id        186853002
   repository_name      Codertocat/Hello-World
   event_name           pull_request
   event_action         opened
   ref                  refs/pull/2/head
   sha                  {HEAD}
   pull_request_number  2
   actor_login          Codertocat
   title                Update the README with new information.
   binding_id           tests
   dag_name             ci
"""
    )


def test_a_rule_says_why_it_does_not_match(folder: Path) -> None:
    closed = explained(folder, pull_request("closed"), "--event", "pull_request")
    fork = explained(folder, pull_request(fork=True), "--event", "pull_request")
    words = say(folder, "event.json", "--event", "pull_request").stdout

    assert closed["steps"] == fork["steps"] == []
    assert "the action closed isn't one of" in closed["rules"][0]["why_not"]
    assert fork["rules"][0]["waits_for_command"] is True
    assert "it starts nothing: its code comes from a fork" in words
    assert "once somebody who may write says /run SHA" in words


def test_a_comment_shows_each_command_and_what_github_would_be_asked(
    folder: Path,
) -> None:
    body = "> /run old\n\n/run deploy\n/run\nplease /run deploy\n/cancel\n/run nothing"
    found = explained(folder, comment(body), "--event", "issue_comment")
    words = say(folder, "event.json", "--event", "issue_comment").stdout

    assert [(each["line"], each["rules"]) for each in found["commands"]] == [
        ("/run deploy", ["deploy"]),
        ("/run", ["tests"]),
        ("/cancel", []),
        ("/run nothing", []),
        ("> /run old", []),
        ("please /run deploy", []),
    ]
    deploy, tests, cancel = found["steps"]
    assert deploy["asks_github"][0].endswith("has the permission maintain")
    assert tests["asks_github"] == [
        "whether octocat has the permission write",
        "pull request 2: open, its newest commit, base, fork, draft, labels",
    ]
    assert deploy["job"]["command"] == "deploy"
    assert cancel["job"]["command"] == "cancel"
    assert found["rules"][0]["by_command"] is True
    assert "/run nothing -> no rule" in words
    assert "'> /run old' is no command" in words


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (comment("/run deploy", kind="Bot"), "bots give no commands"),
        (comment("/run deploy", action="edited"), "only new comments count"),
    ],
)
def test_what_is_refused_at_once_is_said(
    folder: Path, event: dict[str, Any], words: str
) -> None:
    found = explained(folder, event, "--event", "issue_comment")

    assert found["steps"] == []
    assert words in found["commands_refused"]
    assert words in say(folder, "event.json", "--event", "issue_comment").stdout


@pytest.mark.parametrize(
    ("permission", "fork", "body", "decision"),
    [
        ("maintain", False, "/run deploy", f"queued for {HEAD}"),
        ("write", False, "/run deploy", "and maintain is needed"),
        ("write", True, "/run", "name the full SHA of the commit"),
        ("write", True, f"/run {HEAD}", f"queued for {HEAD}, without secrets"),
        ("read", True, f"/run {HEAD}", "and write is needed"),
        ("write", False, "/cancel", "it is carried out"),
        ("none", False, "/cancel", "and write is needed"),
    ],
)
def test_githubs_answers_can_be_played(
    folder: Path, permission: str, *, fork: bool, body: str, decision: str
) -> None:
    (folder / "pull.json").write_text(json.dumps(pull(fork=fork)))
    answers = ["--permission", permission, "--pull", str(folder / "pull.json")]

    found = explained(folder, comment(body), "--event", "issue_comment", *answers)

    [step] = found["steps"]
    assert decision in step["decision"]
    refused = step["decision"].startswith("refused")
    assert (step["job"] is None) is refused
    if not refused and body != "/cancel":
        assert step["job"]["sha"] == HEAD
        assert step["job"].get("from_fork", False) is fork


def test_a_command_under_an_issue_needs_no_pull_request(folder: Path) -> None:
    event = comment("/run triage", on="issue")

    found = explained(
        folder, event, "--event", "issue_comment", "--permission", "write"
    )

    [step] = found["steps"]
    assert step["decision"] == "queued"
    under_pull = explained(
        folder,
        comment("/run deploy"),
        "--event",
        "issue_comment",
        "--permission",
        "admin",
    )
    assert "--pull" in under_pull["steps"][0]["decision"]


def test_buttons_say_what_they_run_again_and_end(folder: Path) -> None:
    (folder / "hub.toml").write_text(WITH_APP)
    event = real("check_run/08-rerequested")
    event["check_run"] |= {"app": {"id": 4711}, "external_id": "job-1#2"}
    again = explained(folder, event, "--event", "check_run")
    pressed = {
        "action": "requested_action",
        "requested_action": {"identifier": "cancel"},
    }
    ends = explained(folder, {**event, **pressed}, "--event", "check_run")
    suite = real("check_suite/07-rerequested")
    suite["check_suite"]["app"]["id"] = 4711
    whole = explained(folder, suite, "--event", "check_suite")

    assert again["steps"][0]["does"] == "runs again what job job-1 stands for"
    assert ends["steps"][0]["does"] == "ends what job job-1 stands for"
    sha = suite["check_suite"]["head_sha"]
    assert (
        whole["steps"][0]["does"] == f"runs again the newest job of each check of {sha}"
    )
    assert (
        "somebody else"
        in explained(folder, suite | {"check_suite": {}}, "--event", "check_suite")[
            "reason"
        ]
    )


def test_an_event_that_names_a_ref_asks_for_its_commit(folder: Path) -> None:
    found = explained(folder, real("release/00-published"), "--event", "release")

    assert found["steps"][0]["asks_github"] == ["the commit of refs/tags/0.0.1"]


@pytest.mark.parametrize(
    "delivery",
    [
        {"event": "push", "request": {"headers": {}, "payload": real("push/00")}},
        {
            "request": {
                "headers": {"X-GitHub-Event": "push"},
                "payload": real("push/00"),
            }
        },
        {"event": "push", "request": {"payload": json.dumps(real("push/00"))}},
    ],
)
def test_a_delivery_as_github_has_it_brings_its_event(
    folder: Path, delivery: dict[str, Any]
) -> None:
    found = explained(folder, {"guid": "g-1", **delivery})

    assert found["event"] == "push"
    assert found["steps"][0]["job"]["delivery_id"] == "g-1"


def test_trouble_is_one_line(folder: Path) -> None:
    files = {
        "push.json": json.dumps(real("push/00")),
        "bad.json": "{",
        "odd.json": json.dumps({"request": {"payload": {}}}),
        "text.json": json.dumps({"event": "push", "request": {"payload": "{"}}),
        "delivery.json": json.dumps({"event": "push", "request": {"payload": {}}}),
        "no.toml": "",
        "rules.toml": "[github]\n",
        "twice.toml": CONFIG.replace('"triage"\nworkflow', '"deploy"\nworkflow'),
        "wrong.toml": CONFIG.replace("command =", "order ="),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    push = ("push.json", "--event", "push")
    cases: dict[tuple[str, ...], tuple[int, str]] = {
        ("none.json", "--event", "push"): (os.EX_USAGE, "none.json"),
        ("bad.json", "--event", "push"): (os.EX_USAGE, "cannot use bad.json"),
        ("push.json",): (os.EX_USAGE, "--event has to name its event"),
        ("odd.json",): (os.EX_USAGE, "names no event"),
        ("text.json",): (os.EX_USAGE, "cannot use text.json"),
        ("push.json", "--event", "pusch"): (
            os.EX_USAGE,
            "no event 'pusch'; push is one",
        ),
        ("push.json", "--event", ""): (os.EX_USAGE, "--event has to name"),
        ("delivery.json", "--event", "release"): (os.EX_USAGE, "and not release"),
        (*push, "--pull", "bad.json"): (os.EX_USAGE, "cannot use bad.json"),
        (*push, "--config", "gone.toml"): (os.EX_CONFIG, "gone.toml"),
        (*push, "--config", "no.toml"): (os.EX_CONFIG, "github: must be there"),
        (*push, "--config", "twice.toml"): (os.EX_CONFIG, "must be unique; 'deploy'"),
        (*push, "--config", "rules.toml"): (os.EX_CONFIG, "github.rules: must be"),
    }
    for words, (code, part) in cases.items():
        done = say(folder, *words)
        assert done.returncode == code, (words, done)
        [line] = done.stderr.splitlines()
        assert line.startswith("dispatchd: ")
        assert part in line, line
    wrong = say(folder, *push, "--config", "wrong.toml")
    assert wrong.returncode == os.EX_CONFIG
    assert "github.rules[1]" in wrong.stderr


def test_an_event_newer_than_this_release_counts_if_a_rule_names_it(
    folder: Path,
) -> None:
    found = explained(folder, real("push/00"), "--event", "check_new_thing")

    assert found["rules"][0]["matches"] is True


async def test_it_says_what_a_hub_does(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "secret").write_text(SECRET)
    (folder / "token").write_text("token-of-the-hub")
    head = 'token_file = "token"\nwebhook_secret_files = ["secret"]\n'
    more = CONFIG.replace(
        "[github]\n", f'[github]\napi_url = "http://127.0.0.1:9"\n{head}'
    )
    events = {
        "pull_request": pull_request(),
        "push": real("push/00"),
        "release": real("release/00-published"),
        "issue_comment": comment("/run deploy\n/run\n/cancel"),
    }
    async with hub(folder, more=more) as server:
        for name, payload in events.items():
            body = json.dumps(payload).encode()
            reply = await server.http.post(
                "/webhooks/github",
                content=body,
                headers={
                    "X-GitHub-Delivery": f"d-{name}",
                    "X-GitHub-Event": name,
                    "X-Hub-Signature-256": signature(body),
                    "Content-Type": "application/json",
                },
            )
            delivery = {
                "guid": f"d-{name}",
                "event": name,
                "request": {"payload": payload},
            }
            said = await to_thread.run_sync(explained, folder, delivery)

            assert reply.json()["reason"] == said["reason"]
            made = [
                (await server.http.get(f"/api/v1/jobs/{each}")).json()
                for each in reply.json()["jobs"]
            ]
            assert len(made) == len(said["steps"]) > 0
            for job, step in zip(made, said["steps"], strict=True):
                assert {key: job[key] for key in step["job"]} == step["job"]
                asks = "received" if step["asks_github"] else "queued"
                assert job["state"] == asks

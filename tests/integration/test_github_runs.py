"""From a pull request to its check, through a real hub and a real daemon; and the token of a run."""

from pathlib import Path
from typing import Any

from support.clock import within
from support.daemon import DaemonHere, running_daemon, write_config
from support.github import INSTALLATION
from support.github_api import Fault
from support.github_events import HEAD, pull, pull_request
from support.github_scene import Repository, scene
from support.machine import Held, row

CEILING = 'run_permissions = { contents = "read", pull_requests = "write" }'
RULES = f"""
{CEILING}
[[github.rules]]
name = "tests"
workflow = "it"
repositories = ["*"]
events = ["pull_request"]
forks = "command"
"""
SCRIPT = """
echo "token=$GH_TOKEN" >environment
echo "## All $GITHUB_SHA is well" >>"$GITHUB_STEP_SUMMARY"
echo "coverage=97" >>"$GITHUB_OUTPUT"
echo "ref $GITHUB_REF event $GITHUB_EVENT_NAME"
"""
ASKS = 'github_token = { contents = "read" }\n'
MINT = "POST app/installations/access_tokens"


def configured(folder: Path, url: str, options: str = ASKS) -> Path:
    return write_config(
        folder / "machine", url, {"it": ["/bin/sh", "-c", SCRIPT]}, limits=options
    )


def environment(daemon: DaemonHere, job_id: str) -> str:
    return (daemon.state / f"runs/{job_id}/workspace/environment").read_text()


async def test_a_pull_request_has_a_check_with_what_its_run_has_said(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository(), RULES) as here:
        async with running_daemon(configured(tmp_path, here.hub.server.url)) as daemon:
            reply = await here.tell("pull_request", pull_request())
            [job_id] = reply.json()["jobs"]
            job = await here.hub.server.result(job_id)
            await here.hub.paid()
            token = environment(daemon, job_id).removeprefix("token=").strip()

        assert job["state"] == "succeeded"
        run = here.github.newest(job_id)
        assert (run["name"], run["head_sha"]) == ("tests", HEAD)
        assert (run["status"], run["conclusion"]) == ("completed", "success")
        assert f"## All {HEAD} is well" in run["output"]["summary"]
        assert "coverage" in run["output"]["text"]
        assert "ref refs/pull/2/head event pull_request" in run["output"]["text"]
        assert run["details_url"] == f"https://hub.example/base/jobs/{job_id}"
        assert here.github.violations == []
        narrowed = [
            each.body
            for each in here.github.requests
            if each.name == MINT and each.body
        ]
        assert narrowed == [
            {
                "repository_ids": [pull_request()["repository"]["id"]],
                "permissions": {"contents": "read"},
            }
        ]
        assert token in here.github.tokens
        logs = (here.hub.server.folder / "hub.log").read_text()
        assert token not in logs + daemon.log_file.read_text()


async def test_code_of_a_fork_gets_no_token(tmp_path: Path) -> None:
    fork = Repository(pull=pull(fork=True))
    async with scene(tmp_path, fork, RULES) as here:
        config = configured(
            tmp_path,
            here.hub.server.url,
            f"{ASKS}\nforks_without_isolation = true",
        )
        async with running_daemon(config) as daemon:
            reply = await here.say(f"/run {HEAD}")
            [job_id] = reply.json()["jobs"]
            job = await here.hub.server.result(job_id)

            assert job["state"] == "succeeded"
            assert environment(daemon, job_id) == "token=\n"
        assert all(
            each.body is None for each in here.github.requests if each.name == MINT
        )


async def granted(held: Held, permissions: dict[str, str], **more: Any) -> Any:
    fields = {"claim_token": held.token, "permissions": permissions, **more}
    return await held.machine.call("token", held.id, **fields)


async def test_a_token_is_for_who_holds_the_job_and_at_most_what_the_hub_allows(
    tmp_path: Path, database_url: str
) -> None:
    async with scene(tmp_path, Repository(), RULES, database_url=database_url) as here:
        await here.tell("pull_request", pull_request())
        held = await here.hub.pull()
        assert held.job["extensions"] == [
            "heartbeat",
            "release",
            "resolve",
            "log",
            "artifacts",
            "token",
            "capabilities",
            "contract-header",
        ]
        read = {"contents": "read"}
        early = await granted(held, read)
        await held.accept()
        good = await granted(held, read)
        both = await granted(held, {"pull_requests": "read", **read})
        wrong = [
            await granted(held, {"contents": "write"}),
            await granted(held, {"checks": "write"}),
            await granted(held, read, claim_token="another"),
            await granted(held, {}),
            await granted(held, {"contents": "admin"}),
        ]
        unknown = await held.machine.call(
            "token", "nothing", claim_token=held.token, permissions=read
        )
        await held.finish()
        late = await granted(held, read)

        assert early.status_code == 409
        assert (good.status_code, both.status_code) == (200, 200)
        assert good.json()["token"] != both.json()["token"]
        assert good.headers["cache-control"] == "no-store"
        assert [each.status_code for each in wrong] == [403, 403, 409, 422, 422]
        assert "don't have contents = write" in wrong[0].json()["message"]
        assert (unknown.status_code, late.status_code) == (404, 410)


OWN = """
run_permissions = { contents = "write" }
[[github.rules]]
name = "narrow"
workflow = "it"
repositories = ["*"]
events = ["pull_request"]
run_permissions = { checks = "read" }
[[github.rules]]
name = "none"
workflow = "it"
repositories = ["*"]
events = ["pull_request"]
run_permissions = {}
[[github.rules]]
name = "usual"
workflow = "it"
repositories = ["*"]
events = ["pull_request"]
"""


async def test_a_token_is_granted_by_the_rule_that_has_made_the_job(
    tmp_path: Path,
) -> None:
    asked = [
        ("contents", "read"),
        ("contents", "write"),
        ("checks", "read"),
        ("checks", "write"),
    ]
    found: dict[str, list[int]] = {}
    async with scene(tmp_path, Repository(), OWN) as here:
        await here.tell("pull_request", pull_request())
        for _ in range(3):
            held = await here.hub.pull()
            await held.accept()
            replies = [
                await granted(held, {permission: level}) for permission, level in asked
            ]
            rule = held.job["binding_id"]
            found[rule] = [reply.status_code for reply in replies]
            assert ("token" in held.job["extensions"]) == (rule != "none")
            refused = [each for each in replies if each.status_code == 403]
            assert all(f"rule {rule} " in each.json()["message"] for each in refused)
            await held.finish()

    assert found == {
        "narrow": [403, 403, 200, 403],
        "none": [403, 403, 403, 403],
        "usual": [200, 200, 403, 403],
    }


async def test_a_command_reaches_rules_with_permissions_of_their_own(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository(), OWN) as here:
        reply = await here.say("/run")

    assert reply.status_code == 202
    assert len(reply.json()["jobs"]) == 3


async def test_a_token_that_github_does_not_give_now_is_asked_for_again(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository(), RULES) as here:
        await here.tell("pull_request", pull_request())
        held = await here.hub.pull()
        await held.accept()
        await here.hub.paid()
        for fault, status in [
            (Fault(status=500), 503),
            (Fault(status=429, headers={"retry-after": "1"}), 503),
            (
                Fault(status=422, message="The permissions requested are not granted"),
                403,
            ),
        ]:
            here.github.trap(MINT, fault)
            reply = await granted(held, {"contents": "read"})
            assert reply.status_code == status, reply.text
            assert "GitHub gives no token" in reply.json()["message"]
        assert (await granted(held, {"contents": "read"})).status_code == 200


async def test_a_job_of_another_hand_has_no_token(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository(), RULES) as here:
        posing = {"installation_id": INSTALLATION, "repository_id": 1}
        event = {"binding_id": "tests", "event_name": "issue_comment", **posing}
        await here.hub.server.submit({"id": "by-hand", "dag_name": "it", **event})
        held = await here.hub.pull()
        await held.accept()

        reply = await granted(held, {"contents": "read"})

        assert "token" not in held.job["extensions"]
        assert reply.status_code == 403
        assert "GitHub App" in reply.json()["message"]
        assert (await row(here.hub.server, "by-hand"))["state"] == "accepted"


async def test_a_blocked_github_keeps_no_job_from_its_machine(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository(), RULES) as here:
        here.github.trap(MINT, Fault(hang=True), times=99)
        with within(20):
            for number in range(20):
                event = pull_request()
                event["pull_request"]["number"] = number + 10
                await here.tell("pull_request", event)
                held = await here.hub.pull()
                await held.accept()
                await held.finish()

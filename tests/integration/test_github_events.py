"""Events that aren't what one would expect, through a real hub and a real daemon."""

from pathlib import Path
from typing import Any

import pytest

from support.daemon import running_daemon, write_config
from support.git_server import git_server
from support.github_events import pull_request, real
from support.github_scene import Repository, scene

COMMIT = "a11ce00000000000000000000000000000000002"
TAG_OBJECT = "b5c0ffee00000000000000000000000000000001"
DEPENDABOT = {"login": "dependabot[bot]", "type": "Bot"}
RULES = """
run_permissions = { contents = "read" }
[[github.rules]]
name = "tests"
workflow = "it"
repositories = ["*"]
events = ["push", "pull_request"]
"""


@pytest.mark.parametrize(
    "head", [{"id": COMMIT, "message": "Release"}, None], ids=["named", "not named"]
)
async def test_the_check_of_an_annotated_tag_stands_on_its_commit(
    tmp_path: Path, head: Any
) -> None:
    there = Repository(tags={"tags/v1.0.0": COMMIT})
    event = real("push/00")
    event |= {"ref": "refs/tags/v1.0.0", "after": TAG_OBJECT, "head_commit": head}

    async with scene(tmp_path, there, RULES) as here:
        [job] = await here.decided(await here.tell("push", event))
        await here.hub.paid()

        assert (job["sha"], job["ref"]) == (COMMIT, "refs/tags/v1.0.0")
        assert here.github.newest(job["id"])["head_sha"] == COMMIT


async def test_a_run_of_dependabots_code_gets_neither_token_nor_secrets(
    tmp_path: Path,
) -> None:
    command = {"it": ["/bin/sh", "-c", "env"]}
    asks = 'github_token = { contents = "read" }\nforks_without_isolation = true'
    async with scene(tmp_path, Repository(), RULES) as here:
        config = write_config(
            tmp_path / "machine", here.hub.server.url, command, limits=asks
        )
        async with running_daemon(config) as daemon:
            event = {**pull_request(), "sender": DEPENDABOT}
            [job_id] = (await here.tell("pull_request", event)).json()["jobs"]
            job = await here.hub.server.result(job_id)
            output = (daemon.state / f"runs/{job_id}/attempt-1/output.log").read_text()

    assert job["state"] == "succeeded"
    assert "DISPATCHD_FROM_FORK=true" in output
    assert "GH_TOKEN" not in output


async def test_a_repository_whose_name_begins_with_a_dot_is_checked_and_checked_out(
    tmp_path: Path,
) -> None:
    event = real("push/00")
    event["repository"]["full_name"] = "acme/.github"
    with git_server(tmp_path / "served", token="") as forge:
        sha = forge.create("acme/.github")[-1]
        event |= {"after": sha, "head_commit": {"id": sha, "message": "Mend it"}}
        async with scene(tmp_path, Repository(), RULES) as here:
            options = f'checkout = true\ncheckout_url = "{forge.url}"\n'
            command = {"it": ["/bin/sh", "-c", "cat README.md"]}
            url = here.hub.server.url
            config = write_config(tmp_path / "machine", url, command, limits=options)
            async with running_daemon(config):
                [job_id] = (await here.tell("push", event)).json()["jobs"]
                job = await here.hub.server.result(job_id)
                await here.hub.paid()

            assert job["state"] == "succeeded", job
            assert here.github.newest(job_id)["conclusion"] == "success"
            assert here.github.newest(job_id)["repository"] == "acme/.github"

"""A token of the endpoint for a run that asks for one: for what it asks for, and nowhere but in its environment."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.daemon import DaemonHere, running_daemon, tasks_named
from support.endpoint import TOKEN, Answer, Endpoint, Request, as_json, endpoint
from support.secret_run import configure, environment
from support.torture import few
from support.until import until

VALUE = "correct-horse-battery-staple"
JOB = {
    "id": "j",
    "dag_name": "it",
    "claim_token": "claim-1",
    "lease_seconds": 600,
    "extensions": ["heartbeat", "release", "token"],
}
ASKS = 'github_token = { contents = "read", pull_requests = "write" }\n'
RETRIED = "max_retries = 1\n"


def nowhere(daemon: DaemonHere, *values: str) -> None:
    """Hold that no file of ours has a secret; what a command writes is its owner's."""
    theirs = {"output.log", "outputs", "summary.md"}
    for path, data in daemon.written().items():
        for value in values:
            assert path.name in theirs or value.encode() not in data, path


async def test_a_run_gets_a_token_for_what_its_workflow_asks_for(
    tmp_path: Path,
) -> None:
    script = 'env; echo "$GH_TOKEN" | tee "$GITHUB_STEP_SUMMARY"; echo "t=$GH_TOKEN" >"$GITHUB_OUTPUT"'
    async with endpoint() as hub:
        async with running_daemon(configure(tmp_path, hub.url, script, ASKS)) as daemon:
            hub.hand_out(JOB)
            (finish,) = await hub.until_finished("j")
        (asked,) = hub.calls("token", "j")

    assert asked.body["permissions"] == {"contents": "read", "pull_requests": "write"}
    assert asked.body["claim_token"] == "claim-1"
    env = environment(daemon)
    assert env["GH_TOKEN"] == TOKEN
    assert env["DISPATCHD_SECRETS"] == "GH_TOKEN"
    assert TOKEN not in str(finish)
    assert finish["result_step_summary"] == "[redacted]\n"
    assert finish["result_outputs"] == {"t": "[redacted]"}
    nowhere(daemon, TOKEN)


async def test_each_attempt_asks_for_a_token_of_its_own(tmp_path: Path) -> None:
    count = 0

    def another(request: Request) -> Answer | None:
        nonlocal count
        if request.call != "token":
            return None
        count += 1
        return as_json({"token": f"{TOKEN}-{count}"})

    async with endpoint() as hub:
        hub.script = another
        config = configure(tmp_path, hub.url, "env; kill -9 $$", ASKS + RETRIED)
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await hub.until_finished("j")

    assert environment(daemon, 1)["GH_TOKEN"] == f"{TOKEN}-1"
    assert environment(daemon, 2)["GH_TOKEN"] == f"{TOKEN}-2"


async def test_a_run_that_asks_for_none_gets_none(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, "env", "github_token = {}")
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await hub.until_finished("j")
        assert hub.calls("token") == []

    assert not environment(daemon).keys() & {"GH_TOKEN", "DISPATCHD_SECRETS"}


async def test_after_a_restart_the_token_of_a_running_command_is_still_kept_out(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f'read -r _ <{gate}; echo "it is $GH_TOKEN"'
    async with (
        endpoint() as hub,
        running_daemon(configure(tmp_path, hub.url, script, ASKS)) as daemon,
    ):
        hub.hand_out(JOB)
        await daemon.until_logged("job_attempt_started", job_id="j")
        await daemon.crash()
        daemon.log_file.unlink()
        daemon.start()
        # It has read the command's environment before it follows it.
        await until(lambda: tasks_named("watchdog j"))
        gate.write_text("go\n")
        (finish,) = await hub.until_finished("j")

    assert finish["result_output"] == "it is [redacted]\n"
    assert len(hub.calls("token")) == 1
    nowhere(daemon, TOKEN)


def refused(answer: Answer) -> Callable[[Endpoint], dict[str, Any]]:
    def prepare(hub: Endpoint) -> dict[str, Any]:
        hub.script = lambda request: answer if request.call == "token" else None
        return JOB

    return prepare


REFUSALS = {
    "403": (refused(as_json({"message": "not installed there"}, 403)), "not installed"),
    "404": (refused(as_json({"message": "no"}, 404)), "status 404"),
    "409": (refused(as_json({"message": "no"}, 409)), "status 409"),
    "410": (refused(as_json({"message": "no"}, 410)), "status 410"),
    "422": (refused(as_json({}, 422)), "status 422"),
    "503": (refused(as_json({}, 503)), "status 503"),
    "cut": (refused(Answer(cut=True)), "closed without an answer"),
    "nothing": (refused(Answer()), "empty body"),
    "a page": (refused(Answer(status=200, body=b"<p>")), "where the contract wants"),
    "no token": (refused(as_json({})), "$.token: is required"),
    "two lines": (refused(as_json({"token": f"{TOKEN}\nX=1"})), "$.token: must be"),
    "no extension": (
        lambda _: {**JOB, "extensions": ["heartbeat"]},
        "no extension `token`",
    ),
}


TOLD = {"403", "503", "a page", "two lines"}
"""Refusals of each kind."""


@pytest.mark.parametrize(
    "refusal",
    few(sorted(REFUSALS, key=lambda name: name not in TOLD), 4),
)
async def test_a_token_that_is_not_to_be_had_is_named_and_asked_for_again_unless_refused(
    tmp_path: Path, refusal: str
) -> None:
    prepare, reason = REFUSALS[refusal]
    async with endpoint() as hub:
        job = prepare(hub)
        options = ASKS + "start_retries = 1\n"
        config = configure(tmp_path, hub.url, "echo ran", options)
        async with running_daemon(config) as daemon:
            hub.hand_out(job)
            (finish,) = await hub.until_finished("j")
        asked = len(hub.calls("token"))

    assert (finish["result_status"], finish["result_cause"]) == ("failed", "spawn")
    assert "cannot get the secret GH_TOKEN (the endpoint" in finish["result_summary"]
    assert reason in finish["result_summary"]
    final = ("403", "404", "409", "410", "422")
    assert asked == {"no extension": 0, **dict.fromkeys(final, 1)}.get(refusal, 2)
    assert not (daemon.state / "runs/j/attempt-1/output.log").exists()
    nowhere(daemon, TOKEN)


async def test_a_job_is_cancelled_while_its_token_is_waited_for(
    tmp_path: Path,
) -> None:
    """The endpoint answers with a token that never ends, so that only the cancel can end the call."""
    async with endpoint() as hub:
        hub.script = lambda request: (
            Answer(status=200, body=b'{"token": "' + b"x" * 9, stalls=True)
            if request.call == "token"
            else None
        )
        async with running_daemon(configure(tmp_path, hub.url, "env", ASKS)) as daemon:
            hub.hand_out(JOB)
            await hub.until(lambda it: it.calls("token") != [])
            hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
            (finish,) = await hub.until_finished("j")

    assert finish["result_status"] == "aborted"
    assert not (daemon.state / "runs/j/attempt-1/output.log").exists()


async def test_the_code_of_a_fork_gets_no_token(tmp_path: Path) -> None:
    async with endpoint() as hub:
        async with running_daemon(configure(tmp_path, hub.url, "env", ASKS)) as daemon:
            hub.hand_out({**JOB, "from_fork": True})
            (finish,) = await hub.until_finished("j")
        assert hub.calls("token") == []

    assert finish["result_status"] == "succeeded"
    assert not environment(daemon).keys() & {"GH_TOKEN", "DISPATCHD_SECRETS"}
    (line,) = (each for each in daemon.log() if each["event"] == "secrets_withheld")
    assert line["names"] == ["GH_TOKEN"]


async def test_a_token_goes_beside_the_secrets_of_a_workflow(tmp_path: Path) -> None:
    options = ASKS + 'secrets = { KEY = "key", Z = "key" }'
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, "env", options)
        async with running_daemon(config, env={"KEY_OF_THE_DAEMON": VALUE}) as daemon:
            hub.hand_out(JOB)
            await hub.until_finished("j")

    env = environment(daemon)
    assert (env["KEY"], env["Z"], env["GH_TOKEN"]) == (VALUE, VALUE, TOKEN)
    assert env["DISPATCHD_SECRETS"] == "KEY,Z,GH_TOKEN"

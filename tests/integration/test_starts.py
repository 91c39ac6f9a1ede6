"""Before a command has begun every failure is safe to repeat, for plain commands too; a refusal is not repeated."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dispatchd.concurrency.bug_fence import BugFence
from support.clock import LongPauses, advance
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.git_server import git_server
from support.until import until

JOB = {
    "id": "j",
    "dag_name": "it",
    "repository_name": "o/r",
    "claim_token": "claim-1",
    "lease_seconds": 6000,
    "extensions": ["heartbeat", "release", "token"],
}
TOKEN = 'github_token = { contents = "read" }\n'
LONGEST_WAIT_S = 300.0
WAITS = ("job_start_failed", "job_attempt_failed")


def configure(
    folder: Path, hub: Endpoint, limits: str, runs: str = "", more: str = ""
) -> Path:
    script = 'echo "ran as $DISPATCHD_ATTEMPT"'
    config = write_config(
        folder,
        hub.url,
        {"it": ["/bin/sh", "-c", script]},
        limits=limits,
        runs=f"retry_wait_s = 100\n{runs}",
    )
    config.write_text(
        f'{config.read_text()}\n[workflows.other]\ncommand = ["/bin/true"]\n{more}'
    )
    return config


def answering(*answers: Answer) -> Callable[[Request], Answer | None]:
    """Return a script that gives some answers to calls for a token, one after the other, and then the usual one."""
    left = list(answers)
    return lambda request: left.pop(0) if request.call == "token" and left else None


def record(daemon: DaemonHere) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((daemon.state / "jobs" / "j.json").read_text())
    return found


async def ended(daemon: DaemonHere, hub: Endpoint) -> dict[str, Any]:
    """Return how the job has ended, letting each of its waits pass."""

    def settled() -> int:
        return len(hub.calls("finish", "j")) or 10 * len(
            [each for each in daemon.log() if each.get("event") in WAITS]
        )

    seen = 0
    while "j" not in hub.finished:
        await until(partial(differs, settled, seen))
        seen = settled()
        if "j" not in hub.finished:
            await advance(LONGEST_WAIT_S)
    return hub.finished["j"]


def differs(look: Callable[[], int], seen: int) -> bool:
    return look() != seen


@pytest.mark.parametrize(
    "answer",
    [
        as_json({"message": "starting"}, 503),
        Answer(status=502, body=b"<p>bad gateway"),
        as_json({"message": "slowly"}, 429, **{"retry-after": "7"}),
        Answer(cut=True),
        Answer(status=200, body=b"<p>sign on"),
    ],
)
async def test_one_bad_answer_to_the_call_for_a_token_costs_a_plain_job_nothing(
    tmp_path: Path, answer: Answer
) -> None:
    async with endpoint() as hub:
        hub.script = answering(answer)
        config = configure(tmp_path, hub, TOKEN)
        async with running_daemon(config, bugs=BugFence(LongPauses())) as daemon:
            hub.hand_out(JOB)
            await daemon.until_logged("job_start_failed")
            waiting = record(daemon)
            finish = await ended(daemon, hub)

    assert (waiting["phase"], waiting["start_failures"]) == ("retry_wait", 1)
    assert waiting.get("attempts", []) == []
    assert finish["result_status"] == "succeeded"
    assert finish["result_output"] == "ran as 1\n"


async def test_a_job_that_waits_for_its_start_holds_no_slot_and_survives_a_restart(
    tmp_path: Path,
) -> None:
    bad = as_json({"message": "starting"}, 503)
    async with endpoint() as hub:
        hub.script = answering(bad, bad)
        async with running_daemon(configure(tmp_path, hub, TOKEN)) as daemon:
            hub.hand_out(JOB)
            await daemon.until_logged("start_failed")
            hub.hand_out({"id": "o", "dag_name": "other"})
            (other,) = await hub.until_finished("o")
            await daemon.stop()
            daemon.start()
            await advance(LONGEST_WAIT_S)
            await daemon.until_logged("start_failed", starts_left=4)
            finish = await ended(daemon, hub)

    assert other["result_status"] == "succeeded"
    assert finish["result_output"] == "ran as 1\n"


async def test_the_budget_ends_and_the_summary_says_what_was_tried(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        hub.script = answering(*[as_json({"message": "no"}, 503)] * 9)
        async with running_daemon(
            configure(tmp_path, hub, TOKEN, "start_retries = 3\nmax_retries = 7")
        ) as daemon:
            hub.hand_out(JOB)
            finish = await ended(daemon, hub)
        asked = len(hub.calls("token"))

    assert asked == 4
    assert (finish["result_status"], finish["result_cause"]) == ("failed", "spawn")
    assert "status 503" in finish["result_summary"]
    assert finish["result_summary"].endswith("It was tried 4 times.")


async def test_a_cancel_ends_a_job_that_waits_for_its_start(tmp_path: Path) -> None:
    async with endpoint() as hub:
        hub.script = answering(as_json({}, 503))
        async with running_daemon(configure(tmp_path, hub, TOKEN)) as daemon:
            hub.hand_out(JOB)
            await daemon.until_logged("start_failed")
            await call(daemon, "POST", "/v1/jobs/j/cancel", {})
            (finish,) = await hub.until_finished("j")

    assert finish["result_status"] == "aborted"
    assert len(hub.calls("token")) == 1


@pytest.mark.parametrize(
    ("status", "asked_again"),
    [(500, True), (503, True), (429, True), (403, False), (404, False), (410, False)],
)
async def test_a_git_server_in_trouble_is_asked_again_and_one_that_refuses_is_not(
    tmp_path: Path, status: int, *, asked_again: bool
) -> None:
    with git_server(tmp_path / "served") as git:
        git.create("o/r")
        git.status = status
        async with endpoint() as hub:
            limits = f'checkout = true\ncheckout_url = "{git.url}"'
            async with running_daemon(configure(tmp_path, hub, limits)) as daemon:
                hub.hand_out(JOB)
                if asked_again:
                    await daemon.until_logged("start_failed")
                    git.status = 0
                finish = await ended(daemon, hub)

    if asked_again:
        assert finish["result_status"] == "succeeded"
    else:
        assert finish["result_cause"] == "workspace"
        assert "It was tried" not in finish["result_summary"]


async def test_a_command_that_prints_a_secret_may_fail_once(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    more = f'[secrets.key]\ncommand = ["/bin/cat", "{ready}"]\n'
    async with endpoint() as hub:
        config = configure(tmp_path, hub, 'secrets = { KEY = "key" }', more=more)
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await daemon.until_logged("start_failed")
            ready.write_text("the-value-of-it")
            finish = await ended(daemon, hub)

    assert finish["result_status"] == "succeeded"


async def test_each_attempt_has_the_whole_budget(tmp_path: Path) -> None:
    bad, good = as_json({}, 503), as_json({"token": "t-0815-of-an-attempt"})
    async with endpoint() as hub:
        hub.script = answering(bad, bad, good, bad, bad, good)
        config = configure(
            tmp_path, hub, TOKEN + "start_retries = 2\nmax_retries = 1\n"
        )
        text = config.read_text().replace(
            'echo \\"ran', '[ $DISPATCHD_ATTEMPT = 2 ] || kill -9 $$; echo \\"ran'
        )
        config.write_text(text)
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            finish = await ended(daemon, hub)

    assert finish["result_status"] == "succeeded", finish
    assert finish["result_output"] == "ran as 2\n"

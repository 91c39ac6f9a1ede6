"""Whatever a run does to its own folder is its job's trouble alone: others run, cancels work, a restart brings nothing back."""

import json
from pathlib import Path

import pytest

from support.attacks import DAMAGES
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, endpoint
from support.torture import few

GOOD = {"id": "good", "dag_name": "good"}


@pytest.mark.parametrize(
    ("damage", "isolation"),
    [
        *few(((damage, "none") for damage in DAMAGES), 8),
        # Most of it is denied there (test_walls.py), and what isn't has the same end.
        *((damage, "sandbox") for damage in list(DAMAGES)[::5]),
    ],
)
async def test_damage_by_a_run_ends_its_own_job_alone(
    tmp_path: Path, damage: str, isolation: str
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"good": ["true"], "bad": ["/bin/sh", "-c", DAMAGES[damage]]},
            limits=f'contract = "headless"\narguments = []\nisolation = "{isolation}"',
            runs="slots = 2\nretry_wait_s = 0.01",
        )
        config.write_text(config.read_text().replace('contract = "headless"', "", 1))
        config.write_text(config.read_text().replace("arguments = []", "", 1))
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "bad", "dag_name": "bad"})
            (bad,) = await hub.until_finished("bad")
            hub.hand_out(GOOD)
            (good,) = await hub.until_finished("good")
        assert not [
            line for line in daemon.log() if line["event"] == "store_write_refused"
        ]

    assert bad["result_status"] == "failed"
    assert bad["result_cause"] in {"workspace", "exit-code", "lost", "spawn"}
    assert bad["result_summary"]
    assert good["result_status"] == "succeeded"


BETWEEN = (
    "its folder removed",
    "its folder a link",
    "a file in the next attempt's place",
    "a link in the next attempt's place",
    "a link to a folder in the next attempt's place",
    "its own folder gone",
    "its modes",
)
"""Damages that another attempt meets."""


def one_slot(tmp_path: Path, hub: Endpoint, damage: str) -> Path:
    """Return a configuration with one slot, for a job with a damage and one that holds the slot after it."""
    waits = f"while ! [ -e {tmp_path}/{{}} ]; do sleep 0.02; done; "
    config = write_config(
        tmp_path / "m",
        hub.url,
        {"bad": ["/bin/sh", "-c", waits.format("go") + DAMAGES[damage]]},
        limits='contract = "headless"\narguments = []\nmax_retries = 2',
        runs="slots = 1\nqueue_ahead = 10\nretry_wait_s = 60",
    )
    with config.open("a") as file:
        command = ["/bin/sh", "-c", waits.format("end")]
        file.write(f"[workflows.holds]\ncommand = {json.dumps(command)}\n")
    return config


async def damaged(tmp_path: Path, hub: Endpoint, daemon: DaemonHere) -> None:
    """Return when the damage is done, and the job waits for another attempt, for which there is no slot."""
    hub.hand_out({"id": "bad", "dag_name": "bad"})
    await daemon.until_logged("job_attempt_started", job_id="bad")
    hub.hand_out({"id": "good", "dag_name": "holds"})
    await daemon.until_logged("job_accept_confirmed", job_id="good")
    (tmp_path / "go").touch()
    await daemon.until_logged("job_attempt_failed", job_id="bad")
    await daemon.until_logged("job_attempt_started", job_id="good")


def no_trouble(daemon: DaemonHere) -> bool:
    events = {line.get("event") for line in daemon.log()}
    return not events & {"store_write_refused", "bug_contained", "loop_failed"}


@pytest.mark.parametrize("damage", BETWEEN)
async def test_a_damaged_job_is_cancelled_before_its_next_attempt(
    tmp_path: Path, damage: str
) -> None:
    async with (
        endpoint() as hub,
        running_daemon(one_slot(tmp_path, hub, damage)) as daemon,
    ):
        await damaged(tmp_path, hub, daemon)
        hub.hand_out({"id": "c", "command": "cancel", "dag_run_id": "bad"})
        (bad,) = await hub.until_finished("bad")
        status = await call(daemon, "GET", "/v1/status")
        (tmp_path / "end").touch()
        (good,) = await hub.until_finished("good")
        assert no_trouble(daemon)

    assert (bad["result_status"], bad["result_cause"]) == ("aborted", "cancelled")
    assert good["result_status"] == "succeeded"
    assert status["ready"], status

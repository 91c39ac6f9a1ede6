"""A machine's workflow runs for its repositories alone, also after a reload."""

import os
import signal
from pathlib import Path

import pytest
from anyio import to_thread

from support.clock import advance
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

ACME = {"dag_name": "it", "repository_name": "acme/shop"}


async def test_a_job_of_another_repository_is_rejected_with_a_sentence(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path / "machine",
            hub.url,
            {"it": ["/bin/true"]},
            limits='repositories = ["acme/*"]',
        )
        async with running_daemon(config):
            hub.hand_out({"id": "other", **ACME, "repository_name": "evil/shop"})
            hub.hand_out({"id": "none", "dag_name": "it"})
            hub.hand_out({"id": "good", **ACME})
            other, none, good = await hub.until_finished("other", "none", "good")

    assert (other["result_status"], none["result_status"]) == ("rejected", "rejected")
    assert "doesn't run for the repository evil/shop" in other["result_summary"]
    assert "doesn't run for no repository" in none["result_summary"]
    assert good["result_status"] == "succeeded"
    assert hub.calls("accept", "other") == []


async def test_a_job_that_waits_is_rejected_once_its_repository_is_taken_out(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with endpoint() as hub:
        config = write_config(
            tmp_path / "machine",
            hub.url,
            {"it": ["/bin/sh", "-c", f"read _ <{gate}"]},
            limits='repositories = ["acme/*"]',
        )
        async with running_daemon(config) as daemon:
            for job_id in ("first", "second"):
                hub.hand_out({"id": job_id, **ACME})
            await hub.until(lambda e: bool(e.calls("accept", "second")))
            # Opens once the run reads: from then on, the first one has begun.
            opened = await to_thread.run_sync(gate.open, "w")
            config.write_text(config.read_text().replace("acme/*", "other/*"))
            daemon.send(signal.SIGHUP)
            await daemon.until_logged("reloaded")
            opened.write("\n")
            opened.close()
            first, second = await hub.until_finished("first", "second")

    assert first["result_status"] == "succeeded"
    assert second["result_status"] == "rejected"
    assert "doesn't run for the repository acme/shop" in second["result_summary"]


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("acme/*", "other/*", "doesn't run for the repository acme/shop"),
        ('[workflows."it"]', '[workflows."other"]', "no workflow called 'it'"),
    ],
)
async def test_a_job_that_has_run_fails_once_it_cannot_be_tried_again(
    tmp_path: Path, before: str, after: str, why: str
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path / "machine",
            hub.url,
            {"it": ["/bin/sh", "-c", "echo ran; exit 2"]},
            runs="retry_wait_s = 300",
            limits='contract = "headless"\nrepositories = ["acme/*"]',
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", **ACME})
            await daemon.until_logged("job_attempt_failed")
            config.write_text(config.read_text().replace(before, after))
            daemon.send(signal.SIGHUP)
            await daemon.until_logged("reloaded")
            await advance(300)
            [finish] = await hub.until_finished("j")

    assert (finish["result_status"], finish["result_cause"]) == ("failed", "exit-code")
    assert "exit code 2" in finish["result_summary"]
    assert why in finish["result_summary"]
    assert finish["result_output"] == "ran\n"

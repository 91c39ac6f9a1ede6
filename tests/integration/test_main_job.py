"""The main job against an endpoint of our own, over real HTTP, with real processes."""

import json
from pathlib import Path

from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

SHOW = ["/bin/sh", "-c", 'env | sort; cat "$GITHUB_EVENT_PATH"']


async def test_a_job_goes_from_pull_to_finish(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"show": SHOW})
        async with running_daemon(config) as daemon:
            hub.hand_out(
                {
                    "id": "job/1",
                    "dag_name": "show",
                    "sha": "abc",
                    "payload": {"a": 1.50},
                }
            )

            finished = (await hub.until_finished("job%2F1"))[0]

        assert finished["result_status"] == "succeeded"
        assert hub.accepted["job%2F1"]["dag_run_id"] == "job/1"
        output = (daemon.state / "runs/job%2F1/attempt-1/output.log").read_text()
        assert "GITHUB_SHA=abc" in output
        assert output.endswith('{"a": 1.5}')
        record = json.loads((daemon.state / "history/job%2F1.json").read_text())
        assert record["phase"] == "history"

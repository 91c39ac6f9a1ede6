"""Whatever a run does to its own folder is its job's trouble alone: others run, cancels work, a restart brings nothing back."""

from pathlib import Path

import pytest

from support.attacks import DAMAGES
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

GOOD = {"id": "good", "dag_name": "good"}


@pytest.mark.parametrize(
    ("damage", "isolation"),
    [
        *((damage, "none") for damage in DAMAGES),
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

"""Jobs on a real Dagu, whose server and scheduler are killed at any moment, as is the daemon: each runs once and is reported."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from support.dagu_scene import Scene, scene
from support.torture import Torture
from support.until import until

pytestmark = [pytest.mark.host, pytest.mark.torture(least_s=60)]

ROUNDS = 8
JOBS = 5
"""Jobs that are handed out in each round (count)."""

RUN = 'echo "$DISPATCHD_JOB_ID" >>{folder}/ledger; sleep 1; echo "of $DISPATCHD_JOB_ID"'


def _daemon(at: Scene) -> None:
    at.daemon.kill()
    at.daemon.start()


def _dagu(*names: str) -> Callable[[Scene], None]:
    def kill(at: Scene) -> None:
        at.dagu.kill(*names)
        at.dagu.start()

    return kill


def _all(at: Scene) -> None:
    at.daemon.kill()
    at.dagu.kill()
    at.dagu.start()
    at.daemon.start()


KILLS = (_daemon, _dagu("server"), _dagu("scheduler"), _dagu(), _all)


async def _accepted(at: Scene, job_ids: list[str]) -> None:
    """Hand jobs out until they are accepted: the pull of a daemon that was killed may take some with it."""
    while left := set(job_ids) - set(at.cloud.accepted):
        for job_id in sorted(left):
            at.hand_out(job_id, "it")
        with anyio.move_on_after(5):
            await at.cloud.until(
                lambda cloud: set(job_ids) <= set(cloud.accepted), within_s=60
            )


async def test_kills_lose_no_job_and_start_none_twice(
    tmp_path: Path, torture: Torture
) -> None:
    draw = torture.chance("dagu")
    job_ids: list[str] = []
    async with scene(tmp_path, {"it": RUN}, engine="slots = 20") as at:
        for number in range(ROUNDS * torture.size):
            job_ids += [f"j{number}-{each}" for each in range(JOBS)]
            await _accepted(at, job_ids)
            await anyio.sleep(draw.uniform(0, 4))
            draw.choice(KILLS)(at)
        await until(lambda: set(job_ids) <= set(at.cloud.finished), 240, "all ends")
        ends = [at.cloud.finished[job_id] for job_id in job_ids]

    ledger = Counter((tmp_path / "ledger").read_text().split())
    assert ledger == Counter(job_ids), torture.seed
    for job_id, end in zip(job_ids, ends, strict=True):
        assert end["result_status"] == "succeeded", (torture.seed, end)
        assert end["result_output"] == f"of {job_id}\n"
    assert not list((at.daemon.state / "dagu").iterdir())

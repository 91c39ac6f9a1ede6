"""A daemon stays as small as it was while very many jobs pass (bench/soak.py)."""

import json
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from bench import soak
from bench.harness import SECRET, daemon, hub, write_config

from support.torture import Torture

JOBS = 4_000
BLOCKS = 20
LEAST_BLOCKS = 5
"""How many there are even if the time is over."""

JOB_KIB = 1.0
"""How much its resident memory may grow for each job, in the middle one of the blocks.

A leak shows in each block; caches, arenas and threads that a busy machine makes it start show in a few.
"""

GROWTH_KIB = 8_192
"""How much it may grow in all for each 4,000 jobs."""

SPARE = 4
"""Idle connections and worker threads more than at first: how many jobs overlap differs; what leaks comes in each block."""


def growth(counts: list[int]) -> list[int]:
    """Return by how much each count is above the one before it."""
    return [after - before for before, after in pairwise(counts)]


@pytest.mark.torture(least_s=60)
@pytest.mark.timeout(7200)
def test_a_daemon_does_not_grow_while_very_many_jobs_pass(
    tmp_path: Path, torture: Torture
) -> None:
    secret, state = tmp_path / "secret", tmp_path / "state"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    jobs = JOBS * torture.size
    samples: list[soak.Sample] = []
    with hub(tmp_path) as server:
        config = write_config(
            tmp_path,
            server.url,
            ["/bin/true"],
            slots=soak.SLOTS,
            queue_ahead=soak.QUEUE_AHEAD,
        )
        print(soak.HEADER)
        with daemon(config) as process:
            for sample in soak.soak(server, process.pid, state, jobs, JOBS // BLOCKS):
                samples.append(sample)
                print(sample.row())
                if torture.is_over and len(samples) >= LEAST_BLOCKS:
                    break
        soak.prune(config, state)

    for counts in (
        [each.descriptors for each in samples],
        [each.threads for each in samples],
    ):
        assert median(growth(counts)) <= 0
        assert counts[-1] - counts[0] <= SPARE
    grown_kib = growth([each.resident_kib for each in samples])
    assert median(grown_kib) < JOB_KIB * JOBS / BLOCKS
    assert sum(grown_kib) < GROWTH_KIB * torture.size
    assert {each.tracked for each in samples} == {0}
    assert {each.files_per_past_job for each in samples} == {
        samples[0].files_per_past_job
    }
    assert soak.entries(state / "history") == 0
    # The folder of what is being removed stays.
    assert [each.name for each in (state / "runs").rglob("*")] == [".gone"]
    lines = (tmp_path / "daemon.log").read_text().splitlines()
    # As root, whom no sandbox holds.
    assert {json.loads(line)["event"] for line in lines} <= {"isolation_is_weak"}

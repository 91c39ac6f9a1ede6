"""A daemon stays as small as it was while very many jobs pass (bench/soak.py)."""

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


@pytest.mark.torture
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

    third = len(samples) // 3
    early, late = samples[: third + 1], samples[-third - 1 :]
    # An idle connection or worker thread comes and goes; what leaks only comes.
    assert min(s.descriptors for s in late) <= max(s.descriptors for s in early)
    assert min(s.threads for s in late) <= max(s.threads for s in early)
    grown_kib = [
        after.resident_kib - before.resident_kib for before, after in pairwise(samples)
    ]
    assert median(grown_kib) < JOB_KIB * JOBS / BLOCKS
    assert sum(grown_kib) < GROWTH_KIB * torture.size
    assert {each.tracked for each in samples} == {0}
    assert {each.kept_each for each in samples} == {samples[0].kept_each}
    assert soak.entries(state / "history") == 0
    # The folder of what is being removed stays.
    assert [each.name for each in (state / "runs").rglob("*")] == [".gone"]
    assert (tmp_path / "daemon.log").read_text() == ""

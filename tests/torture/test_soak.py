"""A daemon stays as small as it was while very many jobs pass (bench/soak.py)."""

from pathlib import Path

import pytest
from bench import soak
from bench.harness import SECRET, daemon, hub, write_config

from support.torture import Torture

JOBS = 4_000
BLOCKS = 20
LEAST_BLOCKS = 5
"""How many there are even if the time is over."""

EARLY = 0.25
"""The part of the jobs after which a daemon has to be as large as it gets."""

GROWTH_KIB = 2_048
"""How much its resident memory may differ after that; a leak of 1 KiB for each of 3,000 jobs is more."""

SPARE = 2
"""How many more descriptors or threads there may be: an idle connection or worker thread comes and goes."""


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

    last = samples[-1]
    early = next(each for each in samples if each.jobs >= EARLY * last.jobs)
    assert last.descriptors <= early.descriptors + SPARE
    assert last.threads <= early.threads + SPARE
    assert last.resident_kib - early.resident_kib < GROWTH_KIB
    assert {each.tracked for each in samples} == {0}
    assert last.kept_each <= early.kept_each
    assert soak.entries(state / "history") + soak.entries(state / "runs") == 0
    assert (tmp_path / "daemon.log").read_text() == ""

"""A machine that holds hundreds of jobs: each costs its own heartbeat, and nothing costs all of them again."""

from asyncio import get_running_loop
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve

from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.codec import encode
from dispatchd.protocol.job import Job
from support.clock import advance, within
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, endpoint
from support.until import until

JOBS = 300
LEASE_S = 60.0
PAUSE_S = LEASE_S / 6
"""Time between two beats of a job (seconds)."""


def put_records(folder: Path) -> None:
    """Put the records of many jobs into a state folder: all of them parked."""
    folder.mkdir(parents=True)
    now = datetime.now(UTC)
    for number in range(JOBS):
        job = Job(
            id=f"j{number}",
            workflow="it",
            claim_token=f"claim-{number}",
            lease_s=LEASE_S,
            extensions=("heartbeat",),
        )
        record = evolve(
            TrackedJob.received(job, now=now),
            attempts=(
                Attempt(number=1, started_at=now, deadline_at=now, ended_at=now),
            ),
        )
        record = evolve(record, phase=Phase.NEEDS_ATTENTION, blocked="Why?")
        (folder / f"j{number}.json").write_bytes(encode(record))


def beats(cloud: Endpoint) -> Counter[str]:
    return Counter(call.job_id for call in cloud.calls("heartbeat"))


def files(daemon: DaemonHere) -> dict[str, int]:
    """Return the time of the last write of each record (nanoseconds)."""
    folder = daemon.state / "jobs"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


@asynccontextmanager
async def holding_many(tmp_path: Path) -> AsyncIterator[tuple[Endpoint, DaemonHere]]:
    """Run a daemon that holds many jobs, from when it has beaten for each once."""
    put_records(tmp_path / "state" / "jobs")
    async with endpoint() as cloud:
        config = write_config(tmp_path, cloud.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            await cloud.until(lambda it: len(beats(it)) == JOBS, 120)
            yield cloud, daemon


async def test_each_of_many_jobs_beats_once_in_its_pause(tmp_path: Path) -> None:
    began = get_running_loop().time()
    async with holding_many(tmp_path) as (cloud, daemon):
        before = files(daemon)

        with within(120):
            for count in (2, 3):
                await advance(PAUSE_S + 0.5)
                await until(lambda: min(beats(cloud).values()) >= count, 60)  # noqa: B023  # it is called at once

        # On a slow machine time has passed by itself, too.
        most = 1 + (get_running_loop().time() - began) / PAUSE_S
        assert max(beats(cloud).values()) <= most
        # None of them is written for it.
        assert files(daemon) == before


async def test_a_look_at_many_jobs_changes_and_sends_nothing(tmp_path: Path) -> None:
    async with holding_many(tmp_path) as (cloud, daemon):
        before = files(daemon)

        status = await call(daemon, "GET", "/v1/status")

        assert status["jobs"]["needs_attention"] == JOBS
        assert files(daemon) == before
        assert not cloud.calls("finish")


async def test_the_change_of_one_job_of_many_is_about_that_one(tmp_path: Path) -> None:
    async with holding_many(tmp_path) as (cloud, daemon):
        before = files(daemon)

        await call(daemon, "POST", "/v1/jobs/j1/resolve", {"as": "fail"})
        await cloud.until_finished("j1")
        await until((daemon.state / "history" / "j1.json").exists)
        # It is in both places for a moment.
        await until(lambda: not (daemon.state / "jobs" / "j1.json").exists())

        changed = {name for name, at in files(daemon).items() if before[name] != at}
        assert changed == set()
        assert list(cloud.finished) == ["j1"]

"""Attempts in a cluster's queue, without a cluster: many cost one task, and each is ended, taken over and followed when that is due."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from support.clock import advance
from support.control import call
from support.daemon import DaemonHere, running_daemon, tasks_named, write_config
from support.endpoint import Endpoint, endpoint
from support.obstacle import Obstacle
from support.slurm_stubs import stub
from support.until import until

FEW = 4
MANY = 14


@frozen
class Queue:
    """A daemon whose jobs all wait in the queue of a cluster that is a file."""

    folder: Path
    cloud: Endpoint
    daemon: DaemonHere

    @property
    def listing(self) -> Path:
        return self.folder / "bin" / "listing"

    def orders(self, command: str) -> list[str]:
        file = self.folder / "bin" / f"{command}.log"
        return file.read_text().splitlines() if file.exists() else []

    async def until_asked(self, times: int) -> None:
        """Wait for more questions about the queue."""
        file = self.folder / "bin" / "asked"
        most = file.stat().st_size + times
        await until(lambda: file.stat().st_size >= most)

    async def hand_out(self, *names: str, **more: Any) -> None:
        """Have jobs submitted and released, and wait for nothing else to be under way."""
        released = len(self.orders("scontrol")) + len(names)
        for name in names:
            self.cloud.hand_out({"id": name, "dag_name": "it", **more})
        await until(lambda: len(self.orders("scontrol")) == released)

    def claim(self, name: str) -> Path:
        (claim,) = (self.daemon.state / "runs" / name).glob("attempt-1/dd-*/claim")
        return claim

    async def finished(self, name: str) -> dict[str, Any]:
        (end,) = await self.cloud.until_finished(name)
        return end


def tasks() -> int:
    return len(asyncio.all_tasks())


@asynccontextmanager
async def queue(folder: Path, settings: str = "") -> AsyncIterator[Queue]:
    place = folder / "bin"
    place.mkdir()
    (place / "listing").touch()
    alone = f"exec 9>{place}/lock; flock 9"
    name = "for each; do case $each in *name=*) name=${each##*name=};; esac; done"
    stub(
        *(place, "sbatch"),
        f'cat >/dev/null; {name}; {alone}; echo "$$|$name|PENDING|JobHeldUser|0|" >>{place}/listing; echo $$',
    )
    stub(place, "squeue", f"echo >>{place}/asked; cat {place}/listing")
    # It is released when nothing keeps the controller from that.
    stub(
        *(place, "scontrol"),
        f"[ -e {place}/refused ] && {{ echo Access denied >&2; exit 1; }}; {name}; while [ -e {place}/slow ]; do sleep 0.05; done; {alone}; "
        f'sed -i "/$name/s/JobHeldUser/Priority/" {place}/listing; echo "$@" >>{place}/scontrol.log',
    )
    stub(
        *(place, "scancel"),
        f'{name}; echo "$@" >>{place}/scancel.log; while [ -e {place}/stuck ]; do sleep 0.05; done; {alone}; sed -i "/$name/d" {place}/listing',
    )
    async with endpoint() as cloud:
        config = write_config(
            *(folder, cloud.url, {"it": ["/bin/true"]}),
            limits='engine = "hpc"',
            runs="retry_wait_s = 1\nstart_retries = 2",
        )
        with config.open("a") as more:
            more.write(
                f'[engines.hpc]\nkind = "slurm"\nslots = {MANY}\npoll_s = 1\n{settings}'
            )
        env = {"PATH": f"{place}{os.pathsep}{os.defpath}"}
        async with running_daemon(config, env=env) as daemon:
            yield Queue(folder, cloud, daemon)


async def test_many_that_wait_take_as_many_tasks_as_few_also_after_a_restart(
    tmp_path: Path,
) -> None:
    names = [f"job-{number}" for number in range(MANY)]
    async with queue(tmp_path) as at:
        await at.hand_out(*names[:FEW])
        before = await until(tasks)
        await at.hand_out(*names[FEW:])
        await until(lambda: tasks() <= before + FEW)

        await at.daemon.stop()
        at.daemon.start()
        await until(lambda: str(at.daemon.log()).count("daemon_ready") == 2)
        await until(lambda: tasks() <= before + FEW)

        # Nothing is submitted again, and the next daemon ends what it never observed.
        assert len(at.orders("scontrol")) == MANY
        await call(at.daemon, "POST", f"/v1/jobs/{names[-1]}/cancel", {})
        end = await at.finished(names[-1])
    assert end["result_status"] == "aborted"
    assert at.claim(names[-1]).read_text() == "daemon\n"
    assert len(at.listing.read_text().splitlines()) == MANY - 1


async def test_a_full_disk_keeps_nobody_from_ending_a_job_in_the_queue(
    tmp_path: Path,
) -> None:
    async with queue(tmp_path) as at:
        await at.hand_out("j")
        obstacle = Obstacle(at.daemon.state / "jobs" / "j.json")
        obstacle.put_up()
        at.cloud.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
        await until(lambda: at.orders("scancel"))
        assert at.claim("j").read_text() == "daemon\n"
        obstacle.take_away()
        end = await at.finished("j")
    assert end["result_status"] == "aborted"


async def test_a_limit_of_the_queue_counts_for_a_job_that_nobody_observes(
    tmp_path: Path,
) -> None:
    async with queue(tmp_path, "queue_timeout_s = 60\n") as at:
        await at.hand_out("j")
        await advance(60)
        end = await at.finished("j")
    assert (end["result_status"], end["result_cause"]) == ("failed", "queue-timeout")


async def test_a_limit_of_the_queue_counts_in_a_prolog_and_ends_a_job_once(
    tmp_path: Path,
) -> None:
    async with queue(tmp_path, "queue_timeout_s = 60\n") as at:
        await at.hand_out("j")
        listed = at.listing.read_text().replace("PENDING|Priority", "RUNNING|None")
        at.listing.write_text(listed)
        await until(lambda: tasks_named("beginning of j"))
        stuck = at.folder / "bin" / "stuck"
        stuck.touch()
        await advance(60)
        # The claim is the daemon's now, while its order is under way.
        await until(lambda: at.orders("scancel"))
        await advance(5)
        stuck.unlink()
        end = await at.finished("j")
    assert (end["result_status"], end["result_cause"]) == ("failed", "queue-timeout")
    assert len(at.orders("scontrol")) == 1


async def test_a_release_that_is_always_refused_ends_the_job(tmp_path: Path) -> None:
    async with queue(tmp_path) as at:
        (at.folder / "bin" / "refused").touch()
        at.cloud.hand_out({"id": "j", "dag_name": "it"})
        end = await at.finished("j")
    assert end["result_status"] == "failed"
    assert "Access denied" in end["result_summary"]
    assert not at.listing.read_text()


async def test_a_job_that_is_listed_before_its_release_is_not_taken_back(
    tmp_path: Path,
) -> None:
    async with queue(tmp_path) as at:
        await at.hand_out("j")
        slow = at.folder / "bin" / "slow"
        slow.touch()
        at.cloud.hand_out({"id": "k", "dag_name": "it"})
        await at.daemon.until_logged("job_attempt_started", job_id="k")
        # Jobs of the queue have been told of: the watch has looked at every one.
        await at.until_asked(2)
        slow.unlink()
        await until(lambda: len(at.orders("scontrol")) == 2)
        await at.until_asked(2)
        assert "JobHeldUser" not in at.listing.read_text()
        assert not at.orders("scancel")


@pytest.mark.parametrize("row", ["RUNNING|None", "COMPLETED|None"])
async def test_a_job_that_leaves_the_queue_is_followed(
    tmp_path: Path, row: str
) -> None:
    async with queue(tmp_path) as at:
        await at.hand_out("j", "k")
        (folder,) = (at.daemon.state / "runs" / "j").glob("attempt-1/dd-*")
        (folder / "claim").write_text("7\n")
        lines = at.listing.read_text().splitlines()
        changed = [
            line.replace("PENDING|Priority", row) if folder.name in line else line
            for line in lines
        ]
        at.listing.write_text("\n".join(changed) + "\n")
        if row.startswith("RUNNING"):
            await until(
                lambda: tasks_named("beginning of j") or tasks_named("watchdog j")
            )
            assert not tasks_named("watchdog k")
            at.listing.write_text(
                at.listing.read_text().replace("RUNNING", "COMPLETED")
            )
        end = await at.finished("j")
    assert end["result_status"] == "succeeded"

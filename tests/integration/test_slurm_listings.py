"""Listings of the Slurm engine without a cluster: who asks, who is woken, how often; and whose starts are whose."""

from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.domain.executions.identities import BatchJob
from dispatchd.agent.engines.slurm.commands import Commands
from dispatchd.agent.engines.slurm.engine import SlurmEngine
from dispatchd.agent.engines.slurm.listing import Listing, Listings, distance
from dispatchd.agent.engines.slurm.site import Site
from dispatchd.agent.engines.slurm.states import Row
from dispatchd.agent.engines.starts import installation_of, prefix_of
from dispatchd.linux.clock import MachineTime
from support.slurm_stubs import NoSecrets, stub
from support.until import until

PENDING = Row(job_id=1, name="dd-a", state="PENDING", reason="Priority")


def test_ten_idle_minutes_after_a_start_take_at_most_one_question_in_30_seconds() -> (
    None
):
    asked_at, asked = 0.0, 0
    while (asked_at := asked_at + distance(10.0, asked_at)) <= 600:
        asked += 1

    assert asked <= 20
    assert distance(10.0, 1e6) == 60.0


async def test_whom_a_listing_does_not_concern_sleeps_on_and_another_asks_for_one_who_leaves(
    tmp_path: Path,
) -> None:
    listed = tmp_path / "listed"
    listed.write_text("1|dd-a|PENDING|Priority|0|\n2|dd-b|PENDING|Priority|0|\n")
    commands = stub(tmp_path, "squeue", f"echo >>{tmp_path}/asked; cat {listed}")
    listings = Listings(commands, 0.05, MachineTime().monotonic)
    woken = dict[str, Listing]()

    def asked() -> int:
        file = tmp_path / "asked"
        return len(file.read_text()) if file.exists() else 0

    async def wait(
        name: str,
        job_id: int,
        *,
        task_status: TaskStatus[anyio.CancelScope] = TASK_STATUS_IGNORED,
    ) -> None:
        known = Row(job_id=job_id, name=name, state="PENDING", reason="Priority")
        with anyio.CancelScope() as scope:
            task_status.started(scope)
            woken[name] = await listings.news(name, job_id, known, float("-inf"))

    async with anyio.create_task_group() as tasks:
        asker = await tasks.start(wait, "dd-a", 1)
        await tasks.start(wait, "dd-b", 2)
        await until(lambda: asked() >= 3)
        assert not woken
        asker.cancel()
        more = asked() + 2
        await until(lambda: asked() >= more)
        aside = tmp_path / "aside"
        aside.write_text("2|dd-b|RUNNING|None|0|n1\n")
        aside.replace(listed)

    row = woken["dd-b"].row("dd-b", 2)
    assert row is not None
    assert (list(woken), row.state) == (["dd-b"], "RUNNING")


async def test_a_held_job_of_another_machine_with_the_same_names_is_left_alone(
    tmp_path: Path,
) -> None:
    stub(tmp_path, "scancel", f'echo "$@" >>{tmp_path}/cancelled')
    listed = tmp_path / "listed"
    commands = stub(tmp_path, "squeue", f"cat {listed}")
    settings, state, time = EngineEntry(poll_s=1), tmp_path / "state", MachineTime()
    state.mkdir()
    supplier = NoSecrets(commands.environment)
    engine = SlurmEngine.of("hpc", settings, state, supplier, set, time)
    former = Site.of("hpc", settings, state, commands.environment, time)
    id_of_ours = (state / "installation").read_text()
    ours = prefix_of(state, "hpc", id_of_ours) + "0" * 16
    left, late, others = (former.new_name() for _ in range(3))
    names = (ours, left, late, others, prefix_of(state, "hpc", "other") + "0" * 16)
    rows = [
        f"{number}|{name}|PENDING|JobHeldUser|0|\n"
        for number, name in enumerate(names, 1)
    ]
    listed.write_text("".join(rows))
    former.folder.mkdir()
    former.link(left).symlink_to("gone")
    # One that arrives after it was taken back, with its short way.
    (state / "runs" / "j" / "attempt-1" / late).mkdir(parents=True)

    assert await engine.orphans() == {ours, left, late}
    await engine.tidy()

    cancelled = (tmp_path / "cancelled").read_text()
    assert [name in cancelled for name in names] == [True, True, True, False, False]
    assert not list(former.folder.iterdir())
    assert installation_of(state) == id_of_ours


@pytest.mark.parametrize(
    ("row", "waits"),
    [
        ("PENDING|Priority|0|", True),
        ("CONFIGURING|None|0|n1", True),
        ("PENDING|JobHeldUser|0|", False),
        ("RUNNING|None|0|n1", False),
        ("COMPLETED|None|0|n1", False),
        ("NEW_ONE|None|0|n1", False),
        ("", False),
    ],
)
async def test_a_job_waits_until_a_listing_says_otherwise_and_silence_says_nothing(
    tmp_path: Path, row: str, *, waits: bool
) -> None:
    listed = tmp_path / "listed"
    commands = stub(tmp_path, "squeue", f"cat {listed}")
    engine = engine_on(tmp_path, commands)
    job = batch_job("dd-a", 1)
    assert engine.waits(job)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.until_told)
        # The controller is away.
        await until(lambda: "doesn't answer" in engine.describe(job))
        assert engine.waits(job)
        aside = tmp_path / "aside"
        aside.write_text(f"1|dd-a|{row}\n" if row else "")
        aside.replace(listed)
    assert engine.waits(job) is waits
    assert "doesn't answer" not in engine.describe(job)


async def test_of_jobs_in_the_queue_is_told_what_is_new_and_the_first_that_is_said_of_each(
    tmp_path: Path,
) -> None:
    listed = tmp_path / "listed"
    listed.write_text("1|dd-a|PENDING|Priority|0|\n2|dd-b|PENDING|JobHeldUser|0|\n")
    commands = stub(tmp_path, "squeue", f"echo >>{tmp_path}/asked; cat {listed}")
    engine = engine_on(tmp_path, commands)
    assert engine.waits(batch_job("dd-a", 1))
    await engine.until_told()
    asked = (tmp_path / "asked").stat().st_size
    told = list[str]()

    async def note() -> None:
        await engine.until_told()
        told.append("of a listing like the one before")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(note)
        await until(lambda: (tmp_path / "asked").stat().st_size >= asked + 3)
        assert not told
        tasks.cancel_scope.cancel()

    # The listing is as it was, but nobody has been told of this one.
    assert engine.waits(batch_job("dd-b", 2))
    await engine.until_told()
    assert not engine.waits(batch_job("dd-b", 2))
    listed.write_text("1|dd-a|RUNNING|None|0|n1\n")
    await engine.until_told()
    assert not engine.waits(batch_job("dd-a", 1))


def engine_on(folder: Path, commands: Commands) -> SlurmEngine:
    settings, supplier = EngineEntry(poll_s=0.1), NoSecrets(commands.environment)
    return SlurmEngine.of(
        "hpc", settings, folder / "state", supplier, set, MachineTime()
    )


def batch_job(name: str, job_id: int) -> BatchJob:
    return BatchJob(
        engine="hpc",
        cluster="",
        name=name,
        job_id=job_id,
        submitted_at=datetime.now(UTC),
        limit_s=60.0,
    )

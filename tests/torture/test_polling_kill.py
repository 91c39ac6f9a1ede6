"""The hub is killed with SIGKILL between any two steps of a sweep through GitHub's deliveries: each is taken in once.

A step is what the outside can see: a call to GitHub that is about to be made, a write to the database, its becoming
durable (tests/torture/kill_hub.c).
"""

from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from attrs import define, field

from support.deliveries_api import DeliveriesApi, Entry, deliveries_api
from support.github_events import real
from support.github_hub import deliveries, jobs
from support.hub_process import HubProcess
from support.kill_hub import MARK, Arm
from support.machine import Machine
from support.polling import ISSUES, config, prepared
from support.torture import POSTGRESQL, Sweep

OPENED = real("issues/17-opened")


@define
class Story:
    """What GitHub lists once the hub may look: on three pages, and not all of it there or wanted."""

    api: DeliveriesApi
    wanted: list[Entry] = field(factory=list)
    """Oldest first."""
    ignored: list[Entry] = field(factory=list)

    def tell(self) -> None:
        api = self.api
        self.wanted = [
            api.add("issues", OPENED, ago_s=500),
            api.add("issues", OPENED, ago_s=400, missing=1),
            api.add("issues", OPENED, ago_s=300, as_text=True),
            api.add("issues", OPENED, ago_s=20),
        ]
        self.ignored = [
            api.add("star", {"action": "created"}, ago_s=450),
            api.add("issues", real("issues/04-deleted"), ago_s=30),
        ]
        api.again(self.wanted[0], ago_s=10)

    async def until_told(self) -> None:
        """Return once all of it was handed out and two more sweeps have begun: all before them have ended."""
        await self.api.until(
            lambda: all(self.api.fetched[each.guid] for each in self.wanted)
        )
        await self.api.sweeps(2)

    async def unless_killed(self, server: HubProcess, mark: Path) -> bool:
        """Wait until all is told and steps count no more, or the hub is killed; return whether it was."""
        killed = False
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal killed
                await to_thread.run_sync(server.process.wait, abandon_on_cancel=True)
                killed = True
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self.until_told()
            mark.unlink()
            # It may have been at its last step that counts.
            await self.api.sweeps(1)
            tasks.cancel_scope.cancel()
        mark.unlink(missing_ok=True)
        return killed


async def sweep_despite_a_kill(arm: Arm, folder: Path, sweep: Sweep, step: int) -> None:
    async with deliveries_api(per_page=3) as api:
        gate = api.gate = anyio.Event()
        more = config(api, rules=ISSUES)
        prepared(folder, api)
        async with arm(sweep, step, counts=False, more=more) as server:
            story = Story(api)
            mark = folder / MARK
            await api.until(lambda: api.count("GET") == 1)
            story.tell()
            mark.touch()
            gate.set()
            killed = await story.unless_killed(server, mark)
            if killed:
                assert server.process.returncode == -9
                server.env = {}
                await server.start()
                await story.until_told()

            await check(server, story)

            # Nothing is fetched anew by a process that knows only what is durable.
            before = dict(api.fetched)
            server.kill()
            server.env = {}
            await server.start()
            await api.sweeps(2)
            assert dict(api.fetched) == before
            await check(server, story)
            machine = Machine(http=server.http)
            order = [(await machine.pull()).job["delivery_id"] for _ in story.wanted]
            # The one that wasn't there yet comes when it is.
            late = story.wanted[1].guid
            in_time = [each.guid for each in story.wanted if each.guid != late]
            assert [each for each in order if each != late] == in_time
    sweep.require(step, killed=killed)


async def check(server: HubProcess, story: Story) -> None:
    """Assert that each event is known, and has its job, once."""
    kept = {each["id"]: each for each in await deliveries(server)}
    entries = [*story.wanted, *story.ignored]
    assert {*kept} == {each.guid for each in entries}
    made = [job["delivery_id"] for job in await jobs(server)]
    assert sorted(made) == sorted(each.guid for each in story.wanted)
    for each in story.wanted:
        assert (kept[each.guid]["state"], len(kept[each.guid]["job_ids"])) == (
            *("queued", 1),
        )


ON_SQLITE = Sweep(least=28, most=45)
ON_POSTGRESQL = Sweep(database=POSTGRESQL, least=150, most=230)


@pytest.mark.parametrize(
    ("sweep", "step"), [*ON_SQLITE.smoke(2, 15, 27), *ON_POSTGRESQL.smoke(90)]
)
async def test_a_hub_that_is_killed_at_a_few_steps_of_a_sweep_has_each_event_once(
    arm: Arm, tmp_path: Path, sweep: Sweep, step: int
) -> None:
    await sweep_despite_a_kill(arm, tmp_path / "hub", sweep, step)


@pytest.mark.parametrize(
    ("sweep", "step"), [*ON_SQLITE.every_step(), *ON_POSTGRESQL.every_step()]
)
async def test_a_hub_that_is_killed_at_any_step_of_a_sweep_has_each_event_once(
    arm: Arm, tmp_path: Path, sweep: Sweep, step: int
) -> None:
    await sweep_despite_a_kill(arm, tmp_path / "hub", sweep, step)

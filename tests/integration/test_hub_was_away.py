"""Silence counts only while the hub could hear: down, stopped, asleep, without its database, or with another clock."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from bench.postgres import Postgres

from dispatchd.hub.domain.listening import Listening, Moment
from dispatchd.hub.storage.database import Database
from support import hub_process
from support.clock import advance
from support.hub import HubHere, hub
from support.machine import Held, Machine, held_poll, row
from support.preload import build
from support.until import in_time, until

MONTH_S = 30 * 86_400.0
AWAY_S = 600.0
"""For how long the hub is away (seconds): longer than a lease and its patience."""


@pytest.fixture
async def here(tmp_path: Path, database_url: str) -> AsyncIterator[HubHere]:
    async with hub(tmp_path / "hub", database_url=database_url) as found:
        yield found


async def running(server: HubHere, job_id: str = "j") -> Held:
    """Return a job that a machine runs, and beats for."""
    await server.submit({"id": job_id, "dag_name": "it"})
    held = await Machine(http=server.http).pull()
    assert (await held.accept()).status_code == 204
    assert (await held.beat("running")).status_code == 200
    return held


async def is_left_alone(server: HubHere, held: Held) -> None:
    """Return if no other machine gets a job before its own is heard of again."""
    other = Machine(http=server.http, name="m2")
    assert (await other.ask()).status_code == 204
    # Not at the end of a lease either, but for the very last moment.
    await advance(server.lease_s / 2)
    await looked(server)
    assert (await other.ask()).status_code == 204
    assert (await held.beat("running")).status_code == 200
    assert (await held.finish()).status_code == 204
    job = await row(server, held.id)
    assert (job["state"], job["deliveries"]) == ("succeeded", 1)


async def looked(server: HubHere) -> None:
    """Return once the hub has looked for leases that are over at a time that is now."""
    for _ in range(3):
        await advance(5.1)
        await server.http.get("/readyz")
        await until(lambda: server.context.calls == 0)
        await anyio.sleep(0.05)


async def test_a_hub_that_was_down_takes_nothing_back(here: HubHere) -> None:
    held = await running(here)
    await here.stop()
    await advance(AWAY_S)
    await here.start()
    await is_left_alone(here, held)


async def test_a_hub_that_did_not_run_takes_nothing_back(here: HubHere) -> None:
    held = await running(here)
    await here.stand_still(AWAY_S)
    await looked(here)
    await is_left_alone(here, held)


async def test_a_hub_whose_clock_was_set_takes_nothing_back(here: HubHere) -> None:
    held = await running(here)
    here.time.wall_set_by_s += AWAY_S
    await looked(here)
    await is_left_alone(here, held)


async def test_a_hub_whose_clock_was_set_back_still_notices_who_is_gone(
    here: HubHere,
) -> None:
    await running(here)
    here.time.wall_set_by_s -= 30
    await looked(here)
    await advance(here.lease_s + 30)
    await advance(here.patience_s)
    other = Machine(http=here.http, name="m2")
    await in_time(lambda: _pulls(other))


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_lease_of_a_time_when_the_clock_was_ahead_ends_like_any_other(
    tmp_path: Path,
    database_url: str,
    restarts: bool,  # noqa: FBT001  # of the parameters
) -> None:
    async with hub(tmp_path / "hub", database_url=database_url) as here:
        here.time.wall_set_by_s += MONTH_S
        await looked(here)
        await running(here)
        if restarts:
            # The clock is put right while the hub is down.
            await here.stop()
            await here.start()
        else:
            here.time.wall_set_by_s -= MONTH_S
        await looked(here)
        other = Machine(http=here.http, name="m2")
        assert (await other.ask()).status_code == 204

        await advance(here.lease_s + here.patience_s)
        await advance(here.lease_s + here.patience_s)
        await in_time(lambda: _pulls(other))


async def test_a_lease_that_was_promised_for_longer_holds_after_a_start_with_shorter_ones(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path / "hub", lease_s=3000.0) as here:
        held = await running(here)
        await here.stop()
        here.lease_s = 60.0
        here.configure()
        await here.start()
        await looked(here)
        await advance(here.lease_s + here.patience_s + 600)
        await looked(here)
        assert (await Machine(http=here.http, name="m2").ask()).status_code == 204
        assert (await held.finish()).status_code == 204


async def _pulls(machine: Machine) -> bool:
    return (await machine.ask()).status_code == 200


@pytest.mark.parametrize("call", ["claimed", "accepted", "needs_attention"])
async def test_no_kind_of_claim_is_taken_back_after_a_start(
    here: HubHere, call: str
) -> None:
    await here.submit({"id": "j", "dag_name": "it"})
    held = await Machine(http=here.http).pull()
    if call != "claimed":
        await held.accept()
        await held.beat(call)
    await here.stop()
    await advance(AWAY_S)
    await here.start()
    await looked(here)
    assert (await Machine(http=here.http, name="m2").ask()).status_code == 204
    assert (await held.accept()).status_code == 204


async def test_who_is_really_gone_is_noticed_a_full_lease_later(here: HubHere) -> None:
    await running(here)
    await here.stop()
    await advance(AWAY_S)
    await here.start()
    other = Machine(http=here.http, name="m2")
    await advance(here.lease_s + here.patience_s - 90)
    await looked(here)
    assert (await row(here, "j"))["state"] == "running"
    await advance(90)
    await in_time(lambda: _pulls(other))


async def test_a_poll_that_waits_through_it_gets_nothing_of_others(
    here: HubHere,
) -> None:
    held = await running(here)
    other = Machine(http=here.http, name="m2")
    async with held_poll(other, wait="300") as poll:
        await here.stand_still(AWAY_S)
        await looked(here)
    assert poll.reply.status_code == 204
    await is_left_alone(here, held)


async def test_a_hub_without_its_database_takes_nothing_back_when_it_has_it_again(
    tmp_path: Path,
) -> None:
    """SQLite's file is locked by somebody else for as long as the network of a database might be away."""
    async with hub(tmp_path / "hub") as server:
        held = await running(server)
        await until(lambda: server.context.calls == 0)
        blocker = Database.open(f"sqlite:///{server.folder / 'hub.db'}")
        try:
            with blocker.transaction():
                await advance(AWAY_S)
                await until(lambda: "database_busy" in server.log_file.read_text(), 60)
        finally:
            blocker.close()
        await looked(server)
        await is_left_alone(server, held)


@pytest.mark.host
async def test_a_hub_whose_postgresql_was_away_takes_nothing_back(
    tmp_path: Path, postgresql: Postgres, postgresql_url: str
) -> None:
    async with hub(tmp_path / "hub", database_url=postgresql_url) as server:
        held = await running(server)
        with postgresql.away(postgresql_url):
            await advance(AWAY_S)
            await until(lambda: "database_busy" in server.log_file.read_text(), 60)
        await looked(server)
        await is_left_alone(server, held)


async def test_a_hub_process_that_was_stopped_takes_nothing_back(
    tmp_path: Path,
) -> None:
    """The kernel tells nobody: the process finds out by itself, however soon it is asked after that."""
    lease_s, patience_s = 4.0, 1.0
    async with hub_process.hub(
        tmp_path / "hub", lease_s=lease_s, patience_s=patience_s
    ) as server:
        machine = Machine(http=server.http)
        await server.submit({"id": "j", "dag_name": "it"})
        held = await machine.pull()
        await held.accept()
        await held.beat("running")
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            await anyio.sleep(lease_s + patience_s + 1)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        reply = await Machine(http=server.http, name="m2").ask(wait="1")
        assert reply.status_code == 204
        assert (await held.beat("running")).status_code == 200
        assert (await held.finish()).status_code == 204
        job = await row(server, "j")
        assert (job["state"], job["deliveries"]) == ("succeeded", 1)


@pytest.mark.host
async def test_two_hubs_with_clocks_20_minutes_apart_agree_on_leases(
    tmp_path: Path, postgresql_url: str
) -> None:
    """What one writes by its clock, which is behind, the other judges by its own, which is ahead."""
    library = str(
        build(Path(__file__).parents[1] / "support" / "clock_ahead.c", tmp_path)
    )
    async with AsyncExitStack() as opened:
        slow = await opened.enter_async_context(
            hub_process.hub(
                tmp_path / "slow",
                lease_s=3.0,
                database_url=postgresql_url,
                env={"LD_PRELOAD": library, "AHEAD_S": "-600"},
            )
        )
        fast = await opened.enter_async_context(
            hub_process.hub(
                tmp_path / "fast",
                lease_s=3.0,
                database_url=postgresql_url,
                env={"LD_PRELOAD": library, "AHEAD_S": "600"},
            )
        )
        await slow.submit({"id": "runs", "dag_name": "it"})
        held = await Machine(http=slow.http).pull()
        await held.accept()
        await held.beat("running")
        # Nobody accepts this one, so that it shows when a hub has looked.
        await slow.submit({"id": "lost", "dag_name": "it"})
        await Machine(http=slow.http, name="m3").pull()
        slow.kill()

        other = Machine(http=fast.http, name="m2")
        again = await other.pull(wait="30")
        assert again.id == "lost"
        assert (await other.ask()).status_code == 204
        through_the_other = Machine(http=fast.http)
        fields = {"claim_token": held.token}
        beat = await through_the_other.call(
            "heartbeat", "runs", phase="running", **fields
        )
        assert beat.status_code == 200


# The judgement by itself


def moment(at: float, *, asleep_s: float = 0, set_by_s: float = 0) -> Moment:
    return Moment(now=1000 + at + set_by_s, since_boot=at, running=at - asleep_s)


@pytest.mark.parametrize(
    ("seen", "waited_s", "is_a_break"),
    [
        (moment(5), 5.0, False),
        (moment(9.9), 5.0, False),
        (moment(10.1), 5.0, True),
        (moment(600), 5.0, True),
        (moment(600, asleep_s=595), 5.0, True),
        (moment(5, set_by_s=600), 5.0, True),
        (moment(5, set_by_s=-600), 5.0, True),
        (moment(5, set_by_s=0.5), 5.0, False),
    ],
)
def test_a_break_is_a_late_round_or_a_clock_that_disagrees(
    seen: Moment,
    waited_s: float,
    is_a_break: bool,  # noqa: FBT001  # a column of the table
) -> None:
    listening = Listening.begun(moment(0))
    assert listening.hear(seen, waited_s=waited_s, lease_s=60) is is_a_break
    assert listening.since == (seen.now if is_a_break else 1000)


def test_a_short_lease_tolerates_less() -> None:
    listening = Listening.begun(moment(0))
    assert listening.hear(moment(4), waited_s=2, lease_s=3)


def test_silence_counts_from_when_the_database_answers_again() -> None:
    listening = Listening.begun(moment(0))
    listening.interrupt()
    listening.interrupt()
    assert listening.hear(moment(5), waited_s=5, lease_s=60)
    assert not listening.hear(moment(10), waited_s=5, lease_s=60)
    assert listening.since == 1005

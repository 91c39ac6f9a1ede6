"""Checks and kills: one check run for each job, wherever the hub dies; one publisher for each database."""

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from bench.postgres import Postgres

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.hub.github.leader import Lock
from dispatchd.hub.storage.database import Database
from support.checks import ChecksHub, checks_hub_process, github_table
from support.github_api import Fault, GithubApi, github_api
from support.hub_process import HubProcess, hub
from support.torture import POSTGRESQL, Sweep, lasting_port
from support.until import until

CREATE = "POST check-runs"
WRITES = ("POST check-runs", "PATCH check-runs")


async def test_a_kill_between_a_post_and_the_keeping_of_its_id_makes_no_second_check(
    tmp_path: Path,
) -> None:
    async with github_api() as github, checks_hub_process(tmp_path, github) as hub:
        trap = github.trap(CREATE, Fault(hang=True, after=True))
        hub.add("j")
        held = await hub.pull()
        await github.until(lambda: bool(trap.sprung) and len(github.runs) == 1)
        hub.server.kill()
        assert hub.check("j").asked

        await hub.server.start()
        await held.accept()
        await hub.finish(held, "succeeded")
        await hub.paid()

        (run,) = github.runs.values()
        assert run["conclusion"] == "success"
        assert github.violations == []


WRITES_OF_A_JOB = Sweep(least=5, most=5)
WRITES_OF_A_JOB_POSTGRESQL = Sweep(database=POSTGRESQL, least=5, most=5)
"""A job's calls are the steps: its check is created, changed three times, and followed by one that asks for a person."""


@pytest.mark.parametrize(
    ("sweep", "step", "after"),
    [
        pytest.param(WRITES_OF_A_JOB, 1, True, id="1-after"),
        pytest.param(WRITES_OF_A_JOB, 3, False, id="3-before"),
        pytest.param(WRITES_OF_A_JOB, 5, True, id="5-after"),
    ],
)
async def test_a_hub_that_dies_at_a_few_of_its_calls_leaves_one_check_with_each_conclusion(
    tmp_path: Path, sweep: Sweep, step: int, *, after: bool
) -> None:
    await tell_despite_a_kill(tmp_path, "sqlite:///hub.db", sweep, step, after=after)


@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize(
    ("sweep", "step"),
    [*WRITES_OF_A_JOB.every_step(), *WRITES_OF_A_JOB_POSTGRESQL.every_step()],
)
async def test_a_hub_that_dies_at_any_of_its_calls_leaves_one_check_with_each_conclusion(
    url_for: Callable[[Sweep], str],
    tmp_path: Path,
    sweep: Sweep,
    step: int,
    *,
    after: bool,
) -> None:
    await tell_despite_a_kill(tmp_path, url_for(sweep), sweep, step, after=after)


async def tell_despite_a_kill(
    folder: Path, database_url: str, sweep: Sweep, step: int, *, after: bool
) -> None:
    """Take a job through all that GitHub is told of it; the hub is killed at one of its calls."""
    async with (
        github_api() as github,
        checks_hub_process(
            folder, github, database_url=database_url, port=lasting_port()
        ) as hub,
    ):
        killed = await one_life(github, hub, step, after=after)

        conclusions = {
            each["external_id"]: each["conclusion"] for each in github.runs.values()
        }
        assert conclusions == {"j": "action_required", "j#2": "failure"}
        assert len(github.runs) == 2
        assert github.violations == []
    sweep.require(step, killed=killed)


async def one_life(
    github: GithubApi, hub: ChecksHub[HubProcess], step: int, *, after: bool
) -> bool:
    """Take a job through its life; return whether the hub came to the call at which it dies."""
    seen: list[str] = []
    died = False

    def is_the_one(name: str) -> bool:
        seen.append(name)
        return len(seen) == step

    fault = Fault(hang=True, after=after)
    traps = [
        github.trap(name, fault, when=lambda request: is_the_one(request.name))
        for name in WRITES
    ]
    hub.add("j")
    held = await hub.pull()

    async def settled() -> None:
        """Wait until all is told; where the hub hangs at its call, kill it and start it again."""
        nonlocal died

        def hangs_or_is_done() -> bool:
            hangs = not died and any(trap.sprung for trap in traps)
            return hangs or hub.store.pending_count() == (0, 0)

        await until(hangs_or_is_done, 60, "all told")
        if hub.store.pending_count() != (0, 0):
            died = True
            hub.server.kill()
            await hub.server.start()
            await until(hangs_or_is_done, 60, "all told")

    await hub.ring()
    await settled()
    await held.accept()
    await settled()
    await held.machine.call(
        "heartbeat", "j", claim_token=held.token, phase="needs_attention", reason="?"
    )
    await settled()
    await held.beat()
    await settled()
    await hub.finish(held, "failed", "exit-code")
    await settled()
    return died


def lock_events(server: HubProcess) -> list[str]:
    lines = (server.folder / "hub.log").read_text().splitlines()
    found = [json.loads(each)["event"] for each in lines if each.startswith("{")]
    return [each for each in found if each.startswith("github_lock_")]


@pytest.mark.host
async def test_of_two_hubs_on_one_database_one_tells_and_the_other_takes_over_at_a_kill(
    tmp_path: Path, postgresql: Postgres
) -> None:
    url = postgresql.new_database()
    (tmp_path / "other").mkdir()
    async with (
        github_api() as github,
        checks_hub_process(tmp_path, github, database_url=url) as first,
        hub(
            tmp_path / "other" / "hub",
            database_url=url,
            more=github_table(tmp_path / "other", github),
        ) as second,
    ):
        await until(lambda: lock_events(first.server) == ["github_lock_held"])
        for number in range(40):
            first.add(f"j{number}")
        await first.paid()
        assert lock_events(second) == []

        # What only the other one knows of.
        held = [await first.pull() for _ in range(20)]
        first.server.kill()
        first.server.http = second.http
        for each in held:
            response = await second.http.post(
                f"/api/v1/github/dispatch/{each.id}/finish",
                json={
                    "license_id": "lic-test",
                    "server_id": "m1",
                    "secret": each.machine.secret,
                    "claim_token": each.token,
                    "result_status": "succeeded",
                },
            )
            assert response.status_code == 204
        await first.paid()

        assert lock_events(second) == ["github_lock_held"]
        assert github.count(CREATE) == len(github.runs) == 40
        concluded = [each["conclusion"] for each in github.runs.values()]
        assert concluded.count("success") == 20
        assert github.violations == []


@pytest.mark.host
async def test_a_lock_that_is_lost_ends_the_telling_until_it_is_had_again(
    tmp_path: Path, postgresql: Postgres
) -> None:
    url = postgresql.new_database()
    async with (
        github_api() as github,
        checks_hub_process(tmp_path, github, database_url=url) as hub,
    ):
        await until(lambda: lock_events(hub.server) == ["github_lock_held"])
        with psycopg.connect(url, autocommit=True) as db:
            ended = db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks "
                "WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid() "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchall()
        assert ended == [(True,)]
        hub.add("j")

        await hub.paid()

        assert lock_events(hub.server) == [
            "github_lock_held",
            "github_lock_lost",
            "github_lock_held",
        ]
        assert len(github.runs) == 1


async def test_a_file_locks_a_database_of_sqlite_until_its_holder_is_gone(
    tmp_path: Path,
) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'hub.db'}")
    first, second = Lock(database, BugFence()), Lock(database, BugFence())
    async with first.attempt() as held:
        assert held is not None
        async with second.attempt() as other:
            assert other is None
    async with second.attempt() as held:
        assert held is not None
    assert (tmp_path / "hub.db-github.lock").stat().st_mode & 0o777 == 0o600
    database.close()

"""Re-run is pressed by two people at the same moment, so that GitHub sends two deliveries: there is one job."""

from pathlib import Path
from typing import Any

import anyio

from support.clock import within
from support.github import APP_ID
from support.github_events import real
from support.github_scene import Repository, Scene, scene

ROUNDS = 6


async def all_jobs(here: Scene, *tells: tuple[str, dict[str, Any]]) -> list[str]:
    """Send events at the same time; return the jobs of all."""
    made: list[str] = []

    async def tell(name: str, event: dict[str, Any]) -> None:
        made.extend((await here.tell(name, event)).json()["jobs"])

    async with anyio.create_task_group() as tasks:
        for name, event in tells:
            tasks.start_soon(tell, name, event)
    return made


def pressed(job: str, login: str) -> tuple[str, dict[str, Any]]:
    """Return the event of a user who presses Re-run at the check of a job."""
    event = real("check_run/08-rerequested")
    event["check_run"] |= {"external_id": job, "app": {"id": APP_ID}}
    event["repository"] = real("push/00")["repository"]
    event["sender"]["login"] = login
    return "check_run", event


def pressed_for_all(sha: str) -> tuple[str, dict[str, Any]]:
    """Return the event of a user who presses Re-run all checks at a commit."""
    event = real("check_suite/07-rerequested")
    event["check_suite"] |= {"head_sha": sha, "app": {"id": APP_ID}}
    event["repository"] = real("push/00")["repository"]
    return "check_suite", event


async def test_a_check_that_two_press_again_at_once_runs_once(
    tmp_path: Path, database_url: str
) -> None:
    async with scene(tmp_path, Repository(), database_url=database_url) as here:
        push = real("push/00")
        [job] = (await here.tell("push", push)).json()["jobs"]
        with within(120):
            for number in range(ROUNDS):
                await (await here.hub.pull()).finish("failed", "No.")
                others = [pressed_for_all(push["after"])] if number % 2 else []

                made = await all_jobs(
                    here, pressed(job, "octocat"), pressed(job, "hubot"), *others
                )

                [job] = made
            assert (await here.hub.pull()).id == job
            assert (await here.hub.machine.ask()).status_code == 204


async def test_one_delivery_that_comes_twice_at_once_runs_once(
    tmp_path: Path, database_url: str
) -> None:
    async with scene(tmp_path, Repository(), database_url=database_url) as here:
        [job] = (await here.tell("push", real("push/00"))).json()["jobs"]
        with within(120):
            for _ in range(ROUNDS):
                await (await here.hub.pull()).finish("failed", "No.")
                again = pressed(job, "octocat")

                # Under two ids: GitHub, or who replays it, gives it another one.
                made = await all_jobs(here, again, again)

                [job] = set(made)
            assert (await here.hub.pull()).id == job
            assert (await here.hub.machine.ask()).status_code == 204

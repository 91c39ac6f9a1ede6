"""Decisions about parked jobs by a comment or a button at GitHub, which says who may make them."""

from pathlib import Path
from typing import Any

import pytest

from dispatchd.hub.web.acts import act
from support.github_api import Fault
from support.github_events import pull_request
from support.github_hub import deliveries, jobs
from support.github_scene import Repository, Scene, scene
from support.machine import Held, refuses, row
from support.until import until

STAY = {"reason": "Which of the two?", "parked": "stay-1"}


async def parked(here: Scene, **stay: Any) -> Held:
    """Let the first job of a pull request be parked; the second one waits."""
    await here.tell("pull_request", pull_request())
    held = await here.hub.pull()
    await held.accept()
    await held.beat("needs_attention", **{**STAY, **stay})
    return held


async def told(held: Held, **stay: Any) -> Any:
    reply = await held.beat("needs_attention", **{**STAY, **stay})
    return reply.json().get("resolve")


def buttons(here: Scene, held: Held) -> list[dict[str, str]]:
    found: list[dict[str, str]] = here.github.newest(held.id)["actions"]
    return found


async def test_a_comment_decides_about_the_parked_job_of_its_pull_request(
    tmp_path: Path, database_url: str
) -> None:
    async with scene(tmp_path, Repository(), database_url=database_url) as here:
        held = await parked(here)

        # A note in Markdown is no plain line, as with every command.
        looked = await here.say("Looked.\n\n/resolve retry the disk is *larger*\n")
        assert looked.json()["jobs"] == []
        [job] = await here.decided(await here.say("/resolve retry the disk is larger"))

        assert (job["state"], job["command"]) == ("succeeded", "resolve")
        assert job["result_summary"] == f"Decided about {held.id}: retry."
        assert (await told(held)) == {
            "parked": "stay-1",
            "as": "retry",
            "note": "the disk is larger",
            "by": "octocat at GitHub",
        }
        assert here.repository.reactions == ["eyes"]
        assert here.github.violations == []
        # No machine ever gets the decision as a job.
        other = await here.hub.pull()
        assert other.job["dag_name"] != "resolve"
        assert (await here.hub.machine.ask()).status_code == 204


@pytest.mark.parametrize(
    ("words", "choice"),
    [("/RESOLVE Failed", "fail"), ("@our-ci /resolve succeeded  so be it", "succeed")],
)
async def test_an_end_may_be_in_the_past_tense(
    tmp_path: Path, words: str, choice: str
) -> None:
    async with scene(tmp_path, Repository()) as here:
        held = await parked(here)

        await here.decided(await here.say(words))

        assert (await told(held))["as"] == choice
        [change] = here.changes()
        assert act(change) == f"Decide about parked job {held.id}"
        assert (change.who, change.address) == ("octocat (github)", "GitHub")


async def test_who_may_not_decides_nothing_and_gets_no_words(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository(permission="triage")) as here:
        held = await parked(here)
        await here.hub.paid()

        [job] = await here.decided(await here.say("/resolve succeed"))
        identifier = buttons(here, held)[2]["identifier"]
        [pressed] = await here.decided(await here.press(held.id, identifier))

        assert (job["state"], pressed["state"]) == ("ignored", "ignored")
        assert await told(held) is None
        assert here.changes() == []
        await here.github.until(lambda: here.repository.reactions == ["-1"])
        assert here.repository.comments == []


async def test_who_github_cannot_be_asked_about_decides_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        held = await parked(here)
        refused = Fault(status=422)
        here.github.trap("GET collaborators/octocat/permission", refused, times=9)

        [job] = await here.decided(await here.say("/resolve succeed"))

        assert job["state"] == "ignored"
        assert await told(held) is None


async def test_a_decision_needs_what_the_rule_of_the_job_needs(tmp_path: Path) -> None:
    rules = """
[[github.rules]]
name = "deploy"
repositories = ["*"]
command = "deploy"
workflow = "deploy"
permission = "admin"
"""
    async with scene(tmp_path, Repository(permission="admin"), rules) as here:
        await here.decided(await here.say("/run deploy"))
        held = await here.hub.pull()
        await held.accept()
        await held.beat("needs_attention", **STAY)
        here.repository.permission = "write"

        [job] = await here.decided(
            await here.say("/resolve retry", login="somebody-else")
        )

        assert job["state"] == "ignored"
        assert "is write, and admin is needed" in job["result_summary"]
        assert await told(held) is None


async def test_a_decision_without_one_parked_job_is_refused_in_words(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        held = await parked(here)
        second = await here.hub.pull()
        await second.accept()
        await second.beat("needs_attention", **STAY)

        [both] = await here.decided(await here.say("/resolve retry"))
        await held.beat("running")
        await second.beat("running")
        [none] = await here.decided(await here.say("/resolve fail"))

        assert [both["state"], none["state"]] == ["failed", "failed"]
        assert both["result_summary"].startswith("2 jobs of it are parked (")
        assert none["result_summary"] == "No job of it is parked."
        await here.github.until(lambda: len(here.repository.comments) == 2)
        assert here.repository.reactions == ["confused", "confused"]


async def test_a_decision_is_about_the_stay_at_the_time_of_the_comment(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        held = await parked(here)
        here.github.trap(
            "GET collaborators/octocat/permission", Fault(status=502), times=2
        )
        said = await here.say("/resolve retry")
        await held.beat("needs_attention", **{**STAY, "parked": "stay-2"})

        [job] = await here.decided_in_time(said)

        assert job["state"] == "failed"
        assert "parked again" in job["result_summary"]
        assert await told(held, parked="stay-2") is None


async def test_a_comment_of_before_decides_nothing_about_a_job_that_was_parked_since(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        held = await parked(here)

        # As one that was missed while the hub was down, and fetched later.
        [late] = await here.decided(await here.say("/resolve succeed", ago_s=60))
        words = "This was written before its job was parked"
        assert late["result_summary"].startswith(words)
        assert await told(held) is None

        await here.decided(await here.say("/resolve retry"))
        assert (await told(held))["as"] == "retry"


async def test_the_buttons_of_a_parked_jobs_check_decide_about_that_stay_alone(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        held = await parked(here)
        await here.hub.paid()
        shown = buttons(here, held)
        assert [each["label"] for each in shown] == [
            "Retry",
            "Mark failed",
            "Mark succeeded",
        ]
        for each in shown:
            assert len(each["label"]) <= 20
            assert len(each["description"]) <= 40
            assert len(each["identifier"]) <= 20

        [pressed] = await here.decided(
            await here.press(held.id, shown[0]["identifier"])
        )

        assert pressed["state"] == "succeeded"
        assert (await told(held))["as"] == "retry"
        await held.accept()
        await held.beat("running")
        await held.beat("needs_attention", **{**STAY, "parked": "stay-2"})
        old = await here.press(held.id, shown[1]["identifier"])
        unknown = await here.press(held.id, "succeed")
        assert (old.json()["jobs"], unknown.json()["jobs"]) == ([], [])
        assert await told(held, parked="stay-2") is None
        notes = [each["routing"] for each in await deliveries(here.hub.server)]
        assert any("no longer parked as this check shows" in each for each in notes)
        await here.hub.paid()
        # Another check run of the same name, for this stay.
        second = here.github.newest(f"{held.id}#2")
        [again] = await here.decided(
            await here.press(f"{held.id}#2", second["actions"][2]["identifier"])
        )
        assert again["state"] == "succeeded"
        assert (await told(held, parked="stay-2"))["as"] == "succeed"
        assert here.github.violations == []


async def test_a_parked_job_of_an_earlier_machine_keeps_the_button_cancel(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        held = await parked(here, parked=None)
        await here.hub.paid()

        [job] = await here.decided(await here.say("/resolve retry"))

        assert [each["label"] for each in buttons(here, held)] == ["Cancel"]
        assert job["state"] == "failed"
        assert (
            f"type there: dispatchd resolve {held.id} --retry"
            in (job["result_summary"])
        )


async def test_a_decision_that_is_submitted_once_more_is_asked_about_again(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        held = await parked(here)
        await here.hub.paid()
        identifier = buttons(here, held)[0]["identifier"]
        [job] = await here.decided(await here.press(held.id, identifier))
        await held.beat("running")

        reply = await here.hub.server.http.post(f"/api/v1/jobs/{job['id']}/requeue")

        again = reply.json()["id"]

        async def has_ended() -> bool:
            return bool((await row(here.hub.server, again))["ended"])

        await until(has_ended)
        assert (await row(here.hub.server, again))["state"] in ("failed", "succeeded")
        assert len(await jobs(here.hub.server)) == 4
        refuses(await held.accept("another-run"), 409)

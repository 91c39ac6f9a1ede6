"""What GitHub is told of each state and cause, and that it fits."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.domain.model import ENDED, Check, HubJob, State
from dispatchd.hub.github.checks.report import Report, report
from dispatchd.redaction.redactor import Redactor
from support.outcomes import CAUSES, ENDS, expected

NOTHING = Redactor.of(())
SETTINGS = GithubSettings(app_id=1, public_url="https://hub.example/base/")
CHECK = Check(job_id="j", repository="o/r", sha="a" * 40, name="ci")
README = Path(__file__).parents[2] / "contracts" / "README.md"


def told(job: HubJob, settings: GithubSettings = SETTINGS) -> Report:
    return report(job, CHECK, settings, NOTHING)


def ended(state: State, cause: str = "", **more: Any) -> HubJob:
    return HubJob(
        id="j",
        document={},
        state=state,
        result_cause=cause,
        finished_at=9,
        accepted_at=5,
        **more,
    )


# State -> status or conclusion of a check run, state of a commit status.
GOING_ON = {
    State.RECEIVED: ("queued", "pending"),
    State.QUEUED: ("queued", "pending"),
    State.CLAIMED: ("queued", "pending"),
    State.ACCEPTED: ("in_progress", "pending"),
    State.RUNNING: ("in_progress", "pending"),
    State.NEEDS_ATTENTION: ("action_required", "pending"),
}


def test_the_causes_here_are_those_of_the_contract() -> None:
    table = README.read_text().split("### Failure causes")[1].split("### Output")[0]

    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == {
        each for each in CAUSES if each not in ("", "of-tomorrow")
    }


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("cause", CAUSES)
def test_every_state_and_cause_has_its_words_at_github(
    state: State, cause: str
) -> None:
    words = expected(state, cause) if state in ENDS else GOING_ON[state]

    found = told(ended(state, cause))

    body = found.creation()
    shown = body.get("conclusion", body["status"])
    assert (shown, found.status()["state"]) == words
    assert (body["status"] == "completed") == (
        state in ENDED or state is State.NEEDS_ATTENTION
    )
    assert body["actions"] == [] or state not in ENDED
    assert (state in ENDED) == ("completed_at" in body)


@pytest.mark.parametrize("cause", ["lost", "spawn", "workspace", "lease-expired"])
def test_what_is_not_the_commits_fault_says_so_first(cause: str) -> None:
    assert told(ended(State.FAILED, cause)).title.startswith("infrastructure: ")


@pytest.mark.parametrize(
    ("configured", "status"),
    [("neutral", "success"), ("success", "success"), ("failure", "failure")],
)
def test_a_partial_success_is_what_the_owner_calls_it(
    configured: str, status: str
) -> None:
    settings = GithubSettings(app_id=1, partially_succeeded=configured)

    found = told(ended(State.PARTIALLY_SUCCEEDED), settings)

    assert found.creation()["conclusion"] == configured
    assert found.status()["state"] == status
    assert ("doesn't block a merge" in found.summary) == (configured == "neutral")


def test_a_parked_job_says_why_and_how_it_goes_on() -> None:
    job = HubJob(
        id="j 1", document={}, state=State.NEEDS_ATTENTION, reason="Which branch?"
    )

    found = told(job)

    assert found.title == "Needs attention: Which branch?"
    assert "Which branch?" in found.summary
    assert "`dispatchd resolve 'j 1'` with `--retry`" in found.summary
    assert [each["identifier"] for each in found.creation()["actions"]] == ["cancel"]  # type: ignore[union-attr, call-overload, index]  # it is a list


def test_each_round_has_an_id_of_its_own() -> None:
    later = Check(job_id="j", repository="o/r", sha="a", name="ci", round=3)

    assert told(ended(State.FAILED)).external_id == "j"
    assert report(ended(State.FAILED), later, SETTINGS, NOTHING).external_id == "j#3"


def test_the_link_leads_to_the_job_whatever_its_id_is() -> None:
    assert told(HubJob(id="a/b c#?", document={})).details_url == (
        "https://hub.example/base/jobs/a%2Fb%20c%23%3F"
    )
    assert (
        "details_url"
        not in told(HubJob(id="j", document={}), GithubSettings(app_id=1)).creation()
    )


def test_times_are_those_of_the_job() -> None:
    body = told(ended(State.SUCCEEDED)).creation()

    assert body["started_at"] == "1970-01-01T00:00:05Z"
    assert body["completed_at"] == "1970-01-01T00:00:09Z"
    assert "started_at" not in told(HubJob(id="j", document={})).creation()


def details(**found: object) -> str:
    return json.dumps({f"result_{name}": value for name, value in found.items()})


def test_step_summary_outputs_and_log_are_shown() -> None:
    found = told(
        ended(
            State.SUCCEEDED,
            result_summary="All passed.",
            result_output="\x1b[32mok\x1b[0m\n```\nmore\n",
            result_details=details(step_summary="## Tests", outputs={"a|b": "*1*\n2"}),
        )
    )

    assert found.title == "Succeeded: All passed."
    assert found.summary.startswith("## Tests\n\n")
    assert r"| a\|b | \*1\* 2 |" in found.text
    assert "````text\nok\n```\nmore\n````" in found.text


def test_without_a_step_summary_the_summary_is_the_machines() -> None:
    found = told(
        ended(State.FAILED, "exit-code", result_summary="2 failed.\nSee the log.")
    )

    assert found.title == "Failed: 2 failed."
    assert found.summary.startswith("2 failed.\nSee the log.")
    assert "Cause: `exit-code`" in found.summary


def test_annotations_go_out_fifty_at_a_time() -> None:
    many = [
        {
            "path": f"./f{number}",
            "start_line": 5,
            "end_line": 3,
            "level": "warning",
            "message": "m",
        }
        for number in range(120)
    ]
    found = told(ended(State.FAILED, result_details=details(annotations=many)))

    parts = [
        found.creation()["output"]["annotations"],  # type: ignore[index, call-overload]  # an object
        found.further(50)["output"]["annotations"],  # type: ignore[index, call-overload]
        found.further(100)["output"]["annotations"],  # type: ignore[index, call-overload]
    ]

    assert [len(each) for each in parts] == [50, 50, 20]  # type: ignore[arg-type]  # lists
    assert parts[0][0] == {  # type: ignore[index]
        "path": "f0",
        "start_line": 5,
        "end_line": 5,
        "annotation_level": "warning",
        "message": "m",
    }
    assert "annotations" not in found.update(120)["output"]  # type: ignore[operator]


def test_the_smallest_body_has_nothing_that_could_be_refused() -> None:
    found = told(
        ended(State.FAILED, result_output="x", result_details=details(step_summary="y"))
    ).smallest(create=True)

    assert found["conclusion"] == "failure"
    assert found["output"] == {
        "title": "Failed",
        "summary": "Failed. GitHub did not take the job's own summary.",
    }
    assert "actions" not in found

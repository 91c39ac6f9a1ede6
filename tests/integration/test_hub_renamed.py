"""A repository is its id: renamed, transferred, or another one under its old name, on both kinds of database."""

from pathlib import Path
from typing import Any

from dispatchd.agent.domain import cancel
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.hub.domain.model import State, Submission
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import JobReader
from dispatchd.protocol.job import Job
from support.github import INSTALLATION
from support.github_events import comment, pull_request, real
from support.github_scene import Repository, scene
from support.machine import row
from support.records import NOW
from support.threads import at_once

OLD, NEW, TRANSFERRED = "o/old", "o/new", "another/new"
COMMIT = {
    "dag_name": "ci",
    "event_name": "pull_request",
    "repository_name": OLD,
    "repository_id": 5,
    "pull_request_number": 7,
}


def submit(database: Database, job_id: str, document: dict[str, Any]) -> None:
    submission = Submission(
        id=job_id,
        document={"id": job_id, **document},
        payload="null",
        headers="null",
        by_event=True,
    )
    Admission(database).submit(submission, now=1.0, most=1000)


def state(database: Database, job_id: str) -> State:
    found = JobReader(database).get(job_id)
    assert found is not None
    return found.state


def test_a_newer_commit_supersedes_those_of_before_a_rename_or_transfer(
    database: Database,
) -> None:
    for name in (OLD, NEW, TRANSFERRED):
        submit(database, name, {**COMMIT, "repository_name": name, "sha": name})

    states = [state(database, name) for name in (OLD, NEW, TRANSFERRED)]
    assert states == [State.SUPERSEDED, State.SUPERSEDED, State.QUEUED]


def test_a_repository_under_the_old_name_of_another_is_another(
    database: Database,
) -> None:
    submit(database, "old", {**COMMIT, "sha": "a"})
    submit(database, "namesake", {**COMMIT, "repository_id": 55, "sha": "b"})
    submit(database, "cancel", {**CANCEL, "repository_id": 55})

    assert state(database, "old") is State.QUEUED
    assert state(database, "namesake") is State.ABORTED


def test_without_an_id_a_repository_is_its_name(database: Database) -> None:
    submit(database, "old", {**COMMIT, "repository_id": 0, "sha": "a"})
    submit(database, "new", {**COMMIT, "sha": "b"})

    assert state(database, "old") is State.SUPERSEDED


def test_of_two_commits_at_once_under_two_names_the_older_is_superseded(
    database: Database,
) -> None:
    states = []
    for number in range(1, 11):
        pushed = {**COMMIT, "pull_request_number": number}
        at_once(
            [
                lambda name=name, number=number, pushed=pushed: submit(  # type: ignore[misc]
                    database,
                    f"{number} {name}",
                    {**pushed, "repository_name": name, "sha": name},
                )
                for name in (OLD, NEW)
            ]
        )
        found = [state(database, f"{number} {name}") for name in (OLD, NEW)]
        states.append(sorted(found))

    assert states == [[State.QUEUED, State.SUPERSEDED]] * 10


CANCEL = {
    "command": "cancel",
    "dag_name": "ci",
    "repository_name": OLD,
    "repository_id": 5,
    "pull_request_number": 7,
}


def test_a_cancel_job_means_the_jobs_of_before_a_rename(database: Database) -> None:
    submit(database, "old", {**COMMIT, "sha": "a"})

    submit(database, "cancel", {**CANCEL, "repository_name": NEW})

    assert state(database, "old") is State.ABORTED
    assert state(database, "cancel") is State.SUCCEEDED


def test_a_machine_knows_a_repository_by_its_id_too() -> None:
    records = [
        TrackedJob.received(
            Job(
                id=job_id,
                workflow="ci",
                repository=name,
                repository_id=number,
                pull_request=7,
            ),
            now=NOW,
        )
        for job_id, name, number in (
            ("renamed", NEW, 5),
            ("namesake", OLD, 55),
            ("no id", OLD, None),
        )
    ]
    wanted = Job(
        id="c",
        command="cancel",
        workflow="ci",
        repository=OLD,
        repository_id=5,
        pull_request=7,
    )

    found = [each.job.id for each in cancel.targets(wanted, records)]

    assert found == ["renamed", "no id"]


async def test_a_cancel_in_a_comment_counts_after_a_rename_and_not_for_a_namesake(
    tmp_path: Path, database_url: str
) -> None:
    async with scene(tmp_path, Repository(), database_url=database_url) as here:
        event = pull_request()
        jobs = (await here.tell("pull_request", event)).json()["jobs"]

        for of, name, then in (
            (event["repository"]["id"] + 1, event["repository"]["full_name"], "queued"),
            (event["repository"]["id"], "octo/new-name", "aborted"),
        ):
            said = comment("/cancel", installation=INSTALLATION)
            said["repository"] = {
                **event["repository"],
                "id": of,
                "full_name": name,
            }
            await here.decided(await here.tell("issue_comment", said, f"to {then}"))
            states = {(await row(here.hub.server, each))["state"] for each in jobs}
            assert states == {then}


async def test_after_a_rename_the_check_of_an_older_run_is_not_made_last(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        push = real("push/00")
        [job] = (await here.tell("push", push)).json()["jobs"]
        await (await here.hub.pull()).finish("failed", "No.")

        [again] = (
            await here.press(
                job, "", "Codertocat/New-Name", repository_id=push["repository"]["id"]
            )
        ).json()["jobs"]

        # Of what has one key only the newest is made.
        old, new = here.hub.check(job), here.hub.check(again)
        assert (old.repository, old.sha, old.name) == (
            new.repository,
            new.sha,
            new.name,
        )

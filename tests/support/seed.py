"""Jobs put into a hub's database as they are, to have one of each state without bringing it about."""

import json
from pathlib import Path

from attrs import asdict, evolve
from sqlalchemy import insert

from dispatchd.hub.auth.audit import Change
from dispatchd.hub.domain.claim_rules import outcome_of_claim
from dispatchd.hub.domain.model import ENDED, HELD, Attempt, Delivery, HubJob, State
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.rows import values_of
from dispatchd.hub.storage.schema import ATTEMPTS, AUDIT, DELIVERIES, JOBS, TEXTS

T0 = 1_760_000_000.0
"""When the first job was submitted (seconds since the epoch): 2025-10-09 08:53:20 UTC."""

NEVER_HELD = (State.RECEIVED, State.QUEUED, State.IGNORED, State.SUPERSEDED)
SAID = {
    State.SUCCEEDED: ("", "All 214 tests passed."),
    State.PARTIALLY_SUCCEEDED: ("missing-artifact", "Built; coverage.xml is missing."),
    State.FAILED: ("exit-code", "Exit code 1: 3 of 214 tests failed."),
    State.ABORTED: ("cancelled", "Cancelled by octo-kim."),
    State.REJECTED: ("unknown-workflow", "There is no workflow build here."),
    State.SUPERSEDED: ("", "Superseded by the job j-2, which is for a newer commit."),
}
OUTPUT = "\n".join(
    f"test_{number:03} ... \x1b[32mok\x1b[0m" for number in range(120)
) + ("\n3 failed, 211 passed in 41.2 s")


HOSTILE = "<script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>"


def job_in(state: State, at: float = T0) -> HubJob:
    """Return a job in a state; its id is `in-` and the state."""
    held = state not in NEVER_HELD
    accepted = held and state not in (State.CLAIMED, State.REJECTED)
    cause, summary = SAID.get(state, ("", ""))
    return HubJob(
        id=f"in-{state.value}",
        document={
            "id": f"in-{state.value}",
            "dag_name": "build",
            "repository_name": "octo-org/octo-repo",
            "event_name": "pull_request",
            "event_action": "synchronize",
            "actor_login": "octo-kim",
            "pull_request_number": 42,
            "ref": "refs/heads/feature/timeline",
            "sha": "8b1d6f2c0a9e4f53b7a1c2d3e4f5061728394a5b",
        },
        workflow="build",
        repository="octo-org/octo-repo",
        state=state,
        machine="m1" if held else "",
        lease_until=at + 1e9 if state in HELD else 0,
        run_id="run-1" if accepted else "",
        phase={State.NEEDS_ATTENTION: "needs_attention"}.get(
            state, "running" if accepted and state is not State.ACCEPTED else ""
        ),
        parked="stay-1" if state is State.NEEDS_ATTENTION else "",
        reason="Which of the two migrations is wanted?"
        if state is State.NEEDS_ATTENTION
        else "",
        progress=json.dumps({"completed": 3, "in_progress": 1, "total": 10})
        if state in (State.RUNNING, State.NEEDS_ATTENTION)
        else "",
        result_cause=cause,
        result_summary=summary,
        result_output=OUTPUT if state is State.FAILED else "",
        created_at=at,
        claimed_at=at + 2.5 if held else 0,
        accepted_at=at + 3 if accepted else 0,
        finished_at=at + 190 if state in ENDED else 0,
        deliveries=1 if held else 0,
    )


def hostile_job() -> HubJob:
    """Return a failed job each of whose texts wants to act on the page or the terminal."""
    failed = job_in(State.FAILED)
    return evolve(
        failed,
        id=HOSTILE,
        document=dict.fromkeys(failed.document, HOSTILE),
        workflow=HOSTILE,
        repository=HOSTILE,
        result_summary=HOSTILE + "\x1b]0;x\x07 \u202egpj.exe",
        result_cause=HOSTILE,
        result_output=HOSTILE,
    )


def seed(folder: Path, *jobs: HubJob, attempts: tuple[Attempt, ...] = ()) -> None:
    """Put jobs into the database of a hub, each with the claim that it tells of."""
    database = Database.open(f"sqlite:///{folder / 'hub.db'}")
    with database.transaction() as db:
        for job in jobs:
            db.execute(insert(JOBS).values(values_of(job)))
            db.execute(insert(TEXTS).values(id=job.id, payload="null", headers="null"))
            if job.deliveries:
                own = Attempt(
                    job_id=job.id,
                    number=job.deliveries,
                    machine=job.machine,
                    claimed_at=job.claimed_at,
                    ended_at=job.finished_at,
                    outcome=outcome_of_claim(job),
                    cause=job.result_cause,
                )
                db.execute(insert(ATTEMPTS).values(asdict(own)))
        for attempt in attempts:
            db.execute(insert(ATTEMPTS).values(asdict(attempt)))
    database.close()


def one_of_each(folder: Path) -> None:
    """Put a job of each state into the database of a hub."""
    seed(
        folder, *(job_in(state, T0 + 60 * n) for n, state in enumerate(State, start=1))
    )


def many_entries(folder: Path, count: int = 120) -> None:
    """Put changes and deliveries into the database of a hub, each two of one time."""
    database = Database.open(f"sqlite:///{folder / 'hub.db'}")
    with database.transaction() as db:
        for number in range(count):
            at = T0 + number // 2
            change = Change(
                who="octo-kim",
                method="POST",
                path=f"/jobs/j{number}/cancel",
                status=303,
                address="10.0.0.1",
            )
            entry = {"id": f"a{number:03}", "at": at, **asdict(change)}
            db.execute(insert(AUDIT).values(entry))
            delivery = Delivery(
                target="integration/1",
                id=f"d{number}",
                event="pull_request",
                received_at=at,
                routing="workflow ci",
                state="done",
                job_ids=("gone",),
            )
            values = {**asdict(delivery), "job_ids": json.dumps(delivery.job_ids)}
            db.execute(insert(DELIVERIES).values(values))
    database.close()

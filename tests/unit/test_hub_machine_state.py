"""How a machine stands at the hub: away once nothing has been heard of it for long enough."""

from typing import Any

import pytest
from attrs import evolve

from dispatchd.hub.api.views import (
    AWAY_S,
    attempt_document,
    job_document,
    machine_document,
    machine_state,
    silent_s,
)
from dispatchd.hub.domain.model import Attempt, HubJob, Machine

NOW = 1_000_000.0


def machine(**fields: Any) -> Machine:
    known = Machine(
        name="build-1",
        secret_hash="hash",
        added_at=NOW - 50_000,
        activated_at=NOW - 40_000,
    )
    return evolve(known, **fields)


@pytest.mark.parametrize(
    ("ago_s", "state"),
    [(0, "active"), (300, "active"), (AWAY_S + 1, "away"), (30 * 60, "away")],
)
def test_a_machine_that_pulls_no_more_is_away(ago_s: float, state: str) -> None:
    assert machine_state(machine(seen_at=NOW - ago_s), now=NOW) == state


def test_a_machine_that_beats_for_a_job_is_there_though_it_does_not_pull() -> None:
    long_ago = machine(seen_at=NOW - 5000)

    document = machine_document(long_ago, now=NOW, heard_at=NOW - 5)

    assert document["state"] == "active"
    assert document["seen_at"] == NOW - 5
    assert document["last_pull_at"] == NOW - 5000


def test_a_machine_that_was_let_in_just_now_has_time_to_pull() -> None:
    fresh = machine(activated_at=NOW - 10)

    assert machine_state(fresh, now=NOW) == "active"
    assert machine_state(fresh, now=NOW + AWAY_S) == "away"
    assert silent_s(fresh, now=NOW) == 10


def test_a_clock_that_was_set_back_makes_no_machine_away() -> None:
    assert machine_state(machine(seen_at=NOW + 5000), now=NOW) == "active"
    assert silent_s(machine(seen_at=NOW + 5000), now=NOW) == 0


def test_whoever_is_revoked_or_only_invited_is_not_missed() -> None:
    assert machine_state(machine(revoked_at=NOW - 9000), now=NOW) == "revoked"
    assert machine_state(Machine(name="new"), now=NOW) == "invited"


def test_a_jobs_machine_is_called_by_its_name() -> None:
    names = {"01a2200e": "build-1"}
    job = HubJob(id="j", document={"machine_name": "forged"}, machine="01a2200e")
    attempt = Attempt(job_id="j", number=1, machine="01a2200e", claimed_at=1)

    assert job_document(job, now=NOW, names=names)["machine_name"] == "build-1"
    assert attempt_document(attempt, names)["machine_name"] == "build-1"
    assert job_document(job, now=NOW)["machine_name"] == ""

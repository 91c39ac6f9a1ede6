"""The table of the hub's errors and statuses."""

import ast
from pathlib import Path

import pytest
import structlog

import dispatchd.hub
from dispatchd.hub.api.errors import STATUSES, answer_to
from dispatchd.hub.domain.errors import (
    HubError,
    JobTooLarge,
    Locked,
    QueueFull,
    StorageBusy,
)

HUB = Path(dispatchd.hub.__file__).parent


def test_every_error_has_a_status_but_the_one_that_only_a_pull_meets() -> None:
    assert {*HubError.__subclasses__()} - {*STATUSES} == {Locked}


def test_no_rule_and_no_store_names_a_status() -> None:
    named = {
        str(path.relative_to(HUB))
        for folder in ("domain", "queue", "storage", "workers")
        for path in (HUB / folder).rglob("*.py")
        if "HTTPStatus" in path.read_text()
    }

    assert named == set()


def test_only_the_table_of_states_moves_a_job() -> None:
    moved = {
        (str(path.relative_to(HUB)), ast.unparse(call.args[0]))
        for path in HUB.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "evolve"
        and any(each.arg == "state" for each in call.keywords)
    }

    # A delivery and a check have states of their own.
    assert moved == {
        ("domain/transitions.py", "job"),
        ("queue/submit.py", "delivery"),
        ("queue/webhooks.py", "delivery"),
        ("github/ingest/inbox.py", "delivery"),
        ("storage/jobs/rows.py", "check"),
    }


@pytest.mark.parametrize(
    ("error", "retry_s"),
    [(QueueFull("full"), 10), (StorageBusy("locked"), 1), (JobTooLarge(32 << 20), 0)],
)
def test_only_what_passes_says_when_to_come_again(
    error: HubError, retry_s: int
) -> None:
    assert answer_to(error).retry_s == retry_s


def test_what_a_database_says_stays_in_the_log() -> None:
    with structlog.testing.capture_logs() as lines:
        answer = answer_to(StorageBusy("/var/lib/hub.db is locked"))

    assert "/var" not in answer.message
    assert lines == [
        {
            "event": "database_busy",
            "error": "/var/lib/hub.db is locked",
            "log_level": "warning",
        }
    ]

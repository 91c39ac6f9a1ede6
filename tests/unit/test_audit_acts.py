"""The audit list says in words what each changing call of the hub was."""

import json
import re
from pathlib import Path

import pytest

from dispatchd.hub.auth.audit import Change
from dispatchd.hub.web.acts import act

HUB = json.loads(
    (Path(__file__).parents[2] / "contracts" / "hub.openapi.json").read_text("utf-8")
)
CALLS = [
    path
    for path, calls in HUB["paths"].items()
    if "post" in calls and path.startswith("/api/v1/")
]


def words(path: str) -> str:
    change = Change(who="x", method="POST", path=path, status=200, address="")
    return act(change)


@pytest.mark.parametrize("path", CALLS)
def test_each_call_has_its_words(path: str) -> None:
    said = words(re.sub(r"\{\w+\}", "it-1", path))

    assert not said.startswith("POST ")
    assert ("it-1" in said) == ("{" in path)


def test_ids_with_slashes_and_braces_are_shown_as_they_are() -> None:
    assert words("/jobs/a/cancel/b{0}/cancel") == "Cancel job a/cancel/b{0}"
    assert words("/jobs/cancel") == "POST /jobs/cancel"


def test_a_job_in_the_query_is_named_too() -> None:
    assert words("/jobs/cancel?id=a+%2F%3Fb%7B0%7D") == "Cancel job a /?b{0}"
    assert words("/jobs/requeue?id=..") == "Run job .. again"

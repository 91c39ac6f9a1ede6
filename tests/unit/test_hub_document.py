"""Document of a job at the hub."""

import ast
import json
from pathlib import Path

import pytest

import dispatchd.hub
from dispatchd.hub.domain.document import JobDocument, as_document
from dispatchd.hub.domain.supersede import is_same_repository
from dispatchd.protocol.job import Json

HUB = Path(dispatchd.hub.__file__).parent
WIRE: dict[str, Json] = {
    "zeal": [1, {"a": None}],
    "dag_name": "ci",
    "pull_request_number": 7,
    "sha": None,
}


def test_a_document_is_stored_as_it_came() -> None:
    document = JobDocument(WIRE)

    assert json.loads(document.text) == WIRE
    assert [*json.loads(document.text)] == [*WIRE]
    assert document == WIRE
    assert as_document(document) is document


def test_a_field_that_is_left_out_is_an_empty_one() -> None:
    document = JobDocument(WIRE)

    assert (document.workflow, document.number) == ("ci", 7)
    assert (document.sha, document.actor, document.repository_id) == ("", "", 0)
    assert not document.is_cancel


def test_a_change_leaves_the_other_fields_and_the_document_before() -> None:
    before = JobDocument(WIRE)

    after = before.changed(sha="c0ffee", repository="o/r")

    assert after == {**WIRE, "sha": "c0ffee", "repository_name": "o/r"}
    assert before == WIRE


@pytest.mark.parametrize(
    ("value", "number"), [(5, 5), (5.0, 5), (5.5, 0), ("5", 0), (None, 0)]
)
def test_json_has_one_kind_of_numbers(value: Json, number: int) -> None:
    assert JobDocument({"pull_request_number": value}).number == number


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"repository_id": 1}, {"repository_id": 1.0}, True),
        ({"repository_id": 1, "repository_name": "a/b"}, {"repository_id": 2}, False),
        (
            {"repository_id": 1, "repository_name": "a/b"},
            {"repository_name": "a/b"},
            True,
        ),
        ({"repository_id": 0, "repository_name": None}, {}, True),
        (
            {"repository_id": 1, "repository_name": "a/b", "binding_id": "rule"},
            {"repository_name": "a/b", "binding_id": "gitea"},
            False,
        ),
        (
            {"repository_name": "a/b"},
            {"repository_name": "a/b", "binding_id": "gitea"},
            True,
        ),
    ],
)
def test_a_repository_is_its_id_and_else_its_name(
    one: dict[str, Json], other: dict[str, Json], *, is_same: bool
) -> None:
    assert is_same_repository(JobDocument(one), JobDocument(other)) is is_same


def test_only_the_document_and_the_api_know_the_names_on_the_wire() -> None:
    names = {"dag_name", "dag_run_id", "event_name", "event_action", "actor_login"}
    names |= {"repository_name", "binding_id", "pull_request_number", "issue_number"}
    knowing = {
        str(path.relative_to(HUB))
        for path in HUB.rglob("*.py")
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.Constant) and each.value in names
    }

    assert {
        path for path in knowing if not path.startswith(("api/", "storage/migrations/"))
    } == {"domain/document.py"}

import pytest

from dispatchd.agent.domain.run.environment import (
    LONGEST_TEXT,
    LONGEST_VALUE,
    RunPaths,
    derive,
    environment,
)
from dispatchd.protocol.job import Job

JOB = Job(id="j", workflow="w")


def run(payload: str = "null", headers: str = "null") -> RunPaths:
    return RunPaths(
        run_id="j",
        attempt=1,
        workspace="/w",
        event_file="/e",
        headers_file="/h",
        events_file="/v",
        outputs_file="/o",
        summary_file="/s",
        payload_text=payload,
        headers_text=headers,
    )


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("x" * (LONGEST_VALUE + 1), "longer than"),
        ("a\nGITHUB_SHA=evil", "control character"),
        ("a\0b", "control character"),
        ("a\tb", "control character"),
        ("a\x7fb", "control character"),
        ("a\x85b", "control character"),
        ("a\u2028b", "control character"),
        ("é" * (LONGEST_VALUE // 2 + 1), "longer than"),
        ("\ud800", "not Unicode"),
    ],
)
def test_an_unfit_value_is_left_out_and_named(ref: str, reason: str) -> None:
    found = derive(Job(id="j", ref=ref), None)

    assert "GITHUB_REF" not in found.values
    assert any(
        each.name == "GITHUB_REF" and reason in each.reason for each in found.left_out
    )


def test_a_value_of_the_longest_size_is_kept() -> None:
    assert (
        derive(Job(id="j", sha="x" * LONGEST_VALUE), None).values["GITHUB_SHA"]
        == "x" * LONGEST_VALUE
    )


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("1" * LONGEST_TEXT, "longer than"),
        ("é" * (LONGEST_TEXT // 2), "longer than"),
        ('"\0"', "control character"),
        ('"\udfff"', "not Unicode"),
    ],
)
def test_a_payload_that_is_no_string_is_a_file_alone(payload: str, reason: str) -> None:
    found = environment(JOB, None, run(payload=payload))

    assert "WEBHOOK_PAYLOAD" not in found.values
    assert found.values["WEBHOOK_PAYLOAD_FILE"] == "/e"
    (left_out,) = found.left_out
    assert left_out.name == "WEBHOOK_PAYLOAD"
    assert reason in left_out.reason


@pytest.mark.parametrize("payload", ["1" * (LONGEST_TEXT - 1), '{\n\t"a": 1\n}'])
def test_a_short_payload_is_a_string_as_well(payload: str) -> None:
    found = environment(JOB, None, run(payload=payload, headers="{}"))

    assert found.values["WEBHOOK_PAYLOAD"] == payload
    assert found.values["WEBHOOK_HEADERS"] == "{}"
    assert found.left_out == ()


def test_a_run_is_told_who_it_is_and_nothing_empty() -> None:
    assert environment(JOB, None, run()).values == {
        "CI": "true",
        "DISPATCHD": "true",
        "DISPATCHD_ATTEMPT": "1",
        "DISPATCHD_EVENTS": "/v",
        "DISPATCHD_JOB_ID": "j",
        "DISPATCHD_OUTPUT": "/o",
        "DISPATCHD_RUN_ID": "j",
        "DISPATCHD_SUMMARY": "/s",
        "DISPATCHD_WORKFLOW": "w",
        "DISPATCHD_WORKSPACE": "/w",
        "GITHUB_API_URL": "https://api.github.com",
        "GITHUB_GRAPHQL_URL": "https://api.github.com/graphql",
        "GITHUB_EVENT_PATH": "/e",
        "GITHUB_OUTPUT": "/o",
        "GITHUB_RUN_ATTEMPT": "1",
        "GITHUB_RUN_ID": "j",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_STEP_SUMMARY": "/s",
        "GITHUB_WORKSPACE": "/w",
        "WEBHOOK_HEADERS_FILE": "/h",
        "WEBHOOK_PAYLOAD_FILE": "/e",
    }


def test_only_a_run_of_a_forks_code_is_told_so() -> None:
    forked = Job(id="j", workflow="w", from_fork=True)

    found = environment(forked, None, run()).values.items()

    assert found - environment(JOB, None, run()).values.items() == {
        ("DISPATCHD_FROM_FORK", "true")
    }

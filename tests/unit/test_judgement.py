from datetime import UTC, datetime
from typing import Any

import pytest

from dispatchd.agent.domain.exit_table import TABLE, Contract, Ending, Then
from dispatchd.agent.domain.isolation import Isolation, denial
from dispatchd.agent.domain.run.events import Progress, RunPhase, Span, Story
from dispatchd.agent.domain.verdict import Evidence, Judgement, judge, never_started
from dispatchd.protocol.outcome import Exit, FailureCause, Outcome
from dispatchd.protocol.result import NoResult, ResultStatus, RunResult

NO_RESULT = NoResult("it wrote none")


def said(status: ResultStatus) -> RunResult:
    return RunResult(
        contract_version="1", status=status, summary="I did it.", exit_reason="done"
    )


def judged(
    code: int | None, stop: FailureCause | None = None, **facts: Any
) -> Judgement:
    evidence = Evidence(
        end=Exit(
            code=code,
            leftovers=facts.pop("leftovers", 0),
            escalated=facts.pop("escalated", False),
        ),
        story=facts.pop("story", Story()),
        duration_s=2.5,
        **facts,
    )
    return judge(evidence, stop)


@pytest.mark.parametrize(
    ("code", "outcome", "cause", "words"),
    [
        (0, Outcome.SUCCEEDED, None, "Succeeded after 2.5 s."),
        (1, Outcome.FAILED, FailureCause.EXIT_CODE, "exit code 1 after 2.5 s."),
        (2, Outcome.FAILED, FailureCause.EXIT_CODE, "exit code 2"),
        (3, Outcome.FAILED, FailureCause.EXIT_CODE, "exit code 3"),
        (126, Outcome.FAILED, FailureCause.EXIT_CODE, "can't be executed"),
        (127, Outcome.FAILED, FailureCause.EXIT_CODE, "command not found"),
        (137, Outcome.FAILED, FailureCause.SIGNAL, "SIGKILL"),
        (143, Outcome.FAILED, FailureCause.SIGNAL, "SIGTERM"),
        (255, Outcome.FAILED, FailureCause.EXIT_CODE, "exit code 255"),
        (None, Outcome.FAILED, FailureCause.LOST, "no exit code"),
    ],
)
def test_the_exit_code_decides_a_plain_command(
    code: int | None, outcome: Outcome, cause: FailureCause | None, words: str
) -> None:
    found = judged(code)

    assert (found.ruling.outcome, found.ruling.cause) == (outcome, cause)
    assert words in found.summary


@pytest.mark.parametrize(
    ("code", "result", "ending"),
    [
        (0, said(ResultStatus.SUCCESS), Ending.SUCCESS),
        (0, said(ResultStatus.PARTIAL), Ending.PARTIAL),
        (0, said(ResultStatus.FAILURE), Ending.FAILURE),
        (0, said(ResultStatus.NEEDS_INPUT), Ending.NEEDS_INPUT),
        (0, NO_RESULT, Ending.NO_RESULT),
        # A result says more about another exit code, and changes nothing of it.
        (1, said(ResultStatus.SUCCESS), Ending.EXIT_1),
        (1, NO_RESULT, Ending.EXIT_1),
        (2, said(ResultStatus.SUCCESS), Ending.EXIT_2),
        (3, said(ResultStatus.SUCCESS), Ending.EXIT_3),
        (3, NO_RESULT, Ending.EXIT_3),
        (4, said(ResultStatus.SUCCESS), Ending.OTHER_EXIT),
        (137, said(ResultStatus.SUCCESS), Ending.SIGNAL),
        (None, said(ResultStatus.SUCCESS), Ending.LOST),
    ],
)
def test_the_exit_code_and_the_result_decide_a_headless_command(
    code: int | None, result: RunResult | NoResult, ending: Ending
) -> None:
    found = judged(code, contract=Contract.HEADLESS, result=result)

    assert found.ending is ending
    assert found.ruling == TABLE[Contract.HEADLESS][ending]


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize("code", [None, 0, 1, 3, 143])
@pytest.mark.parametrize(
    ("stop", "ending"),
    [
        (FailureCause.CANCELLED, Ending.CANCELLED),
        (FailureCause.MAX_DURATION, Ending.MAX_DURATION),
        (FailureCause.INACTIVITY_TIMEOUT, Ending.INACTIVITY),
        (FailureCause.NEEDS_INPUT, Ending.BLOCKED),
    ],
)
def test_why_the_daemon_ended_a_run_outranks_how_it_ended(
    contract: Contract, code: int | None, stop: FailureCause, ending: Ending
) -> None:
    result = NO_RESULT if contract is Contract.HEADLESS else None

    assert judged(code, stop, contract=contract, result=result).ending is ending


@pytest.mark.parametrize("code", [None, 0, 1, 143])
def test_a_run_that_asked_for_a_person_is_parked_however_it_ended(
    code: int | None,
) -> None:
    story = Story(blocked="Which of the two?")

    found = judged(code, story=story)
    late = judged(code, FailureCause.MAX_DURATION, story=story)
    cancelled = judged(code, FailureCause.CANCELLED, story=story)

    assert found.ruling.then is late.ruling.then is Then.PARK
    assert "Which of the two?" in found.summary
    assert cancelled.ruling.outcome is Outcome.ABORTED


@pytest.mark.parametrize(
    ("fails", "ending"), [(True, Ending.MISSING_FAIL), (False, Ending.MISSING_PARK)]
)
def test_a_success_that_lacks_an_artifact_is_none(
    fails: bool,  # noqa: FBT001  # a column of the table
    ending: Ending,
) -> None:
    found = judged(0, missing=("report.xml", "dist"), missing_fails=fails)
    failed_anyway = judged(1, missing=("report.xml",), missing_fails=fails)

    assert found.ending is ending
    assert "report.xml, dist" in found.summary
    assert failed_anyway.ending is Ending.EXIT_1


def test_what_hung_is_told_with_where_and_for_how_long() -> None:
    at = [datetime(2026, 11, 20, 12, minute, tzinfo=UTC) for minute in (0, 1, 3)]
    story = Story(
        phases=[
            RunPhase(name=name, at=begun)
            for name, begun in zip(("fetch", "build", "test"), at, strict=True)
        ],
        progress=Progress(completed=1, in_progress=1, total=3),
        spans=[Span(name="compile", started_at=at[1], ended_at=at[2], ok=False)],
    )

    found = judged(143, FailureCause.INACTIVITY_TIMEOUT, story=story)

    assert "No output for too long" in found.summary
    assert "in phase test" in found.summary
    assert "compile (failed)" in found.summary
    assert "fetch 1 min, build 2 min" in found.summary


def test_force_leftovers_noise_and_what_is_left_to_do_are_told() -> None:
    found = judged(
        0,
        escalated=True,
        leftovers=3,
        story=Story(malformed=2, follow_ups=["Bump the lock file."]),
    )

    assert "SIGKILL" in found.summary
    assert "3 of its processes" in found.summary
    assert "2 lines of its events" in found.summary
    assert "Bump the lock file." in found.summary


def test_events_that_were_too_many_are_told() -> None:
    found = judged(0, story=Story(left_out=22_269_621, bytes_left_out=5))

    assert (
        "Of its events 22,269,621 lines and all behind the first 64 MiB were left out"
        in found.summary
    )


@pytest.mark.parametrize(
    ("isolation", "output", "words"),
    [
        ("sandbox", "touch: cannot touch '/x': Permission denied", "permission denied"),
        ("sandbox", "Error: EACCES: permission denied, open '/x'", "permission denied"),
        ("sandbox", "mount: Operation not permitted\nx", "operation not permitted"),
        ("sandbox", "java.nio.file.AccessDeniedException: /x", "accessdenied"),
        ("sandbox", 'sudo: The "no new privileges" flag is set', "no new privileges"),
        ("bubblewrap", "cannot touch '/x': Read-only file system", "read-only"),
        ("container", "cannot touch '/x': Read-only file system", "read-only"),
        ("sandbox", "assert 1 == 2", ""),
        ("sandbox", "", ""),
        ("none", "Permission denied", ""),
    ],
)
def test_what_a_wall_may_have_denied_is_told(
    isolation: str, output: str, words: str
) -> None:
    found = denial(Isolation(isolation), output)

    assert words in found
    assert bool(found) == bool(words)
    for code in (1, 2, 3, 126, 255):
        assert ("read_paths" in judged(code, denial=found).summary) == bool(words)


@pytest.mark.parametrize(
    ("code", "stop"),
    [(0, None), (137, None), (None, None), (1, FailureCause.CANCELLED)],
)
def test_a_wall_is_not_why_a_run_did_well_or_was_ended(
    code: int | None, stop: FailureCause | None
) -> None:
    assert "read_paths" not in judged(code, stop, denial="permission denied").summary


def test_the_words_of_a_result_are_the_summary() -> None:
    done = judged(
        0, contract=Contract.HEADLESS, result=said(ResultStatus.SUCCESS)
    ).summary
    failed = judged(
        1, contract=Contract.HEADLESS, result=said(ResultStatus.FAILURE)
    ).summary

    assert done == "I did it."
    assert failed.startswith("I did it. (exit code 1")
    assert "done" in failed


def test_an_unfound_result_says_why() -> None:
    found = judged(0, contract=Contract.HEADLESS, result=NO_RESULT)

    assert "it wrote none" in found.summary
    assert found.ruling.then is Then.RETRY


def test_nothing_run_is_told_as_such() -> None:
    found = never_started(Contract.PLAIN, Ending.WORKSPACE, "cannot check out x: y")

    assert found.summary == "Nothing was run: cannot check out x: y."
    assert found.ruling.cause is FailureCause.WORKSPACE


def test_only_a_parked_job_has_no_outcome_yet() -> None:
    for contract in Contract:
        for ruling in TABLE[contract].values():
            assert (ruling.outcome is None) == (ruling.then is Then.PARK)


def test_the_contracts_differ_in_what_an_exit_code_means_and_in_nothing_else() -> None:
    both = TABLE[Contract.PLAIN].keys() & TABLE[Contract.HEADLESS].keys()
    different = {
        ending
        for ending in both
        if TABLE[Contract.PLAIN][ending] != TABLE[Contract.HEADLESS][ending]
    }

    assert different == {Ending.EXIT_2, Ending.EXIT_3}
    assert TABLE[Contract.PLAIN].keys() ^ TABLE[Contract.HEADLESS].keys() == {
        Ending.EXIT_0,
        Ending.SUCCESS,
        Ending.PARTIAL,
        Ending.FAILURE,
        Ending.NEEDS_INPUT,
        Ending.NO_RESULT,
    }

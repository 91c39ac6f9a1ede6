import pytest

from dispatchd.domain.outcome import Exit, FailureCause, Outcome, judge


@pytest.mark.parametrize(
    ("code", "outcome", "cause", "words"),
    [
        (0, Outcome.SUCCEEDED, None, "Succeeded after 2.5 s."),
        (1, Outcome.FAILED, FailureCause.EXIT_CODE, "exit code 1 after 2.5 s."),
        (126, Outcome.FAILED, FailureCause.EXIT_CODE, "can't be executed"),
        (127, Outcome.FAILED, FailureCause.EXIT_CODE, "command not found"),
        (137, Outcome.FAILED, FailureCause.SIGNAL, "SIGKILL"),
        (143, Outcome.FAILED, FailureCause.SIGNAL, "SIGTERM"),
        (255, Outcome.FAILED, FailureCause.EXIT_CODE, "exit code 255"),
        (None, Outcome.FAILED, FailureCause.LOST, "no exit code"),
    ],
)
def test_the_exit_code_decides(
    code: int | None, outcome: Outcome, cause: FailureCause | None, words: str
) -> None:
    verdict = judge(Exit(code=code), stop=None, duration_s=2.5)

    assert (verdict.outcome, verdict.cause) == (outcome, cause)
    assert words in verdict.summary


@pytest.mark.parametrize("code", [None, 0, 1, 143])
def test_why_the_daemon_ended_a_run_outranks_how_it_ended(code: int | None) -> None:
    aborted = judge(Exit(code=code), stop=FailureCause.CANCELLED, duration_s=1)
    late = judge(Exit(code=code), stop=FailureCause.MAX_DURATION, duration_s=1)

    assert (aborted.outcome, aborted.cause) == (Outcome.ABORTED, FailureCause.CANCELLED)
    assert (late.outcome, late.cause) == (Outcome.FAILED, FailureCause.MAX_DURATION)


def test_force_and_leftovers_are_told() -> None:
    verdict = judge(Exit(code=0, escalated=True, leftovers=3), stop=None, duration_s=1)

    assert "SIGKILL" in verdict.summary
    assert "3 of its processes" in verdict.summary

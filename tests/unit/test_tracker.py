import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from attrs import evolve
from typing_extensions import override

from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.store.jobs import JobStore, read_all
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.tracker import Decision, Tracker
from dispatchd.errors import InvalidTransition, NotPossible
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict
from support.obstacle import Obstacle
from support.records import NOW
from support.standing_clock import StandingClock

DONE = Verdict(outcome=Outcome.SUCCEEDED, summary="Done.")
ATTEMPT = Attempt(number=1, started_at=NOW, deadline_at=NOW)


class AtOnce(random.Random):
    """Jitter that always draws nothing, so that a refused write is tried again at once."""

    @override
    def random(self) -> float:
        return 0.0


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore.open(tmp_path)[0]


@pytest.fixture
def tracker(store: JobStore) -> Tracker:
    return Tracker(store, StandingClock(), Disk(AtOnce()))


def job(claim: str = "claim-1") -> Job:
    return Job(id="job-1", workflow="it", claim_token=claim)


def put(store: JobStore, phase: Phase, *, verdict: Verdict | None = None) -> TrackedJob:
    """Track the job in a phase, with an attempt where it runs."""
    record = evolve(
        TrackedJob.received(job(), now=NOW),
        phase=phase,
        attempts=(ATTEMPT,) if phase is Phase.RUNNING else (),
        verdict=verdict,
    )
    store.put(record)
    return record


def never() -> None:
    pytest.fail("a job that is known already has its texts")


@asynccontextmanager
async def refusing_disk(tracker: Tracker, file: Path) -> AsyncIterator[None]:
    """Refuse a file, until the body has begun and the tracker has met it."""
    obstacle = Obstacle(file)
    obstacle.put_up()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def make_room() -> None:
                while not tracker.disk.error:
                    await anyio.lowlevel.checkpoint()
                obstacle.take_away()

            tasks.start_soon(make_room)
            yield


# What the disk refuses


async def test_an_accept_under_a_lease_waits_for_the_next_put_of_its_job(
    tmp_path: Path, store: JobStore, tracker: Tracker
) -> None:
    leased = evolve(job(), lease_s=60.0)
    await tracker.receive(leased, store_texts=lambda: None)
    await tracker.apply("job-1", Event.ACCEPT_CONFIRMED)
    starting = await tracker.apply(
        "job-1",
        Event.ATTEMPT_STARTING,
        change=lambda before: before.with_attempt(ATTEMPT),
    )
    assert tracker.get("job-1") == starting
    assert starting.phase is Phase.RUNNING
    # A daemon that starts now asks for the claim, and begins the attempt.
    assert on_disk(tmp_path) == [Phase.PENDING_ACCEPT]

    started = await tracker.apply("job-1", Event.ATTEMPT_STARTED)

    store.close()
    again, _ = JobStore.open(tmp_path)
    assert again.get("job-1") == started
    again.close()


async def test_an_accept_without_a_lease_is_durable_because_it_stands(
    tmp_path: Path, tracker: Tracker
) -> None:
    await tracker.receive(job(), store_texts=lambda: None)
    await tracker.apply("job-1", Event.ACCEPT_CONFIRMED)

    assert on_disk(tmp_path) == [Phase.ACCEPTED]


def on_disk(folder: Path) -> list[Phase]:
    return [record.phase for record in read_all(folder)]


async def test_a_change_waits_until_the_disk_takes_it(
    tmp_path: Path, store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.PENDING_ACCEPT)
    bell = tracker.changed.next

    async with refusing_disk(tracker, tmp_path / "jobs" / "job-1.json"):
        record = await tracker.apply("job-1", Event.ACCEPT_CONFIRMED)

    assert record.phase is Phase.ACCEPTED
    assert tracker.disk.error == ""
    assert bell.is_set()
    store.close()
    assert JobStore.open(tmp_path)[0].get("job-1") == record


async def test_nobody_hears_of_a_change_that_is_not_on_disk(
    tmp_path: Path, store: JobStore, tracker: Tracker
) -> None:
    before = put(store, Phase.PENDING_ACCEPT)
    bell = tracker.changed.next
    Obstacle(tmp_path / "jobs" / "job-1.json").put_up()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tracker.apply, "job-1", Event.ACCEPT_CONFIRMED)
            while not tracker.disk.error:
                await anyio.lowlevel.checkpoint()
            assert tracker.get("job-1") == before
            assert not bell.is_set()
            assert "job-1.json" in tracker.disk.error
            tasks.cancel_scope.cancel()

    assert tracker.disk.error == ""
    assert tracker.get("job-1") == before


async def test_a_move_to_history_waits_until_the_disk_takes_it(
    tmp_path: Path, store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.FINISHING, verdict=DONE)

    async with refusing_disk(tracker, tmp_path / "history" / "job-1.json"):
        record = await tracker.apply("job-1", Event.FINISH_ACKNOWLEDGED)

    assert tracker.get("job-1") is None
    assert store.past("job-1") == record
    assert list((tmp_path / "jobs").iterdir()) == []


async def test_a_job_is_received_with_its_texts_once_there_is_room(
    tmp_path: Path, tracker: Tracker
) -> None:
    texts: list[str] = []

    async with refusing_disk(tracker, tmp_path / "jobs" / "job-1.json"):
        await tracker.receive(job(), store_texts=lambda: texts.append("written"))

    assert tracker.get("job-1") is not None
    # Before each try of the record, so that no record is ever without them.
    assert len(texts) > 1


async def test_any_other_failure_of_a_write_is_not_waited_out(tracker: Tracker) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await tracker.disk.until_stored(broken)


# A job that is handed out


async def test_a_new_job_owes_its_accept_and_its_texts_come_first(
    tmp_path: Path, tracker: Tracker
) -> None:
    recorded: list[bool] = []

    def store_texts() -> None:
        recorded.append((tmp_path / "jobs" / "job-1.json").exists())

    record = await tracker.receive(job(), store_texts=store_texts)

    assert (record.phase, record.run_id) == (Phase.PENDING_ACCEPT, "job-1")
    assert recorded == [False]
    assert tracker.repeats == set()


async def test_a_job_that_cannot_run_here_owes_its_finish_at_once(
    tracker: Tracker,
) -> None:
    no = Verdict(outcome=Outcome.REJECTED, summary="No.")

    record = await tracker.receive(job(), store_texts=lambda: None, rejection=no)

    assert (record.phase, record.verdict) == (Phase.FINISHING, no)


@pytest.mark.parametrize(
    "phase", [phase for phase in Phase if phase is not Phase.HISTORY]
)
async def test_a_known_job_keeps_its_phase_and_gets_the_new_claim(
    phase: Phase, store: JobStore, tracker: Tracker
) -> None:
    before = put(store, phase)

    record = await tracker.receive(job("claim-2"), store_texts=never)

    # The new claim of one that waits for its start is not accepted yet, whatever becomes of this daemon.
    waits = phase in (Phase.ACCEPTED, Phase.RELEASING, Phase.RETRY_WAIT)
    stays = Phase.PENDING_ACCEPT if waits else phase
    assert (record.phase, record.attempts) == (stays, before.attempts)
    assert record.job.claim_token == "claim-2"
    assert tracker.get("job-1") == record
    assert tracker.repeats == {"job-1"}


async def test_a_rejection_does_not_touch_a_job_that_is_running(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.RUNNING)

    record = await tracker.receive(job(), store_texts=never, rejection=DONE)

    assert (record.phase, record.verdict) == (Phase.RUNNING, None)


async def test_a_finished_job_that_comes_again_owes_its_finish_anew_under_the_new_claim(
    store: JobStore, tracker: Tracker
) -> None:
    before = put(store, Phase.HISTORY, verdict=DONE)

    record = await tracker.receive(job("claim-2"), store_texts=never)

    assert (record.phase, record.verdict) == (Phase.FINISHING, DONE)
    assert record.job.claim_token == "claim-2"
    # Later than the record in history, which a power cut may bring back.
    assert record.changed_at > before.changed_at
    assert tracker.in_phase(*Phase) == [record]
    assert store.past("job-1") is None


async def test_a_job_that_was_given_back_is_new_again(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.HISTORY)
    texts: list[str] = []

    record = await tracker.receive(
        job("claim-2"), store_texts=lambda: texts.append("written")
    )

    assert (record.phase, record.steps) == (Phase.PENDING_ACCEPT, ())
    assert texts == ["written"]
    assert tracker.repeats == set()
    assert store.past("job-1") is None


async def test_an_unreadable_past_counts_as_none(
    tmp_path: Path, tracker: Tracker
) -> None:
    (tmp_path / "history" / "job-1.json").write_bytes(b"{")

    record = await tracker.receive(job(), store_texts=lambda: None)

    assert record.phase is Phase.PENDING_ACCEPT


# What happens to it


async def test_nothing_changes_what_is_in_history(
    store: JobStore, tracker: Tracker
) -> None:
    before = put(store, Phase.HISTORY, verdict=DONE)

    record = await tracker.apply("job-1", Event.CANCEL_REQUESTED)

    assert (record.phase, record.verdict) == (Phase.HISTORY, DONE)
    assert store.past("job-1") == before
    assert tracker.in_phase(*Phase) == []


async def test_an_unknown_job_is_an_error_of_the_caller(tracker: Tracker) -> None:
    with pytest.raises(KeyError, match="job-1"):
        await tracker.apply("job-1", Event.ACCEPT_CONFIRMED)


async def test_an_event_without_a_row_changes_nothing(
    store: JobStore, tracker: Tracker
) -> None:
    before = put(store, Phase.PENDING_ACCEPT)

    with pytest.raises(InvalidTransition):
        await tracker.apply("job-1", Event.ATTEMPT_STARTED)

    assert tracker.get("job-1") == before


async def test_an_answer_to_an_older_claim_decides_nothing(
    store: JobStore, tracker: Tracker
) -> None:
    asked = put(store, Phase.PENDING_ACCEPT)
    await tracker.receive(job("claim-2"), store_texts=never)

    await tracker.answered(asked, Event.ACCEPT_REFUSED)

    record = tracker.get("job-1")
    assert record is not None
    assert record.phase is Phase.PENDING_ACCEPT
    assert tracker.repeats == {"job-1"}


async def test_an_answer_pays_for_the_repeat(store: JobStore, tracker: Tracker) -> None:
    put(store, Phase.RUNNING)
    asked = await tracker.receive(job("claim-2"), store_texts=never)

    await tracker.answered(asked, Event.ACCEPT_CONFIRMED)

    assert tracker.repeats == set()


async def test_changes_of_one_job_come_one_after_the_other(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.PENDING_ACCEPT)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(tracker.apply, "job-1", Event.REDELIVERED)

    record = tracker.get("job-1")
    assert record is not None
    assert [step.event for step in record.steps] == [Event.REDELIVERED] * 8


# Cancel


@pytest.mark.parametrize(
    "phase",
    [
        Phase.PENDING_ACCEPT,
        Phase.ACCEPTED,
        Phase.RETRY_WAIT,
        Phase.NEEDS_ATTENTION,
    ],
)
async def test_a_cancel_ends_what_does_not_run_at_once(
    phase: Phase, store: JobStore, tracker: Tracker
) -> None:
    put(store, phase)

    record = await tracker.cancel("job-1", "No longer wanted.")

    assert record.phase is Phase.FINISHING
    assert record.verdict == Verdict(
        outcome=Outcome.ABORTED,
        cause=FailureCause.CANCELLED,
        summary="No longer wanted.",
    )


async def test_a_cancel_orders_the_end_of_what_runs_durably_and_then_says_so(
    tmp_path: Path, store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.RUNNING)
    stop_requested = tracker.stop_event("job-1")
    assert not stop_requested.is_set()

    record = await tracker.cancel("job-1", "No longer wanted.")

    assert (record.phase, record.verdict) == (Phase.RUNNING, None)
    assert stop_requested.is_set()
    store.close()
    on_disk = JobStore.open(tmp_path)[0].get("job-1")
    assert on_disk is not None
    assert on_disk.attempt == evolve(ATTEMPT, stop=FailureCause.CANCELLED, stop_at=NOW)


async def test_the_order_to_end_a_run_is_known_to_a_daemon_that_comes_later(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.RUNNING)
    await tracker.cancel("job-1", "No longer wanted.")

    assert Tracker(store, StandingClock(), Disk(AtOnce())).stop_event("job-1").is_set()


async def test_the_first_reason_to_end_a_run_stands(store: JobStore) -> None:
    record = put(store, Phase.RUNNING)

    after = record.ending(FailureCause.INACTIVITY_TIMEOUT, NOW).ending(
        FailureCause.MAX_DURATION, NOW
    )

    assert after.attempt is not None
    assert after.attempt.stop is FailureCause.INACTIVITY_TIMEOUT


@pytest.mark.parametrize("cause", [FailureCause.MAX_DURATION, FailureCause.NEEDS_INPUT])
async def test_a_cancel_outweighs_every_other_reason_to_end_a_run(
    cause: FailureCause, store: JobStore, tracker: Tracker
) -> None:
    """Else the attempt would be tried again, or its job parked, after the cancel was answered."""
    record = put(store, Phase.RUNNING)
    long_ago = NOW - timedelta(seconds=5)
    store.put(record.with_attempt(evolve(ATTEMPT, stop=cause, stop_at=long_ago)))

    after = await tracker.cancel("job-1", "No longer wanted.")

    assert after.attempt is not None
    assert after.attempt.stop is FailureCause.CANCELLED
    assert after.attempt.stop_at == long_ago


@pytest.mark.parametrize("phase", [Phase.FINISHING, Phase.HISTORY])
async def test_a_cancel_comes_too_late_for_what_is_decided(
    phase: Phase, store: JobStore, tracker: Tracker
) -> None:
    put(store, phase, verdict=DONE)

    record = await tracker.cancel("job-1", "No longer wanted.")

    assert (record.phase, record.verdict) == (phase, DONE)


# Handing back


@pytest.mark.parametrize("phase", [Phase.PENDING_ACCEPT, Phase.ACCEPTED])
@pytest.mark.parametrize("answer", [Event.RELEASED, Event.RELEASE_REFUSED])
async def test_an_unstarted_job_is_handed_back_and_may_come_again(
    phase: Phase, answer: Event, tmp_path: Path, store: JobStore, tracker: Tracker
) -> None:
    put(store, phase)

    await tracker.give_back("job-1")

    asked = tracker.get("job-1")
    assert asked is not None
    assert asked.phase is Phase.RELEASING
    # Durable before anybody is told.
    assert b'"releasing"' in (tmp_path / "jobs" / "job-1.json").read_bytes()
    await tracker.answered(asked, answer)
    past = store.past("job-1")
    assert past is not None
    assert past.was_given_back


async def test_a_started_job_is_not_handed_back(
    store: JobStore, tracker: Tracker
) -> None:
    before = put(store, Phase.RUNNING)

    await tracker.give_back("job-1")

    assert tracker.get("job-1") == before


@pytest.mark.parametrize(
    "event",
    [Event.ACCEPT_CONFIRMED, Event.ATTEMPT_STARTING, Event.DECIDED, Event.PARKED],
)
async def test_what_is_handed_back_starts_by_nothing_that_comes_late(
    event: Event, store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.ACCEPTED)
    await tracker.give_back("job-1")

    assert (await tracker.apply("job-1", event)).phase is Phase.RELEASING


async def test_a_job_that_is_handed_out_anew_while_it_is_handed_back_is_accepted_again(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.ACCEPTED)
    await tracker.give_back("job-1")
    asked = tracker.get("job-1")
    assert asked is not None

    again = await tracker.receive(job("claim-2"), store_texts=never)
    await tracker.answered(asked, Event.RELEASED)

    assert again.phase is Phase.PENDING_ACCEPT
    assert tracker.get("job-1") == again


async def test_a_cancel_of_what_is_handed_back_is_reported(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.ACCEPTED)
    await tracker.give_back("job-1")

    record = await tracker.cancel("job-1", "No longer wanted.")

    assert record.phase is Phase.FINISHING


@pytest.mark.parametrize(
    "phase", [Phase.PENDING_ACCEPT, Phase.ACCEPTED, Phase.RETRY_WAIT]
)
async def test_what_does_not_run_is_parked_at_once(
    store: JobStore, tracker: Tracker, phase: Phase
) -> None:
    put(store, phase)

    record = await tracker.park("job-1", "Wait for the release.")

    assert (record.phase, record.blocked) == (
        Phase.NEEDS_ATTENTION,
        "Wait for the release.",
    )


async def test_what_runs_is_ended_before_it_is_parked(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.RUNNING)
    stop_requested = tracker.stop_event("job-1")

    record = await tracker.park("job-1", "Wait for the release.")

    assert (record.phase, record.blocked) == (Phase.RUNNING, "Wait for the release.")
    assert record.attempt is not None
    assert record.attempt.stop is FailureCause.NEEDS_INPUT
    assert stop_requested.is_set()


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (Phase.FINISHING, "it is finishing"),
        (Phase.NEEDS_ATTENTION, "it is needs_attention"),
        (Phase.HISTORY, "it has ended, or was never here"),
    ],
)
async def test_what_has_ended_or_is_parked_is_not_parked(
    store: JobStore, tracker: Tracker, phase: Phase, words: str
) -> None:
    put(store, phase, verdict=DONE)

    with pytest.raises(NotPossible, match=words):
        await tracker.park("job-1", "Too late.")


async def test_what_is_being_ended_is_not_parked(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.RUNNING)
    await tracker.cancel("job-1", "No longer wanted.")

    with pytest.raises(NotPossible, match="being ended"):
        await tracker.park("job-1", "Too late.")


async def test_a_person_ends_a_parked_job(store: JobStore, tracker: Tracker) -> None:
    put(store, Phase.ACCEPTED)
    await tracker.park("job-1", "Which of the two?")

    record = await tracker.resolve("job-1", DONE)

    assert (record.phase, record.verdict, record.blocked) == (
        Phase.FINISHING,
        DONE,
        "",
    )


async def test_another_attempt_of_a_parked_job_passes_the_fence_again(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.ACCEPTED)
    await tracker.park("job-1", "Which of the two?")

    record = await tracker.resolve("job-1", None)

    assert (record.phase, record.blocked) == (Phase.PENDING_ACCEPT, "")


@pytest.mark.parametrize(
    "phase", [each for each in Phase if each is not Phase.NEEDS_ATTENTION]
)
async def test_only_a_parked_job_is_resolved(
    store: JobStore, tracker: Tracker, phase: Phase
) -> None:
    put(store, phase, verdict=DONE)

    with pytest.raises(NotPossible):
        await tracker.resolve("job-1", DONE)


async def test_a_decision_is_made_from_the_newest_record(
    store: JobStore, tracker: Tracker
) -> None:
    put(store, Phase.RUNNING)
    await tracker.cancel("job-1", "No longer wanted.")

    def decision(newest: TrackedJob) -> Decision:
        assert newest.stop_requested
        return Decision(Event.DECIDED, newest, DONE)

    record = await tracker.decide("job-1", decision)

    assert record.phase is Phase.FINISHING


@pytest.mark.parametrize("phase", [Phase.FINISHING, Phase.NEEDS_ATTENTION])
async def test_nothing_is_decided_about_what_does_not_run(
    store: JobStore, tracker: Tracker, phase: Phase
) -> None:
    before = put(store, phase, verdict=DONE)

    after = await tracker.decide("job-1", lambda _: pytest.fail("was asked"))

    assert after == before


async def test_a_job_that_has_been_run_is_not_handed_back_although_it_waits(
    store: JobStore, tracker: Tracker
) -> None:
    store.put(evolve(put(store, Phase.PENDING_ACCEPT), attempts=(ATTEMPT,)))

    await tracker.give_back("job-1")

    record = tracker.get("job-1")
    assert record is not None
    assert record.phase is Phase.PENDING_ACCEPT

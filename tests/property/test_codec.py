import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.agent.domain.executions.identities import (
    BatchJob,
    DagRun,
    EngineRun,
    ProcessIdentity,
)
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.job import STEPS_KEPT, Attempt, Step, Terms, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.store.codec import SCHEMA_VERSION, decode, encode
from dispatchd.errors import RecordTooNew, RecordUnreadable
from dispatchd.protocol.contracts import check
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict
from support.records import NOW

PATH = Path("record.json")

# With lone surrogates: JSON can bring them in.
texts = st.text(st.characters(), max_size=9)
numbers = st.none() | st.integers(0, 2**63 - 1)
times = st.datetimes(
    datetime(2000, 1, 1),  # noqa: DTZ001  # hypothesis adds the zone
    datetime(2100, 1, 1),  # noqa: DTZ001  # likewise
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
verdicts = st.builds(
    Verdict,
    outcome=st.sampled_from(Outcome),
    cause=st.none() | st.sampled_from(FailureCause),
    summary=texts,
)
jobs = st.builds(
    Job,
    id=st.text(st.characters(), min_size=1, max_size=40),
    workflow=texts,
    actor=texts,
    pull_request=numbers,
    comment_id=numbers,
    lease_s=st.none() | st.floats(0, 1e6),
    claim_token=texts,
    extensions=st.lists(texts, max_size=3).map(tuple),
    from_fork=st.booleans(),
)
processes = st.builds(
    ProcessIdentity,
    pid=st.integers(1, 2**22),
    start_ticks=st.integers(0, 2**63 - 1),
    boot_id=st.uuids().map(str),
)
batch_jobs = st.builds(
    BatchJob,
    engine=texts,
    cluster=texts,
    name=st.text(st.characters(), min_size=1, max_size=40),
    job_id=st.integers(1, 2**31),
    submitted_at=times,
    limit_s=st.floats(0, 1e9),
)
dag_runs = st.builds(
    DagRun,
    engine=texts,
    url=texts,
    dag=st.text(st.characters(), min_size=1, max_size=40),
    name=st.text(st.characters(), min_size=1, max_size=40),
    limit_s=st.floats(0, 1e9),
)
engine_runs = st.builds(
    EngineRun,
    engine=texts,
    kind=st.text(st.characters(), min_size=1, max_size=40),
    name=st.text(st.characters(), min_size=1, max_size=40),
    limit_s=st.floats(0, 1e9),
)
terms = st.builds(
    Terms,
    retries=st.integers(0, 9),
    required_artifacts=st.lists(texts, max_size=3).map(tuple),
    missing_fails=st.booleans(),
    report_output=st.booleans(),
    has_secrets=st.booleans(),
    isolation=st.sampled_from(Isolation),
)
attempts = st.builds(
    Attempt,
    number=st.integers(1, 9),
    started_at=times,
    deadline_at=times,
    terms=st.none() | terms,
    process=st.none() | processes,
    batch_job=st.none() | batch_jobs,
    dag_run=st.none() | dag_runs,
    engine_run=st.none() | engine_runs,
    stop=st.none() | st.sampled_from(FailureCause),
    ended_at=st.none() | times,
    cause=st.none() | st.sampled_from(FailureCause),
    summary=texts,
)
steps = st.builds(
    Step, at=times, event=st.sampled_from(Event), phase=st.sampled_from(Phase)
)


@st.composite
def records(draw: st.DrawFn) -> TrackedJob:
    """Draw a record that has what its phase needs."""
    phase, job = draw(st.sampled_from(Phase)), draw(jobs)
    optional_verdict = verdicts if phase is Phase.FINISHING else st.none() | verdicts
    return TrackedJob(
        job=job,
        run_id=job.id,
        phase=phase,
        received_at=draw(times),
        changed_at=draw(times),
        attempts=tuple(
            draw(st.lists(attempts, min_size=phase is Phase.RUNNING, max_size=3))
        ),
        retry_at=draw(times) if phase is Phase.RETRY_WAIT else None,
        verdict=draw(optional_verdict)
        if phase in (Phase.FINISHING, Phase.HISTORY)
        else None,
        steps=tuple(draw(st.lists(steps, max_size=STEPS_KEPT))),
    )


FULL = TrackedJob(
    job=Job(
        id="job-1",
        workflow="it",
        pull_request=7,
        lease_s=60.0,
        extensions=("x",),
        from_fork=True,
    ),
    run_id="job-1",
    phase=Phase.HISTORY,
    received_at=NOW,
    changed_at=NOW,
    attempts=(
        Attempt(
            number=1,
            started_at=NOW,
            deadline_at=NOW,
            terms=Terms(
                retries=2,
                required_artifacts=("dist",),
                missing_fails=True,
                report_output=True,
                has_secrets=False,
                isolation=Isolation.SANDBOX,
            ),
            process=ProcessIdentity(pid=7, start_ticks=8, boot_id="b"),
            stop=FailureCause.CANCELLED,
            ended_at=NOW,
            cause=FailureCause.CANCELLED,
            summary="Cancelled.",
        ),
        Attempt(
            number=2,
            started_at=NOW,
            deadline_at=NOW,
            batch_job=BatchJob(
                engine="hpc",
                cluster="c",
                name="dd-1-2",
                job_id=7,
                submitted_at=NOW,
                limit_s=60.0,
            ),
        ),
        Attempt(
            number=3,
            started_at=NOW,
            deadline_at=NOW,
            dag_run=DagRun(engine="d", url="u", dag="x", name="dd-1-3", limit_s=60.0),
        ),
        Attempt(
            number=4,
            started_at=NOW,
            deadline_at=NOW,
            engine_run=EngineRun(engine="t", kind="toy", name="dd-1-4", limit_s=60.0),
        ),
    ),
    verdict=Verdict(
        outcome=Outcome.ABORTED, cause=FailureCause.CANCELLED, summary="Cancelled."
    ),
    steps=(Step(at=NOW, event=Event.REDELIVERED, phase=Phase.HISTORY),),
)
Place = tuple[str | int, ...]


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Yield the way to every value inside a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in inner:
        yield (*above, key)
        yield from places(each, (*above, key))


DOCUMENT: dict[str, Any] = json.loads(encode(FULL))
PLACES = sorted(places(DOCUMENT), key=str)


def damaged(place: Place, damage: Callable[[Any, str | int], None]) -> bytes:
    """Return the full document with something done to one place of it."""
    document = copy.deepcopy(DOCUMENT)
    parent: Any = document
    for key in place[:-1]:
        parent = parent[key]
    damage(parent, place[-1])
    return json.dumps(document).encode()


def refused_or_read(data: bytes) -> None:
    """Hold that data are a record, or are refused as one: no other error comes out."""
    try:
        record = decode(data, path=PATH)
    except (RecordUnreadable, RecordTooNew):
        return
    assert decode(encode(record), path=PATH) == record


@given(records())
@example(FULL)
def test_a_record_comes_back_as_it_was(record: TrackedJob) -> None:
    assert decode(encode(record), path=PATH) == record


@given(records())
@example(FULL)
def test_a_written_record_keeps_its_contract(record: TrackedJob) -> None:
    check("tracked-job", json.loads(encode(record)))


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["schema_version", "job", "phase"]), inner
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(
        (RecordUnreadable, RecordTooNew), match=r"cannot read record\.json"
    ):
        decode(data, path=PATH)


@given(records(), st.data())
def test_half_a_record_is_refused(record: TrackedJob, data: st.DataObject) -> None:
    whole = encode(record)

    with pytest.raises(RecordUnreadable):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))], path=PATH)


@given(st.integers(0, len(encode(FULL)) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read(at: int, byte: int) -> None:
    whole = bytearray(encode(FULL))
    whole[at] = byte

    refused_or_read(bytes(whole))


@given(
    st.sampled_from(PLACES),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from([[], {}, [[]], {"id": "x"}]),
)
@example(("job", "lease_s"), 10**400)
def test_a_changed_value_is_refused_or_read(place: Place, value: Any) -> None:
    refused_or_read(damaged(place, lambda parent, key: parent.__setitem__(key, value)))


@given(st.sampled_from(PLACES))
def test_a_missing_value_is_refused_or_read(place: Place) -> None:
    refused_or_read(damaged(place, lambda parent, key: parent.pop(key)))


@given(
    st.sampled_from([place for place in PLACES if isinstance(place[-1], str)]),
    st.text(min_size=1).filter(lambda name: name.isupper()),
)
def test_an_unknown_name_is_refused(place: Place, name: str) -> None:
    data = damaged(place, lambda parent, _: parent.__setitem__(name, 1))

    with pytest.raises(RecordUnreadable):
        decode(data, path=PATH)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("run_id",), 5),
        (("job", "id"), ["job-1"]),
        (("job", "actor"), None),
        (("job", "pull_request"), "7"),
        (("job", "pull_request"), 7.5),
        (("job", "from_fork"), 1),
        (("job", "from_fork"), "true"),
        (("attempts", 0, "number"), True),
        (("attempts", 0, "process", "pid"), "7"),
        (("attempts", 0, "terms", "retries"), 2.0),
        (("attempts", 0, "terms", "report_output"), "false"),
        (("phase",), 1),
        (("received_at",), "2026-11-20T12:00:00"),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_and_never_converted(
    place: Place, value: Any
) -> None:
    data = damaged(place, lambda parent, key: parent.__setitem__(key, value))

    with pytest.raises(RecordUnreadable):
        decode(data, path=PATH)


@given(st.integers(SCHEMA_VERSION + 1))
def test_a_newer_release_wrote_a_record_that_is_left_alone(version: int) -> None:
    data = json.dumps({"schema_version": version, "anything": []}).encode()

    with pytest.raises(RecordTooNew):
        decode(data, path=PATH)

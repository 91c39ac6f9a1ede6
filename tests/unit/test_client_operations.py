"""The client's decisions, step by step: what is repeated, after which wait, and what a caller is told."""

import json
import pickle
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import pytest

from dispatchd import client
from dispatchd.client import artifacts, errors, jobs, logs
from dispatchd.client.answers import document, failure
from dispatchd.client.errors import (
    AnswerLost,
    BytesDiffer,
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    InvalidCall,
    NotAHub,
    NotFound,
    Unauthorized,
    Unavailable,
    Unreachable,
    WaitTimeout,
)
from dispatchd.client.records import Artifact, Job, JobState
from dispatchd.client.retries import Retries
from dispatchd.client.steps import (
    NOTHING,
    Answer,
    Call,
    Ended,
    Pause,
    begun,
    in_query,
    resumed,
)
from dispatchd.protocol.published.schemas import schema

T = TypeVar("T")

RETRIES = Retries(most=3, draw=lambda: 0.5)
URL = "https://hub.example"
LOST = AnswerLost("submit", "no hub answers")
AWAY = Unreachable("submit", "no hub answers")


def answer(status: int, body: object = None, **headers: str) -> Answer:
    content = b"" if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(url=URL, status=status, headers=named, content=content)


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    return answer(status, {"message": message}, **headers)


def job(**fields: object) -> dict[str, Any]:
    texts = ("machine", "machine_name", "link", "run_id", "phase", "reason", "parked")
    results = ("result_status", "result_summary", "result_cause")
    counts = ("deliveries", "expiries", "accepts", "finishes", "priority")
    times = ("created_at", "claimed_at", "accepted_at", "finished_at")
    return {
        **dict.fromkeys((*texts, *results), ""),
        **dict.fromkeys((*counts, *times), 0),
        "progress": None,
        "decision": None,
        "cancel_requested": False,
        "lease_expired": False,
        "id": "j",
        "state": "queued",
        "ended": False,
        **fields,
    }


ENDED = job(state="succeeded", ended=True, result_status="succeeded")


class Play:
    """An operation that is carried out by outcomes from a list; notes its calls and pauses."""

    def __init__(self, *outcomes: Answer | ClientError) -> None:
        self.outcomes = [*outcomes]
        self.calls: list[Call] = []
        self.pauses: list[float] = []
        self.values: list[Any] = []
        self.time = 0.0

    def run(self, operation: Generator[Any, Answer, T]) -> T:
        step = begun(operation)
        while not isinstance(step, Ended):
            outcome: Answer | ClientError = NOTHING
            if isinstance(step, Call):
                self.calls.append(step)
                self.time += step.held_s
                outcome = self.outcomes.pop(0)
            elif isinstance(step, Pause):
                self.pauses.append(step.seconds)
                self.time += step.seconds
            else:
                self.values.append(step.value)
            step = resumed(operation, outcome)
        assert not self.outcomes
        return step.value

    def submit(self, *, key: str = "", **request: Any) -> str:
        fields = {"dag_name": "ci", **({"id": jobs.id_of_key(key)} if key else {})}
        return self.run(
            jobs.submit(RETRIES, {**fields, **request}, name="submit", is_key=bool(key))
        )

    @property
    def ids(self) -> set[str]:
        """The ids under which jobs were submitted."""
        bodies = [call.body for call in self.calls if call.method == "POST"]
        return {body["id"] for body in bodies if isinstance(body, dict)}


def test_the_states_are_those_of_the_contract() -> None:
    assert [*JobState] == schema("hub-job")["properties"]["state"]["enum"]


def test_a_submit_whose_answer_is_lost_is_repeated_under_one_id() -> None:
    play = Play(LOST, AWAY, refusal(409))

    job_id = play.submit()

    assert play.ids == {job_id}
    assert play.pauses == [0.25, 0.5]


def test_a_submit_that_is_never_answered_names_its_id_even_without_retries() -> None:
    play = Play(*[LOST] * 4)

    with pytest.raises(AnswerLost, match="may be queued all the same, as ") as caught:
        play.run(
            jobs.submit(
                Retries(most=0, draw=lambda: 0.5), {}, name="submit", is_key=False
            )
        )

    assert caught.value.reason.endswith(next(iter(play.ids)))


def test_without_retries_a_hub_that_is_not_there_is_told_at_once() -> None:
    play = Play(AWAY)

    with pytest.raises(Unreachable):
        play.run(
            jobs.submit(
                Retries(most=0, draw=lambda: 0.5), {}, name="submit", is_key=False
            )
        )

    assert play.pauses == []


def test_a_taken_id_is_refused_where_no_call_was_lost() -> None:
    with pytest.raises(Conflict, match="cannot submit: there is already a job j"):
        Play(refusal(409, "there is already a job j")).submit(id="j")


def test_two_submits_with_one_key_are_one_job() -> None:
    same = job(id=jobs.id_of_key("k"), dag_name="ci")
    first, again = Play(answer(201, {"id": "x"})), Play(refusal(409), answer(200, same))

    first.submit(key="k")
    again.submit(key="k")

    assert first.ids == again.ids
    assert jobs.id_of_key("k") != jobs.id_of_key("l")


def test_a_key_that_was_used_for_another_job_is_refused() -> None:
    other = job(id=jobs.id_of_key("k"), dag_name="deploy", ref="")

    with pytest.raises(Conflict, match=r"another one; it differs in dag_name$"):
        Play(refusal(409), answer(200, other)).submit(key="k", ref="")


def test_a_key_counts_for_a_token_that_may_not_look() -> None:
    play = Play(refusal(409), refusal(403))

    assert play.submit(key="k") == jobs.id_of_key("k")


def test_an_id_that_is_reserved_is_refused_also_after_a_lost_answer() -> None:
    with pytest.raises(Conflict, match="for the schedule"):
        Play(LOST, refusal(409, "is for the schedule x"), refusal(404)).submit(id="s")


@pytest.mark.parametrize(
    ("headers", "waits"),
    [
        ({}, [0.25]),
        ({"retry_after": "7"}, [7.5]),
        ({"retry_after": "0"}, [0.25]),
        ({"retry_after": "soon"}, [0.25]),
        (
            {
                "retry_after": "Sun, 06 Nov 1994 08:49:47 GMT",
                "date": "Sun, 06 Nov 1994 08:49:37 GMT",
            },
            [10.5],
        ),
    ],
)
def test_a_busy_hub_is_asked_again_when_it_says(
    headers: dict[str, str], waits: list[float]
) -> None:
    play = Play(refusal(503, **headers), answer(200, job()))

    assert play.run(jobs.get(RETRIES, "j")).state is JobState.QUEUED
    assert play.pauses == waits


def test_a_wait_that_is_too_long_is_the_caller_s_to_decide() -> None:
    play = Play(refusal(503, "in an hour", retry_after="3600"))

    with pytest.raises(Unavailable) as caught:
        play.run(jobs.get(RETRIES, "j"))

    assert (caught.value.retry_after_s, play.pauses) == (3600, [])


def test_retries_end() -> None:
    play = Play(AWAY, LOST, AWAY, LOST)

    with pytest.raises(AnswerLost):
        play.run(jobs.get(RETRIES, "j"))

    assert play.pauses == [0.25, 0.5, 1.0]


def test_a_decision_is_repeated_only_where_that_changes_nothing() -> None:
    parked = Job.of(job(state="needs_attention", parked="stay-1"))
    unnamed = Play(AWAY, LOST)
    named = Play(LOST, answer(200, job()))

    with pytest.raises(AnswerLost):
        unnamed.run(jobs.resolve(RETRIES, "j", "retry", ""))
    named.run(jobs.resolve(RETRIES, parked, "retry", "note"))

    assert [call.body for call in named.calls] == [
        {"as": "retry", "note": "note", "parked": "stay-1"}
    ] * 2


def test_a_cancel_whose_answer_is_lost_has_cancelled() -> None:
    aborted = job(state="aborted", ended=True)

    found = Play(LOST, refusal(410), answer(200, aborted)).run(
        jobs.cancel(RETRIES, "j")
    )
    with pytest.raises(Gone):
        Play(refusal(410)).run(jobs.cancel(RETRIES, "j"))

    assert found.state is JobState.ABORTED


def test_a_requeue_that_is_repeated_has_one_new_id() -> None:
    play = Play(LOST, answer(201, {"id": "new"}))

    assert play.run(jobs.requeue(RETRIES, "a/b")) == "new"
    assert len({call.path for call in play.calls}) == 1
    assert play.calls[0].path.startswith("/api/v1/jobs/a%2Fb/requeue?new_id=")


def waited(play: Play, timeout_s: float | None) -> Job:
    return play.run(jobs.wait(RETRIES, "j", timeout_s, lambda: play.time))


def test_a_wait_outlives_a_hub_that_is_away() -> None:
    page = NotAHub("wait", "a login page?", 200)
    play = Play(answer(200, job()), AWAY, LOST, page, answer(200, ENDED))

    assert waited(play, None).succeeded
    assert {call.held_s for call in play.calls} == {25.0}


def test_a_wait_ends_in_its_time() -> None:
    play = Play(*[answer(200, job(state="running"))] * 4)
    away = Play(*[AWAY] * 6)

    with pytest.raises(TimeoutError, match="not ended within 60 s; it is running"):
        waited(play, 60)
    with pytest.raises(WaitTimeout, match="within 3 s; no hub answers"):
        waited(away, 3)

    assert [call.held_s for call in play.calls] == [25, 25, 9, 0]
    assert play.pauses == [0.5, 0.5]
    assert play.time == 60
    assert away.time <= 3


def test_a_wait_for_nothing_is_refused_at_once() -> None:
    with pytest.raises(NotFound):
        waited(Play(refusal(404)), 10)


def test_a_hub_that_stays_away_ends_a_wait_without_end() -> None:
    away = Play(*[AWAY] * 61)

    with pytest.raises(Unreachable):
        waited(away, None)

    assert 30 < sum(away.pauses) < 120


def test_a_watch_tells_each_change_once() -> None:
    play = Play(
        answer(200, job(), job_version="1"),
        answer(200, job(), job_version="1"),
        AWAY,
        answer(200, job(state="running"), job_version="2"),
        answer(200, ENDED, job_version="3"),
    )

    play.run(jobs.watch(RETRIES, "j"))

    assert [each.state for each in play.values] == ["queued", "running", "succeeded"]
    assert [call.path.partition("?")[2] for call in play.calls] == [
        "",
        *["wait=25&seen=1"] * 3,
        "wait=25&seen=2",
    ]
    # After the answer with nothing new, and for a hub that is away.
    assert play.pauses == [0.5, 0.25]


def test_a_watch_of_a_hub_that_tells_no_changes_looks_again() -> None:
    play = Play(answer(200, job()), answer(200, job()), answer(200, ENDED))

    play.run(jobs.watch(RETRIES, "j"))

    assert play.pauses == [2.0, 2.0]
    assert len(play.values) == 2


def page(*ids: str) -> Answer:
    return answer(200, {"jobs": [job(id=each) for each in ids]})


def test_pages_are_read_newest_first_until_one_is_not_full() -> None:
    full = [f"{number}" for number in range(100)]
    play = Play(page(*full), page("a", "b"))

    play.run(jobs.listed(RETRIES, {"state": "failed"}, None))

    assert [each.id for each in play.values] == [*reversed(full), "b", "a"]
    assert [call.path.partition("?")[2] for call in play.calls] == [
        "state=failed&limit=100",
        "state=failed&before=0&limit=100",
    ]


def test_a_limit_is_kept() -> None:
    play = Play(page("a", "b"))

    play.run(jobs.listed(RETRIES, {}, 2))

    assert [call.path for call in play.calls] == ["/api/v1/jobs?limit=2"]
    assert len(play.values) == 2


def test_a_hub_without_pages_is_named_and_not_asked_for_ever() -> None:
    full = page(*map(str, range(100)))

    with pytest.raises(NotAHub, match="too old to list more than 100"):
        Play(full, full).run(jobs.listed(RETRIES, {}, None))


def log(data: bytes, size: int, **headers: str) -> Answer:
    named = {"log-size": str(size), "log-parts": headers.pop("parts", "1")}
    complete = {"log-complete": headers.pop("complete", "0")}
    return Answer(url=URL, status=200, headers={**named, **complete}, content=data)


def test_a_log_is_read_attempt_by_attempt() -> None:
    play = Play(
        log(b"one", 6, parts="2"), log(b"two", 6, parts="2"), log(b"3", 1, parts="2")
    )

    play.run(logs.pieces(RETRIES, "j", attempt=None, follow=False))

    assert [(each.attempt, each.data) for each in play.values] == [
        (1, b"one"),
        (1, b"two"),
        (2, b"3"),
    ]


def test_a_followed_log_outlives_a_hub_that_is_away() -> None:
    play = Play(log(b"one", 3), LOST, log(b"", 3), log(b"two", 6, complete="1"))

    play.run(logs.pieces(RETRIES, "j", attempt=None, follow=True))

    assert b"".join(each.data for each in play.values) == b"onetwo"


def test_a_followed_log_with_nothing_new_is_not_asked_for_at_once() -> None:
    nothing = [log(b"", 0)] * 5
    play = Play(*nothing, log(b"one", 3, complete="1"))

    play.run(logs.pieces(RETRIES, "j", attempt=None, follow=True))

    assert play.pauses == [0.5] * 5


TEXT = Artifact.of(
    {
        "path": "a/b.txt",
        "size": 4,
        "state": "stored",
        "reason": "",
        "attempt": 1,
        "sha256": "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1",
        "from_fork": False,
    }
)


def piece(data: bytes) -> Answer:
    headers = {"artifact-size": "4"}
    return Answer(url=URL, status=200, headers=headers, content=data)


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ((b"tex", b"x"), BytesDiffer),
        ((b"tex", b""), NotAHub),
        ((b"tex", b"t and more"), NotAHub),
    ],
)
def test_wrong_bytes_are_never_whole(
    sent: tuple[bytes, ...], kind: type[ClientError]
) -> None:
    play = Play(*map(piece, sent))

    with pytest.raises(kind):
        play.run(artifacts.pieces(RETRIES, "j", TEXT))

    assert b"".join(play.values) == b"tex"


def test_an_artifact_comes_in_pieces() -> None:
    play = Play(piece(b"tex"), LOST, piece(b"t"))

    play.run(artifacts.pieces(RETRIES, "j", TEXT))

    assert b"".join(play.values) == b"text"


CALL = Call(name="look", path="/", has="id")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((400, InvalidCall), (405, InvalidCall), (413, InvalidCall)),
        *((422, InvalidCall), (418, InvalidCall), (302, InvalidCall)),
        *((401, Unauthorized), (403, Forbidden), (404, NotFound), (409, Conflict)),
        *((410, Gone), (429, Unavailable), (503, Unavailable)),
        *((500, AnswerLost), (502, AnswerLost), (504, AnswerLost)),
    ],
)
def test_a_refusal_has_the_code_and_the_words_of_the_hub(
    status: int, kind: type[ClientError]
) -> None:
    error = failure(CALL, refusal(status, "because"))

    assert type(error) is kind
    assert (error.status, error.reason) == (status, "because")
    assert str(error) == "cannot look: because"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotAHub),
        (403, NotAHub),
        (302, NotAHub),
        (429, Unavailable),
        (503, AnswerLost),
    ],
)
def test_a_page_is_no_refusal_of_the_hub(status: int, kind: type[ClientError]) -> None:
    html = Answer(
        url=URL, status=status, headers={"content-type": "text/html"}, content=b"<p>"
    )

    error = failure(CALL, html)

    assert type(error) is kind
    assert error.reason == (
        f"{URL} answers {status} with text/html (a proxy's or a login page?)"
    )


@pytest.mark.parametrize("content", [b"", b"<p>", b"[]", b'{"x": 1}', b"[" * 100_000])
def test_a_success_proves_itself(content: bytes) -> None:
    with pytest.raises(NotAHub):
        document(CALL, Answer(url=URL, status=200, headers={}, content=content))


def leaves(kind: type[ClientError]) -> list[type[ClientError]]:
    return [kind, *(leaf for each in kind.__subclasses__() for leaf in leaves(each))]


def test_the_errors_are_a_closed_tree_that_can_be_pickled() -> None:
    kinds = leaves(ClientError)

    assert {each.__module__ for each in kinds} == {errors.__name__}
    assert {each.__name__ for each in kinds} <= {*client.__all__}
    for kind in kinds:
        error = kind("look", "no", 404, 1.5)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


def test_a_job_has_times_of_any_size() -> None:
    found = Job.of(job(created_at=1e300, accepted_at=-5, finished_at=1_700_000_000.5))

    assert found.created_at is not None
    assert found.accepted_at is None
    assert found.finished_at is not None
    assert found.finished_at.isoformat() == "2023-11-14T22:13:20.500000+00:00"


@pytest.mark.parametrize(
    ("values", "query"),
    [
        ({}, ""),
        ({"a": "", "b": None}, ""),
        ({"a": "x y&z=\udcff", "b": 0, "c": 1.5}, "?a=x%20y%26z%3D%ED%B3%BF&b=0&c=1.5"),
    ],
)
def test_a_query_is_encoded(values: Mapping[str, Any], query: str) -> None:
    assert in_query(**values) == query


def public(kind: type) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(kind).items()
        if callable(value) and (not name.startswith("_") or name == "__init__")
    }


def test_both_clients_have_the_same_calls() -> None:
    import inspect

    names = {**public(client.AsyncHub)}
    names["close"] = names.pop("aclose")

    assert names.keys() == public(client.Hub).keys()
    for name, call in public(client.Hub).items():
        theirs = inspect.signature(names[name]).parameters
        assert [(each.name, each.kind) for each in theirs.values()] == [
            (each.name, each.kind)
            for each in inspect.signature(call).parameters.values()
        ], name

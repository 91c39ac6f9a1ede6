"""Operations on jobs: submit, look, wait, watch, and end or repeat them."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias
from uuid import NAMESPACE_URL, uuid4, uuid5

from dispatchd.client.answers import document, rows
from dispatchd.client.errors import (
    AnswerLost,
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    NotAHub,
    NotFound,
    WaitTimeout,
)
from dispatchd.client.records import Job
from dispatchd.client.retries import QUIET_S, Retries, asked, asked_document
from dispatchd.client.steps import (
    Answer,
    Call,
    Document,
    Item,
    Operation,
    Pause,
    Stream,
    in_query,
)
from dispatchd.network.request_target import in_path

Decision: TypeAlias = Literal["retry", "fail", "succeed"]
"""Decision about a parked job: another attempt, or how it has ended."""

_JOBS: Final = "/api/v1/jobs"
_CONTRACT: Final = "hub-job"

HELD_S: Final = 25.0
"""Longest time for which the hub is to hold a question (seconds): many proxies end one after 30 or 60."""

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000
"""Jobs in one answer, where there is no end of them, and at most (count)."""

_LOOK_S: Final = 2.0
"""Time between two looks at a job of a hub that tells no changes (seconds)."""

_VERSION: Final = "job-version"

_NOT_COMPARED: Final = frozenset({"id", "payload", "headers", "supersede"})
"""Fields of a submit that the hub doesn't show."""


def id_of(job: Job | str) -> str:
    """Return the id of a job."""
    return job.id if isinstance(job, Job) else job


def id_of_key(key: str) -> str:
    """Return the id of the job that is submitted with an idempotency key."""
    return str(uuid5(NAMESPACE_URL, f"dispatchd:submit:{key}"))


def request_of(
    workflow: str,
    fields: Mapping[str, str] | None,
    **named: str | int,
) -> Document:
    """Return the job that asks for a workflow as GitHub's `workflow_dispatch` does: the run finds the fields as `.inputs`."""
    return {
        "dag_name": workflow,
        "event_name": "workflow_dispatch",
        **named,
        "payload": {"inputs": dict(fields or {})},
    }


def submit(
    retries: Retries, request: Mapping[str, Any], *, name: str, is_key: bool
) -> Operation[str]:
    """Queue a job, and return its id. It gets its id here, so that a repeated call queues no second one.

    Args:
        retries: The rule.
        request: The job (contracts/schemas/submit-request.schema.json).
        name: What the call is to do, as words after "cannot".
        is_key: True if a job that is there with this id already is this job.

    Raises:
        Conflict: The id is taken, or the key was used for another job.
        AnswerLost: The job may have been queued; the reason names its id.
        ClientError: The hub refuses, or isn't to be reached.
    """
    own_id = request.get("id")
    job_id = str(own_id or uuid4())
    call = Call(
        name=name, method="POST", path=_JOBS, body={**request, "id": job_id}, has="id"
    )
    tries = retries.of_submit
    while True:
        try:
            return str(document(call, (yield call))["id"])
        except Conflict as error:
            if not (is_key or tries.was_lost):
                raise
            # By one of the calls before. An id that nobody else knows needs no look.
            if own_id:
                yield from _require_same(retries, job_id, request, error)
            return job_id
        except ClientError as error:
            try:
                pause = tries.after(error)
            except ClientError:
                if not tries.was_lost:
                    raise
                reason = f"{error.reason}; it may be queued all the same, as {job_id}"
                raise AnswerLost(name, reason, error.status) from None
            yield pause


def _require_same(
    retries: Retries, job_id: str, request: Mapping[str, Any], taken: Conflict
) -> Operation[None]:
    """Check that the job with an id is the one of a submit, as far as the token may look.

    Raises:
        Conflict: It is another one.
    """
    try:
        found = yield from asked_document(_one(job_id), retries.of_safe)
    except Forbidden:
        return
    except NotFound:
        # The id is reserved, or the job is gone by now.
        raise taken from None
    differs = [
        field
        for field, value in request.items()
        if field not in _NOT_COMPARED and (found.get(field) or None) != (value or None)
    ]
    if differs:
        reason = f"job {job_id} is another one; it differs in {', '.join(differs)}"
        raise Conflict(taken.call, reason, taken.status)


def get(
    retries: Retries, job_id: str, *, wait_s: float = 0.0, until: str = "finished"
) -> Operation[Job]:
    """Return a job, after `wait_s` (seconds) or as soon as it is in the state `until` or has ended."""
    call = _one(job_id, wait_s=wait_s, until=until)
    return Job.of((yield from asked_document(call, retries.of_safe)))


def listed(
    retries: Retries, filters: Mapping[str, str], limit: int | None
) -> Stream[Job]:
    """Yield jobs, the newest first, page by page; `limit` is the largest number of them (count), None for all.

    Raises:
        NotAHub: The hub has no pages.
        ClientError: The hub refuses, or isn't to be reached.
    """
    before, left = "", limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(left, _LARGEST_PAGE)
        query = in_query(**filters, before=before, limit=size)
        call = Call(name="list jobs", path=f"{_JOBS}{query}", has="jobs")
        page = yield from asked(call, retries.of_safe, _rows)
        if before and any(job["id"] == before for job in page):
            reason = f"the hub is too old to list more than {_PAGE} jobs; give a limit of at most {_LARGEST_PAGE}"
            raise NotAHub(call.name, reason)
        for found in reversed(page):
            yield Item(Job.of(found))
        if len(page) < size:
            return
        before = page[0]["id"]
        left = None if left is None else left - len(page)


def wait(
    retries: Retries, job_id: str, timeout_s: float | None, now: Callable[[], float]
) -> Operation[Job]:
    """Return a job once it has ended.

    Args:
        retries: The rule.
        job_id: The job.
        timeout_s: Longest wait (seconds); None for any.
        now: The time, by any clock that runs on (seconds).

    Raises:
        WaitTimeout: It has not ended in time.
        ClientError: The hub refuses, or stays away.
    """
    over_at = None if timeout_s is None else now() + timeout_s
    tries, said = retries.of_followed, ""
    while True:
        left_s = None if over_at is None else max(0.0, over_at - now())
        held_s = HELD_S if left_s is None else min(HELD_S, left_s)
        call = _one(job_id, wait_s=held_s, left_s=left_s, name=f"wait for job {job_id}")
        try:
            job = Job.of(document(call, (yield call)))
            tries, said = retries.of_followed, f"it is {job.state}"
            if job.ended:
                return job
            if over_at is None or now() + QUIET_S < over_at:
                yield Pause(QUIET_S)
        except ClientError as error:
            pause, said = tries.after(error), error.reason
            if over_at is None or now() + pause.seconds < over_at:
                yield pause
                continue
            left_s = 0.0
        if left_s is not None and left_s <= 0.0:
            reason = f"it has not ended within {timeout_s:g} s; {said}"
            raise WaitTimeout(call.name, reason)


def watch(retries: Retries, job_id: str) -> Stream[Job]:
    """Yield a job as it is now, and again whenever something about it changes, to its end."""
    last: Document | None = None
    seen = ""
    while True:
        held_s = HELD_S if seen else 0.0
        call = _one(job_id, wait_s=held_s, seen=seen, name=f"watch job {job_id}")
        found, seen = yield from asked(call, retries.of_followed, _versioned)
        is_new, last = found != last, found
        if is_new:
            yield Item(Job.of(found))
        if found["ended"]:
            return
        if not (seen and is_new):
            yield Pause(QUIET_S if seen else _LOOK_S)


def cancel(retries: Retries, job_id: str) -> Operation[Job]:
    """End a job, and return it as it is then.

    Raises:
        Gone: It has ended already.
        ClientError: The hub refuses, or isn't to be reached.
    """
    call = _act(job_id, "cancel", name=f"cancel job {job_id}", contract=_CONTRACT)
    tries = retries.of_safe
    while True:
        try:
            return Job.of(document(call, (yield call)))
        except Gone:
            if not tries.was_lost:
                raise
            # By one of the calls before.
            return (yield from get(retries, job_id))
        except ClientError as error:
            yield tries.after(error)


def requeue(retries: Retries, job_id: str) -> Operation[str]:
    """Submit an ended job again, and return the new job's id. It gets its id here, as a submit."""
    action = f"requeue{in_query(new_id=str(uuid4()))}"
    call = _act(job_id, action, name=f"requeue job {job_id}", has="id")
    return str((yield from asked_document(call, retries.of_submit))["id"])


def resolve(
    retries: Retries, job: Job | str, decision: Decision, note: str
) -> Operation[Job]:
    """Decide about a parked job, and return it as it is then. With a Job, the decision is for that stay alone."""
    parked = job.parked if isinstance(job, Job) else ""
    call = _act(
        id_of(job),
        "resolve",
        name=f"resolve job {id_of(job)}",
        contract=_CONTRACT,
        body={
            "as": decision,
            "note": note,
            **({"parked": parked} if parked else {}),
        },
    )
    # A repeated decision for a named stay changes nothing.
    tries = retries.of_safe if parked else retries.of_any
    return Job.of((yield from asked_document(call, tries)))


def _one(
    job_id: str,
    *,
    wait_s: float = 0.0,
    until: str = "",
    seen: str = "",
    left_s: float | None = None,
    name: str = "",
) -> Call:
    query = in_query(wait=wait_s or None, until=until if wait_s else "", seen=seen)
    return Call(
        name=name or f"show job {job_id}",
        path=f"{_JOBS}/{in_path(job_id)}{query}",
        contract=_CONTRACT,
        held_s=wait_s,
        left_s=left_s,
    )


def _act(
    job_id: str,
    action: str,
    *,
    name: str,
    body: object = None,
    contract: str = "",
    has: str = "",
) -> Call:
    path = f"{_JOBS}/{in_path(job_id)}/{action}"
    return Call(
        name=name, method="POST", path=path, body=body, contract=contract, has=has
    )


def _rows(call: Call, answer: Answer) -> list[Document]:
    return rows(call, answer, _CONTRACT)


def _versioned(call: Call, answer: Answer) -> tuple[Document, str]:
    return document(call, answer), answer.headers.get(_VERSION, "")

"""Checks of the extensions: each returns how a record breaks a rule, in words that quote no body. Pure."""

from typing import Final

from dispatchd.conformance.comparison import (
    SUCCESS,
    first_of,
    repeat_problem,
    reply_problem,
    status_problem,
)
from dispatchd.conformance.record import Record
from dispatchd.protocol.extensions import CALL_HEADER, HEADER, is_marked
from dispatchd.protocol.job import CANCEL

_SHORTEST_TOKEN: Final = 16
"""Shortest token that counts as hard to guess (characters): 64 bits in hex."""

_SLACK_S: Final = 2.0
"""Time that network and queue may take beside what a rule allows (seconds)."""

_PHASES: Final = ("running", "needs_attention", "finishing")


def weak_tokens(record: Record) -> str:
    """Return the first claim token that is short, or was seen before."""
    seen: set[str] = set()
    for step, job in record.jobs.items():
        token = job.claim_token
        if token and len(token) < _SHORTEST_TOKEN:
            return f"{step}: the claim token has {len(token)} characters"
        if token in seen:
            return f"{step}: the claim token is that of another delivery"
        seen |= {token} - {""}
    return ""


def missing_token(record: Record) -> str:
    """Return how calls without the claim token were answered."""
    return _fenced(record, "no")


def wrong_token(record: Record) -> str:
    """Return how calls with another claim token were answered, and what they changed."""
    released = status_problem(record, "release with a wrong claim token", (409,))
    return _fenced(record, "a wrong") or released


def claim_refused(record: Record) -> str:
    """Return how calls under the claim were answered."""
    accept, finish = "accept of the claim", "finish of the claim"
    return first_of(
        (
            status_problem(record, accept, SUCCESS),
            status_problem(record, finish, SUCCESS),
        )
    )


def heartbeat_refused(record: Record) -> str:
    """Return the first phase whose heartbeat was not taken."""
    steps = [f"heartbeat of {phase}" for phase in _PHASES]
    return first_of(status_problem(record, step, SUCCESS) for step in steps)


def heartbeat_reply(record: Record) -> str:
    """Return how replies to heartbeats break their schema, or shorten the lease."""
    job = record.jobs["claimed job"]
    for step in [f"heartbeat of {phase}" for phase in _PHASES]:
        answer = record.answers.get(step)
        if answer is None or not answer.is_success:
            continue
        if broken := reply_problem(record, step):
            return broken
        lease_s = (answer.document or {}).get("lease_seconds")
        if type(lease_s) in {int, float} and 0 < float(str(lease_s)) < job.lease_s:
            return f"{step}: lease_seconds is shorter than the job's"
    return ""


def lease_not_extended(record: Record) -> str:
    """Return how a pull was answered within the lease that a heartbeat has extended."""
    beat = status_problem(record, "heartbeat of the lease", SUCCESS)
    return beat or status_problem(record, "pull within an extended lease", (204,))


def release_differs(record: Record) -> str:
    """Return how a release was answered, and its repetition."""
    first = status_problem(record, "release", SUCCESS)
    return first or repeat_problem(record, "release", "release again")


def old_claim_counts(record: Record) -> str:
    """Return how the claim of before a release was answered, and the one after it."""
    before = status_problem(record, "accept of the old claim", (409,))
    return before or status_problem(record, "accept of the new claim", SUCCESS)


def hold_too_long(record: Record) -> str:
    """Return how a pull was held for which there was no job."""
    step = "held pull of nothing"
    took_s = record.answers[step].took_s
    late = f"{step}: {took_s:.1f} s in place of 1 s" if took_s > 1 + _SLACK_S else ""
    return status_problem(record, step, (204,)) or late


def held_pull_late(record: Record) -> str:
    """Return how long a queued job waited beside a held pull."""
    step = "held pull"
    took_s = record.answers[step].took_s
    late = f"{step}: the job came {took_s:.1f} s after it was queued"
    problem = status_problem(record, step, (200,))
    return problem or (late if took_s > 1 + _SLACK_S else "")


def undeclared_workflow(record: Record) -> str:
    """Return the pull that brought a job which it was not for."""
    steps = ("pull for another workflow", "pull for cancel jobs alone")
    return first_of(status_problem(record, step, (204,)) for step in steps)


def cancel_lost(record: Record) -> str:
    """Return how a cancel job did not reach the machine whose run it means."""
    step, beat = "pull of the cancel job", "heartbeat after the cancel job"
    if problem := status_problem(record, step, SUCCESS):
        return problem
    job, heard = record.jobs.get(step), record.answers.get(beat)
    came = job is not None and str(job.document.get("command")).lower() == CANCEL
    is_asked = heard is not None and (heard.document or {}).get("cancel_requested")
    if came or is_asked is True:
        return ""
    return f"{step}: it brought none, and no heartbeat asks for the end"


def header_missing(record: Record) -> str:
    """Return the first answer without the contract header, once the endpoint has shown it."""
    for step, answer in record.all():
        if answer.shows_header and not is_marked(answer.headers):
            return f"{step}: {answer.status} without {HEADER}: 1"
    return ""


def call_not_repeated(record: Record) -> str:
    """Return the first answer with another call's header, or none."""
    for step, answer in record.all():
        repeated = answer.headers.get(CALL_HEADER.lower(), "").strip()
        if answer.shows_header and repeated != answer.call_id:
            return f"{step}: {answer.status} without the {CALL_HEADER} of the call"
    return ""


def _fenced(record: Record, token: str) -> str:
    steps = [
        f"{call} with {token} claim token" for call in ("accept", "heartbeat", "finish")
    ]
    return first_of(status_problem(record, step, (409,)) for step in steps)

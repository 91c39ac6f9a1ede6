"""Operations on logs: the log of a job piece by piece, also while it grows."""

from typing import Final

from dispatchd.client.answers import text
from dispatchd.client.records import LogPiece
from dispatchd.client.retries import QUIET_S, Retries, asked
from dispatchd.client.steps import Answer, Call, Item, Pause, Stream, in_query
from dispatchd.network.request_target import in_path

_HELD_S: Final = 20
"""Time for which the hub is to hold a question (seconds)."""

_COUNTS: Final = ("log-size", "log-parts")
"""Headers of the hub's answer that are numbers."""


def pieces(
    retries: Retries, job_id: str, *, attempt: int | None, follow: bool
) -> Stream[LogPiece]:
    """Yield the log of a job.

    Args:
        retries: The rule.
        job_id: The job.
        attempt: The only attempt whose log is wanted, by its place (from 1); None for all.
        follow: True to continue while the log grows. The hub may be away for a minute.
    """
    part, offset = attempt or 1, 0
    while True:
        query = in_query(part=part, offset=offset, wait=_HELD_S if follow else None)
        call = Call(
            name=f"show the log of {job_id}",
            path=f"/api/v1/jobs/{in_path(job_id)}/log{query}",
            counts=_COUNTS,
            held_s=float(_HELD_S) if follow else 0.0,
        )
        tries = retries.of_followed if follow else retries.of_safe
        piece, headers = yield from asked(call, tries, _piece)
        if piece:
            yield Item(LogPiece(attempt=part, data=piece))
        offset += len(piece)
        has_more = bool(piece) and offset < int(headers["log-size"])
        if has_more:
            continue
        if follow and headers.get("log-complete") != "1":
            if not piece:
                yield Pause(QUIET_S)
            continue
        if attempt is not None or part >= int(headers["log-parts"]):
            return
        part, offset = part + 1, 0


def _piece(call: Call, answer: Answer) -> tuple[bytes, dict[str, str]]:
    return text(call, answer), {**answer.headers}

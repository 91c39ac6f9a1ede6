"""Judgement of answers: the hub's document, its refusal, or somebody else's page. Pure."""

import json
from http import HTTPStatus
from typing import Final

from dispatchd.client.errors import (
    OF_STATUS,
    AnswerLost,
    ClientError,
    InvalidCall,
    NotAHub,
    Unavailable,
)
from dispatchd.client.steps import Answer, Call, Document
from dispatchd.errors import ContractViolation
from dispatchd.network.http_headers import http_date, seconds
from dispatchd.protocol.contracts import check

_DIGITS: Final = 15
"""Most digits of a number in a header (count)."""


def document(call: Call, answer: Answer) -> Document:
    """Return the JSON object in an answer, which proves itself: a login page may answer any call with status 200.

    The object is empty for an answer with status 204.

    Raises:
        NotAHub: It isn't the hub's.
        ClientError: The hub refuses, or has failed.
    """
    found = _object(answer.content)
    if answer.status == HTTPStatus.NO_CONTENT:
        found = None
    elif not _is_success(answer):
        error = failure(call, answer)
        raise error
    elif found is None:
        raise NotAHub(call.name, _page(answer), answer.status)
    if problem := _problem(found, call):
        raise NotAHub(call.name, f"{answer.url} {problem}", answer.status)
    return found or {}


def rows(call: Call, answer: Answer, contract: str) -> list[Document]:
    """Return the items of a list of the hub's, which is the member `call.has`; each keeps the contract.

    Raises:
        NotAHub: It isn't the hub's.
        ClientError: The hub refuses, or has failed.
    """
    listed = document(call, answer)[call.has]
    items: list[Document] = []
    for item in listed if isinstance(listed, list) else [listed]:
        try:
            check(contract, item)
        except ContractViolation as violation:
            reason = f"{answer.url} {_broken(violation)}"
            raise NotAHub(call.name, reason, answer.status) from None
        items.append(item)
    return items


def text(call: Call, answer: Answer) -> bytes:
    """Return an answer that is no JSON: it has the headers that count.

    Raises:
        NotAHub: It isn't the hub's.
        ClientError: The hub refuses, or has failed.
    """
    if not _is_success(answer):
        error = failure(call, answer)
        raise error
    if not all(_is_count(answer.headers.get(name, "")) for name in call.counts):
        raise NotAHub(call.name, _page(answer), answer.status)
    return answer.content


def failure(call: Call, answer: Answer) -> ClientError:
    """Return the error for an answer without success."""
    said = (_object(answer.content) or {}).get("message")
    reason = said if isinstance(said, str) else _page(answer)
    status, asked_s = answer.status, _retry_after_s(answer)
    is_of_the_hub = isinstance(said, str)
    kind: type[ClientError] = OF_STATUS.get(status, InvalidCall)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        is_refusal = is_of_the_hub and kind is Unavailable
        kind = Unavailable if is_refusal else AnswerLost
    elif not is_of_the_hub and kind is not Unavailable:
        kind = NotAHub
    return kind(call.name, reason, status, asked_s)


def _is_success(answer: Answer) -> bool:
    return HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES


def _retry_after_s(answer: Answer) -> float | None:
    """Return the wait that an answer asks for (seconds), by its own clock if that is a time; None for none."""
    value = answer.headers.get("retry-after", "")
    if (asked_s := seconds(value)) is not None:
        return asked_s
    at, now = http_date(value), http_date(answer.headers.get("date", ""))
    return None if at is None or now is None else max(0.0, (at - now).total_seconds())


def _is_count(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) <= _DIGITS


def _page(answer: Answer) -> str:
    """Return the description of an answer that isn't the hub's JSON."""
    kind = answer.headers.get("content-type", "no content type").partition(";")[0]
    page = f" with {kind:.60} (a proxy's or a login page?)"
    is_json = _object(answer.content) is not None
    return f"{answer.url} answers {answer.status}{'' if is_json else page}"


def _object(content: bytes) -> Document | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _problem(found: Document | None, call: Call) -> str:
    """Return why an answer isn't a hub's, as words after its address; empty if it may be one."""
    if call.contract:
        try:
            check(call.contract, found)
        except ContractViolation as violation:
            return _broken(violation)
    if call.has and not (found is not None and call.has in found):
        return f"answers, but not as a hub does: $.{call.has} is missing"
    if not (call.contract or call.has or found is None):
        return "answers, but not as a hub does: it says more than that it is done"
    return ""


def _broken(violation: ContractViolation) -> str:
    return f"answers, but not as a hub does: {violation.path} {violation.rule}"

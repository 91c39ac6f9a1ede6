"""Request bodies: read up to a limit, checked against a contract, off the event loop where they are large."""

import json
import math
from http import HTTPStatus
from typing import Final

from anyio import to_thread
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from typing_extensions import override

from dispatchd.contracts import check
from dispatchd.domain.job import Json
from dispatchd.domain.raw_json import Member, members
from dispatchd.errors import ContractViolation
from dispatchd.hub.rules import Refused

MAX_BODY: Final = 40 * 1024 * 1024
"""Largest request that is read (bytes)."""

THREAD_BYTES: Final = 256 * 1024
"""From this size on JSON is handled in a worker thread (bytes)."""

TEXTS: Final = ("payload", "headers")
"""The fields of a job that are kept as the exact texts that came."""


async def read_members(request: Request, contract: str) -> dict[str, Member]:
    """Return the members of a request's JSON body, checked against a contract.

    Raises:
        Refused: The body is too large, not a JSON object, or breaks the contract.
    """
    body = await read_up_to(request, MAX_BODY)
    try:
        if len(body) < THREAD_BYTES:
            return _checked(body, contract)
        return await to_thread.run_sync(_checked, body, contract)
    except ContractViolation as violation:
        broken = violation.contract == "JSON"
        status = HTTPStatus.BAD_REQUEST if broken else HTTPStatus.UNPROCESSABLE_ENTITY
        raise Refused(status, f"{violation.path} {violation.rule}") from violation
    except UnicodeDecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not UTF-8 text") from error


async def read_body(request: Request, contract: str) -> dict[str, Json]:
    """Return a request's JSON body, checked against a contract. Fails with Refused as `read_members` does."""
    return {
        name: member.value
        for name, member in (await read_members(request, contract)).items()
    }


async def read_up_to(request: Request, most: int) -> bytearray:
    """Return a request's body.

    Args:
        request: The request.
        most: How large it may be (bytes).

    Raises:
        Refused: It is larger.
    """
    body, size = bytearray(), 0
    async for chunk in request.stream():
        # What is too much is read on and dropped: a client that is cut off while it sends sees no answer.
        size += len(chunk)
        if size <= most:
            body += chunk
    if size > most:
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {most >> 20} MiB",
        )
    return body


def _checked(body: bytearray, contract: str) -> dict[str, Member]:
    found = members(body.decode())
    document = {name: member.value for name, member in found.items()}
    check(contract, document)
    for name in document.keys() - set(TEXTS):
        _require_writable(contract, name, document[name])
    return found


def _require_writable(contract: str, name: str, value: Json) -> None:
    """Refuse what Python reads as JSON and can't write as JSON in UTF-8 again.

    Raises:
        ContractViolation: The value holds such a thing.
    """
    try:
        json.dumps({name: value}, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        rule = "must hold no half of a surrogate pair and no number beyond 1e308"
        shown = name.encode(errors="replace").decode()
        raise ContractViolation(
            contract=contract, path=f"$.{shown}", rule=rule
        ) from error


def seconds(value: str | None, longest: float) -> float:
    """Return a number of seconds from a query or header, between 0 and the longest; 0 for what isn't one."""
    try:
        found = float(value or 0)
    except ValueError:
        return 0.0
    return 0.0 if math.isnan(found) else min(max(found, 0.0), longest)


class _JobId(Convertor[str]):
    """Any text in a path. Starlette's own `path` stops at a line break, which an id may hold."""

    regex = "(?s:.+)"

    @override
    def convert(self, value: str) -> str:
        return value

    @override
    def to_string(self, value: str) -> str:
        return value


register_url_convertor("job", _JobId())

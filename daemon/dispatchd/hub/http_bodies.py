"""Request bodies. Each call has a size limit of its own; at most 64 KiB are read before the sender is authenticated.

A sender without valid credentials costs no more than reading these. A token is checked by its header, before the body.
A machine has its credentials in the body, so a larger one has to begin with them (contracts/README.md, limits).
"""

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Final

from attrs import evolve, frozen
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from typing_extensions import override

from dispatchd.errors import ContractViolation, DispatchdError
from dispatchd.hub.domain.json_shortener import Shortener
from dispatchd.hub.parsers import Busy, parsed
from dispatchd.protocol.contracts import check
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_text import (
    Member,
    leading_members,
    members,
    whole_characters,
)
from dispatchd.protocol.published.schemas import schema

KIB: Final = 1024
MIB: Final = 1024 * KIB

SMALL: Final = 64 * KIB
"""Largest body of most calls, and the most that is read of any body before its sender is authenticated (bytes)."""

FINISH: Final = 4 * MIB
"""Largest body of a finish without its texts (bytes)."""

LARGEST_JOB_BODY: Final = 40 * MIB
"""Largest body of a submit (bytes)."""

TEXTS: Final = ("payload", "headers")
"""Fields of a job that are stored as the exact texts received."""

_JOB: Final = "submit-request"

_THREAD_BYTES: Final = 8 * KIB
"""Size from which JSON is handled in a worker thread (bytes): the worst 8 KiB take less than 10 ms."""

_MOST_MEMBERS: Final = 100
"""Most members of a body whose sender is not authenticated (count): many cost more to parse than anything else."""

_PROVEN_BYTES: Final = _THREAD_BYTES
"""Size from which a machine is authenticated by the beginning of its body, if that has its credentials (bytes)."""

_NAMES: Final = ("license_id", "server_id")
"""Credentials of a machine, beside its secret."""

_LONGEST_NAME: Final = 100
"""Longest name of a property in an answer (characters)."""


_DIGITS: Final = 15
"""Most digits of a number in a query (count)."""


class Refused(DispatchdError):
    """Refused request: an HTTP status, and a message for the client."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class TooLarge(Refused):
    """A body over a limit (bytes)."""

    def __init__(self, most: int) -> None:
        limit = f"{most // MIB} MiB" if most >= MIB else f"{most // KIB} KiB"
        message = f"the body is larger than {limit}"
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


Prove = Callable[[dict[str, Json]], Awaitable[None]]
"""Check of credentials: returns if they are valid, and raises Refused otherwise."""

Trim = Callable[[Mapping[str, Json]], dict[str, Json]]
"""Function that returns a body without its excess."""


@frozen(kw_only=True)
class Limits:
    """Limits of the body of a machine's call."""

    most: int = SMALL
    """Largest size of the body (bytes)."""
    shortener: Callable[[], Shortener] | None = None
    """Maker of what cuts the strings of a body over 64 KiB: the rest of them doesn't count for the size. None if no
    string may be cut."""
    texts: int = 0
    """Largest size of the strings that stay and don't count for the size either (bytes)."""
    proof: str = "secret"
    """Name of the property with the machine's secret."""
    trim: Trim = dict


async def read_members(request: Request, contract: str, most: int) -> dict[str, Member]:
    """Return the members of a request's JSON body, validated against a contract.

    Args:
        request: The request; its sender is authenticated before.
        contract: The contract's name.
        most: Largest size of the body (bytes).

    Raises:
        Refused: The body is too large, not a JSON object, or breaks the contract.
    """
    return await _read(await read_up_to(request, most), contract, is_proven=True)


async def read_body(request: Request, contract: str) -> dict[str, Json]:
    """Return a request's JSON body of at most 64 KiB and 100 members, validated against a contract.

    Raises:
        Refused: As for `read_members`.
    """
    body = await read_up_to(request, SMALL)
    return _values(await _read(body, contract, is_proven=False))


async def read_proven(
    request: Request, contract: str, limits: Limits, prove: Prove
) -> dict[str, Json]:
    """Return the JSON body of a machine's call about a job, validated against a contract.

    No machine is refused because its texts are long: the part over their limit is dropped as it comes.

    Args:
        request: The request.
        contract: The contract's name.
        limits: The limits of the body.
        prove: Called with the credentials at the beginning of a body, before more of it is read or parsed. The
            caller itself has to check those of a small body.

    Raises:
        Refused: The body is too large without that part, is no JSON object, breaks the contract, or is over 64 KiB and
            doesn't begin with valid credentials.
    """
    if limits.shortener is None:
        body = await read_up_to(request, limits.most)
    else:
        body = await _read_shortened(request, limits, limits.shortener, prove)
    is_proven = len(body) > SMALL
    if _PROVEN_BYTES <= len(body) <= SMALL:
        credentials = _beginning(bytes(body[:_PROVEN_BYTES]), limits)
        if credentials is not None:
            await prove(credentials)
            is_proven = True
    return _values(await _read(body, contract, limits.trim, is_proven=is_proven))


async def _read_shortened(
    request: Request,
    limits: Limits,
    new_shortener: Callable[[], Shortener],
    prove: Prove,
) -> bytearray:
    """Return a body without the ends of its long strings, if the machine is authenticated or it has at most 64 KiB.

    Raises:
        TooLarge: It is larger than its limit.
    """
    require_length(request, LARGEST_JOB_BODY)
    body, size, shortener = bytearray(), 0, None
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_JOB_BODY:
            raise TooLarge(limits.most)
        body += chunk if shortener is None else shortener.feed(chunk)
        if shortener is None and size > SMALL:
            await _prove_start(request, bytes(body[:SMALL]), limits, prove)
            shortener = new_shortener()
            body = bytearray(shortener.feed(bytes(body)))
        free = 0 if shortener is None else min(shortener.texts, limits.texts)
        if len(body) - free > limits.most:
            raise TooLarge(limits.most)
    return body if shortener is None else body + shortener.close()


async def _prove_start(
    request: Request, start: bytes, limits: Limits, prove: Prove
) -> None:
    """Check the credentials at the start of a body.

    Raises:
        Refused: They aren't, or it doesn't start with them.
    """
    credentials = _beginning(start, limits)
    if credentials is None:
        message = (
            f"a body over {SMALL // KIB} KiB has to begin with "
            f"license_id, server_id and {limits.proof}"
        )
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
    try:
        await prove(credentials)
    except Refused:
        require_length(request, limits.most)
        raise


def _beginning(start: bytes, limits: Limits) -> dict[str, Json] | None:
    """Return the credentials in the beginning of a body, or None if it doesn't have all of them."""
    names = (*_NAMES, limits.proof)
    # The cut may be in the middle of a character.
    text = start.decode(errors="replace")
    credentials = leading_members(text, names, most=_MOST_MEMBERS)
    are_there = len(credentials) == len(names) and all(
        map(_is_text, credentials.values())
    )
    return credentials if are_there else None


async def read_up_to(request: Request, most: int) -> bytearray:
    """Return a request's body; one that declares a larger size isn't read at all.

    Args:
        request: The request.
        most: Largest size of the body (bytes).

    Raises:
        TooLarge: It is larger.
    """
    require_length(request, most)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(most)
    return body


def require_length(request: Request, most: int) -> None:
    """Refuse a request whose declared length is over `most` (bytes).

    Raises:
        TooLarge: The declared length is larger.
    """
    declared = request.headers.get("content-length", "")
    # The server has refused a length that isn't a number, or has more than 20 digits.
    if declared.isdecimal() and int(declared) > most:
        raise TooLarge(most)


async def _read(
    body: bytearray, contract: str, trim: Trim = dict, *, is_proven: bool
) -> dict[str, Member]:
    checked = partial(
        _checked, body, contract, trim, None if is_proven else _MOST_MEMBERS
    )
    try:
        if len(body) < _THREAD_BYTES:
            return checked()
        return await parsed(checked, is_proven=is_proven)
    except Busy as busy:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(busy)) from busy
    except ContractViolation as violation:
        broken = violation.contract == "JSON"
        status = HTTPStatus.BAD_REQUEST if broken else HTTPStatus.UNPROCESSABLE_ENTITY
        raise Refused(status, f"{violation.path} {violation.rule}") from violation
    except UnicodeDecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not UTF-8 text") from error


def _is_text(value: Json) -> bool:
    """Return whether a value is a non-empty text that can be encoded in UTF-8."""
    return isinstance(value, str) and bool(value) and _is_writable({"": value})


def _values(body_members: dict[str, Member]) -> dict[str, Json]:
    return {name: member.value for name, member in body_members.items()}


def _checked(
    body: bytearray, contract: str, trim: Trim, most: int | None
) -> dict[str, Member]:
    body_members = members(body.decode(), most=most)
    document = trim(_values(body_members))
    check(contract, document)
    # Unknown properties of a machine's body are ignored; those of a job are stored.
    known = document if contract == _JOB else schema(contract)["properties"]
    stored_names = (document.keys() & known) - set(TEXTS)
    _require_writable(contract, {name: document[name] for name in stored_names})
    for name, value in document.items():
        if value is not body_members[name].value:
            body_members[name] = evolve(body_members[name], value=value)
    return body_members


def _require_writable(contract: str, document: dict[str, Json]) -> None:
    """Refuse values that Python reads as JSON but can't write as JSON in UTF-8 again.

    Raises:
        ContractViolation: There is such a value.
    """
    if _is_writable(document):
        return
    name = next(name for name in document if not _is_writable({name: document[name]}))
    rule = "must hold no half of a surrogate pair and no number beyond 1e308"
    shown = whole_characters(name[:_LONGEST_NAME])
    raise ContractViolation(contract=contract, path=f"$.{shown}", rule=rule)


def _is_writable(document: dict[str, Json]) -> bool:
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return False
    return True


def seconds(value: str | None, longest: float) -> float:
    """Return a number of seconds from a query or header, between 0 and the longest; 0 for what isn't one."""
    try:
        number = float(value or 0)
    except ValueError:
        return 0.0
    return 0.0 if math.isnan(number) else min(max(number, 0.0), longest)


def limit_of(request: Request, default: str, longest: int) -> int:
    """Return the length of a list that a query asks for, at most the longest.

    Raises:
        Refused: It is no whole number.
    """
    wanted = request.query_params.get("limit") or default
    if not (wanted.isascii() and wanted.isdecimal()):
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "limit must be a whole number")
    return min(whole_number(wanted, longest), longest)


def whole_number(text: str | None, default: int) -> int:
    """Return a whole number from a query; the default for what isn't one."""
    digits = (text or "").strip()
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS
    return int(digits) if is_number else default


class _JobId(Convertor[str]):
    """Any text in a path. Starlette's own `path` stops at a line break, which an id may contain."""

    regex = "(?s:.+)"

    @override
    def convert(self, value: str) -> str:
        return value

    @override
    def to_string(self, value: str) -> str:
        return value


register_url_convertor("job", _JobId())

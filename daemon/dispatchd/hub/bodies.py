"""Request bodies: each call has its own largest one, and no more than 64 KiB is read of one whose sender isn't known.

Whoever has no valid credentials costs what it costs to read these. A token is proven by its header, before the body;
a machine has its credentials in the body, so that a larger one has to begin with them (contracts/README.md, limits).
"""

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from attrs import evolve, frozen
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from typing_extensions import override

from dispatchd.contracts import check, schema
from dispatchd.domain.job import Json
from dispatchd.domain.raw_json import Member, leading_members, members
from dispatchd.errors import ContractViolation
from dispatchd.hub.domain.shortened import Shortener
from dispatchd.hub.rules import Refused

T = TypeVar("T")

KIB: Final = 1024
MIB: Final = 1024 * KIB

SMALL: Final = 64 * KIB
"""Largest body of most calls, and what is read of any body before its sender is known (bytes)."""

FINISH: Final = 4 * MIB
"""Largest body of a finish (bytes)."""

LARGEST_JOB_BODY: Final = 40 * MIB
"""Largest body of a submit (bytes)."""

TEXTS: Final = ("payload", "headers")
"""The fields of a job that are kept as the exact texts that came."""

_JOB: Final = "submit-request"

_THREAD_BYTES: Final = 8 * KIB
"""From this size on JSON is handled in a worker thread (bytes): the worst of 8 KiB take less than 10 ms."""

_PARSERS: Final = 1
"""How many bodies are handled in threads at a time (count): each keeps the loop waiting for its turn of the interpreter."""

_parsers: Final[RunVar[CapacityLimiter]] = RunVar("parsers")

_PROVEN_BYTES: Final = _THREAD_BYTES
"""From this size on a machine is proven by the beginning of its body, if that has its credentials (bytes)."""

_NAMES: Final = ("license_id", "server_id")
"""What a machine proves itself by, beside its secret."""

_LONGEST_NAME: Final = 100
"""How much of a property's name is shown in an answer (characters)."""


class TooLarge(Refused):
    """A body over a limit (bytes)."""

    def __init__(self, most: int) -> None:
        limit = f"{most // MIB} MiB" if most >= MIB else f"{most // KIB} KiB"
        message = f"the body is larger than {limit}"
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


Prove = Callable[[dict[str, Json]], Awaitable[None]]
"""Returns if credentials are valid, and raises Refused otherwise."""

Trim = Callable[[Mapping[str, Json]], dict[str, Json]]
"""Returns a body without what is too much of it."""


@frozen(kw_only=True)
class Limits:
    """How much of the body of a machine's call counts."""

    most: int = SMALL
    """How large it may be (bytes)."""
    longest: int | None = None
    """How much of a string in it is read where the body is over 64 KiB (bytes): the rest doesn't count for its size.
    None if no text of it may be cut."""
    proof: str = "secret"
    """The name of the machine's secret in it."""
    trim: Trim = dict


async def read_members(request: Request, contract: str, most: int) -> dict[str, Member]:
    """Return the members of a request's JSON body, checked against a contract.

    Fails with Refused if the body is too large, not a JSON object, or breaks the contract.

    Args:
        request: The request; who sends more than 64 KiB has been proven before.
        contract: The contract's name.
        most: How large the body may be (bytes).
    """
    return await _read(await read_up_to(request, most), contract)


async def read_body(request: Request, contract: str) -> dict[str, Json]:
    """Return a request's JSON body of at most 64 KiB, checked against a contract. Fails with Refused as `read_members` does."""
    return _values(await read_members(request, contract, SMALL))


async def read_proven(
    request: Request, contract: str, limits: Limits, prove: Prove
) -> dict[str, Json]:
    """Return the JSON body of a call of a machine about a job, checked against a contract.

    No machine is refused because its texts are long: what is over their limit is dropped as it comes. Fails with
    Refused if the body is too large without that, not a JSON object, breaks the contract, or is over 64 KiB and its
    beginning proves nobody.

    Args:
        request: The request.
        contract: The contract's name.
        limits: How much of the body counts.
        prove: Asked about the credentials with which a body begins, before more of it is read or looked at; those of
            a small one the call itself has to prove.
    """
    if limits.longest is None:
        body = await read_up_to(request, limits.most)
    else:
        body = await _read_shortened(request, limits, limits.longest, prove)
    if _PROVEN_BYTES <= len(body) <= SMALL:
        found = await _beginning(bytes(body[:_PROVEN_BYTES]), limits)
        if found is not None:
            await prove(found)
    return _values(await _read(body, contract, limits.trim))


async def _read_shortened(
    request: Request, limits: Limits, longest: int, prove: Prove
) -> bytearray:
    """Return a body without the ends of its long strings, if the machine is proven or it has at most 64 KiB.

    Raises:
        TooLarge: It is larger than it may be.
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
            shortener = Shortener(longest)
            body = bytearray(shortener.feed(bytes(body)))
        if len(body) > limits.most:
            raise TooLarge(limits.most)
    return body if shortener is None else body + shortener.close()


async def _prove_start(
    request: Request, start: bytes, limits: Limits, prove: Prove
) -> None:
    """Return if the credentials at the start of a body are valid.

    Raises:
        Refused: They aren't, or it doesn't start with them.
    """
    found = await _beginning(start, limits)
    if found is None:
        message = (
            f"a body over {SMALL // KIB} KiB has to begin with "
            f"license_id, server_id and {limits.proof}"
        )
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
    try:
        await prove(found)
    except Refused:
        require_length(request, limits.most)
        raise


async def _beginning(start: bytes, limits: Limits) -> dict[str, Json] | None:
    """Return the credentials in the beginning of a body, or None if it doesn't have all of them."""
    names = (*_NAMES, limits.proof)
    # The cut may be in the middle of a character.
    text = start.decode(errors="replace")
    found = await _in_thread(partial(leading_members, text, names))
    are_there = len(found) == len(names) and all(map(_is_text, found.values()))
    return found if are_there else None


async def read_up_to(request: Request, most: int) -> bytearray:
    """Return a request's body; nothing of one that says that it is larger is read.

    Args:
        request: The request.
        most: How large it may be (bytes).

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
    """Return unless a request says that its body is larger than that (bytes).

    Raises:
        TooLarge: It is.
    """
    declared = request.headers.get("content-length", "")
    # The server has refused what isn't a number, or has more than 20 digits.
    if declared.isdecimal() and int(declared) > most:
        raise TooLarge(most)


async def _read(body: bytearray, contract: str, trim: Trim = dict) -> dict[str, Member]:
    try:
        if len(body) < _THREAD_BYTES:
            return _checked(body, contract, trim)
        return await _in_thread(partial(_checked, body, contract, trim))
    except ContractViolation as violation:
        broken = violation.contract == "JSON"
        status = HTTPStatus.BAD_REQUEST if broken else HTTPStatus.UNPROCESSABLE_ENTITY
        raise Refused(status, f"{violation.path} {violation.rule}") from violation
    except UnicodeDecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not UTF-8 text") from error


async def _in_thread(call: Callable[[], T]) -> T:
    limiter = _parsers.get(None) or CapacityLimiter(_PARSERS)
    _parsers.set(limiter)
    return await to_thread.run_sync(call, limiter=limiter)


def _is_text(value: Json) -> bool:
    """Return whether a value is a text that can be looked for."""
    return isinstance(value, str) and bool(value) and _is_writable({"": value})


def _values(found: dict[str, Member]) -> dict[str, Json]:
    return {name: member.value for name, member in found.items()}


def _checked(body: bytearray, contract: str, trim: Trim) -> dict[str, Member]:
    found = members(body.decode())
    document = trim(_values(found))
    check(contract, document)
    # Of a machine's body what isn't known is ignored; of a job it is kept.
    known = document if contract == _JOB else schema(contract)["properties"]
    kept = (document.keys() & known) - set(TEXTS)
    _require_writable(contract, {name: document[name] for name in kept})
    for name, value in document.items():
        if value is not found[name].value:
            found[name] = evolve(found[name], value=value)
    return found


def _require_writable(contract: str, document: dict[str, Json]) -> None:
    """Refuse what Python reads as JSON and can't write as JSON in UTF-8 again.

    Raises:
        ContractViolation: A value holds such a thing.
    """
    if _is_writable(document):
        return
    name = next(name for name in document if not _is_writable({name: document[name]}))
    rule = "must hold no half of a surrogate pair and no number beyond 1e308"
    shown = name[:_LONGEST_NAME].encode(errors="replace").decode()
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

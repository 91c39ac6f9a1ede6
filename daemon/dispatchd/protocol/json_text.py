"""Strict JSON (RFC 8259) whose top-level members keep their exact source text.

A payload has to reach the command as the bytes that the endpoint sent. Decoding and encoding it again
would change the form of numbers, so the text of a member is cut out instead.
"""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Final, NoReturn

from attrs import frozen

from dispatchd.errors import ContractViolation
from dispatchd.protocol.job import Json

_SPACE: Final = re.compile(r"[ \t\n\r]*")


@frozen
class Member:
    """Member of an object: its value, and the exact text from which the value was read."""

    value: Json
    text: str


def loads(text: str) -> Json:
    """Return the value of a JSON text.

    Raises:
        ContractViolation: The text isn't JSON, or holds NaN or Infinity, or is nested too deeply.
    """
    try:
        value: Json = _decoder.decode(_without_bom(text))
    except (ValueError, RecursionError) as error:
        raise ContractViolation(contract="JSON", path="$", rule=_rule(error)) from error
    return value


def members(text: str) -> dict[str, Member]:
    """Return the members of the object that a JSON text holds; of equal names the last one counts.

    Raises:
        ContractViolation: The text isn't a JSON object, or not strict, or nested too deeply.
    """
    text = _without_bom(text)
    try:
        return _object(text)
    except (ValueError, RecursionError) as error:
        raise ContractViolation(contract="JSON", path="$", rule=_rule(error)) from error


def leading_members(text: str, wanted: Collection[str]) -> dict[str, Json]:
    """Return the wanted members at the beginning of a JSON object whose text may be cut off.

    Args:
        text: The beginning of an object's text.
        wanted: The members' names; the text behind the last of them isn't read.
    """
    found: dict[str, Json] = {}
    with suppress(ValueError, RecursionError):
        for name, member in _members(_without_bom(text)):
            if name in wanted:
                found[name] = member.value
                if len(found) == len(wanted):
                    break
    return found


def _object(text: str) -> dict[str, Member]:
    return dict(_members(text))


def _members(text: str) -> Iterator[tuple[str, Member]]:
    position = _expect(text, _skip(text, 0), "{")
    if text[position : position + 1] == "}":
        _expect_end(text, position + 1)
        return
    while True:
        if text[position : position + 1] != '"':
            _fail("Expecting a name in double quotes", text, position)
        name, position = _decoder.raw_decode(text, position)
        position = _expect(text, _skip(text, position), ":")
        value, end = _decoder.raw_decode(text, position)
        yield name, Member(value, text[position:end])
        position = _skip(text, end)
        if text[position : position + 1] == "}":
            _expect_end(text, position + 1)
            return
        position = _expect(text, position, ",")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def _expect(text: str, position: int, mark: str) -> int:
    """Return the position of the next token after a punctuation mark that is required here."""
    if text[position : position + 1] != mark:
        _fail(f"Expecting {mark!r}", text, position)
    return _skip(text, position + 1)


def _expect_end(text: str, position: int) -> None:
    end = _skip(text, position)
    if end != len(text):
        _fail("Extra data", text, end)


def _fail(problem: str, text: str, position: int) -> NoReturn:
    raise json.JSONDecodeError(problem, text, position)


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _without_bom(text: str) -> str:
    return text.removeprefix("\ufeff")


def _rule(error: Exception) -> str:
    return (
        "must not be nested so deeply"
        if isinstance(error, RecursionError)
        else f"must be JSON ({error})"
    )


_decoder: Final = json.JSONDecoder(parse_constant=_no_constant)

"""Strict JSON (RFC 8259) whose top-level members keep their exact source text.

A payload has to reach the command as the bytes that the endpoint sent. Decoding and encoding it again
would change the form of numbers, so the text of a member is cut out instead.
"""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from typing import Final, NoReturn

from attrs import frozen

from dispatchd.errors import ContractViolation, DispatchdError
from dispatchd.protocol.job import Json

_TOO_DEEP: Final = "must not be nested so deeply"
_NO_NUMBER: Final = "must be JSON, which has no NaN and no Infinity"

_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
"""Ends of a value: strings, and the ends of lists and objects."""

_DEPTH: Final = {"[": 1, "{": 1, "]": -1, "}": -1}

_SPACE: Final = re.compile(r"[ \t\n\r]*")


@frozen
class Member:
    """One member of an object: its value, and the exact text that the value was read from.

    `problem` says why one can't be read that has an end all the same; its value is None then.
    """

    value: Json
    text: str
    problem: str = ""


def whole_characters(text: str) -> str:
    """Return a text that UTF-8 can hold: a string of JSON may have half a surrogate pair, which becomes `?`."""
    return text.encode(errors="replace").decode()


def loads(text: str) -> Json:
    """Return the value of a JSON text.

    Raises:
        ContractViolation: The text isn't JSON, or holds NaN or Infinity, or is nested too deeply.
    """
    try:
        value: Json = _whole(_without_bom(text))
    except (ValueError, RecursionError) as error:
        raise ContractViolation(contract="JSON", path="$", rule=_rule(error)) from error
    return value


def members(text: str, most: int | None = None) -> dict[str, Member]:
    """Return the members of the object that a JSON text holds; of equal names the last one counts.

    Args:
        text: The text.
        most: Most members, those of equal names included (count); None for any.

    Raises:
        ContractViolation: The text isn't a JSON object, or not strict, or nested too deeply, or has too many members.
    """
    by_name = flawed_members(text, most)
    for member in by_name.values():
        if member.problem:
            raise ContractViolation(contract="JSON", path="$", rule=member.problem)
    return by_name


def flawed_members(text: str, most: int | None = None) -> dict[str, Member]:
    """Return the members of the object that a JSON text holds, also those that hold NaN or are nested too deeply.

    Raises:
        ContractViolation: It isn't a JSON object, or has more than `most` members.
    """
    found = _members(_without_bom(text))
    try:
        by_name = dict(islice(found, most))
        is_whole = next(found, None) is None
    except (ValueError, RecursionError) as error:
        raise ContractViolation(contract="JSON", path="$", rule=_rule(error)) from error
    if not is_whole:
        rule = f"must have at most {most} members"
        raise ContractViolation(contract="JSON", path="$", rule=rule)
    return by_name


def leading_members(text: str, names: Collection[str], most: int) -> dict[str, Json]:
    """Return the named members at the beginning of a JSON object whose text may be cut off.

    Args:
        text: The beginning of an object's text.
        names: The members' names; the text behind the last of them isn't read.
        most: Most members that are read (count).
    """
    values: dict[str, Json] = {}
    with suppress(ValueError, RecursionError):
        for name, member in islice(_members(_without_bom(text)), most):
            if name in names and not member.problem:
                values[name] = member.value
                if len(values) == len(names):
                    break
    return values


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
        try:
            value, end = _value(text, position)
            yield name, Member(value, text[position:end])
        except RecursionError:
            end = _end_of(text, position)
            yield name, Member(None, text[position:end], _TOO_DEEP)
        except _ConstantError:
            _, end = _lax_decoder.raw_decode(text, position)
            yield name, Member(None, text[position:end], _NO_NUMBER)
        position = _skip(text, end)
        if text[position : position + 1] == "}":
            _expect_end(text, position + 1)
            return
        position = _expect(text, position, ",")


def _whole(text: str) -> Json:
    value, end = _value(text, _skip(text, 0))
    _expect_end(text, end)
    return value


def _value(text: str, position: int) -> tuple[Json, int]:
    """Return the value that begins somewhere, and where it ends.

    Raises:
        JSONDecodeError: There is none.
        _ConstantError: It holds something that is no number of JSON's.
    """
    try:
        return _decoder.raw_decode(text, position)
    except (json.JSONDecodeError, _ConstantError):
        raise
    except ValueError:
        # A number with more digits than Python reads as one (int_max_str_digits).
        return _decoder_of_long_numbers.raw_decode(text, position)


def _end_of(text: str, position: int) -> int:
    """Return where a list or object ends that is nested too deeply to be read."""
    depth = 0
    for token in _TOKEN.finditer(text, position):
        depth += _DEPTH.get(token[0], 0)
        if depth == 0:
            return token.end()
    return _fail("Expecting its end", text, len(text))


def _number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


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


class _ConstantError(DispatchdError, ValueError):
    """NaN, Infinity or -Infinity, which are not JSON."""


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise _ConstantError(message)


def _without_bom(text: str) -> str:
    return text.removeprefix("\ufeff")


def _rule(error: Exception) -> str:
    return _TOO_DEEP if isinstance(error, RecursionError) else f"must be JSON ({error})"


_decoder: Final = json.JSONDecoder(parse_constant=_no_constant)

_lax_decoder: Final = json.JSONDecoder(parse_int=float)

# Slower, because it asks for each number.
_decoder_of_long_numbers: Final = json.JSONDecoder(
    parse_constant=_no_constant, parse_int=_number
)

"""Pointers into a JSON document: JSON Pointer (RFC 6901), with `*` for each element of a list.

On a list `*` is no pointer of the RFC, so it can mean this; of an object it is the member with that name.
"""

import re
from collections.abc import Iterator
from typing import Final

from dispatchd.protocol.job import Json

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_MOST_VALUES: Final = 10_000
"""Most values that a pointer stands for (count); those after them don't count."""


def pointer_problem(pointer: str) -> str:
    """Return what is wrong with a pointer, as words after its key; empty if it can be used."""
    rest = pointer.replace("~0", "").replace("~1", "")
    if not pointer.startswith("/") or "~" in rest:
        return "must be a JSON Pointer such as /repository/full_name (RFC 6901)"
    return ""


def scalars(document: Json, pointer: str) -> list[str]:
    """Return the texts and whole numbers that a pointer stands for, as texts. Others count as absent."""
    tokens = [
        name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:]
    ]
    found = [document]
    for name in tokens:
        found = [value for each in found for value in _below(each, name, _MOST_VALUES)][
            :_MOST_VALUES
        ]
    return [
        str(value) for value in found if isinstance(value, str) or type(value) is int
    ]


def _below(value: Json, name: str, most: int) -> Iterator[Json]:
    if isinstance(value, dict):
        if name in value:
            yield value[name]
    elif isinstance(value, list):
        if name == "*":
            yield from value[:most]
        elif _INDEX.fullmatch(name) and int(name) < len(value):
            yield value[int(name)]

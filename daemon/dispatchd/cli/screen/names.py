"""Short ids, and the names that a mistyped one may stand for."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import pairwise
from typing import Final

_SHORT: Final = 8
"""Least length of a short id (characters): two random UUIDs in 10,000 begin alike with a probability of 1 %."""

_WHOLE: Final = 12
"""Length up to which an id is shown whole (characters)."""


def short_ids(ids: Iterable[str]) -> Mapping[str, str]:
    """Return the beginning of each id that is enough to tell it from the others, at least `_SHORT` characters."""
    ordered = sorted(set(ids))
    shared = [_alike(one, other) for one, other in pairwise(ordered)]
    return {
        job_id: job_id
        if len(job_id) <= _WHOLE
        else job_id[: max(_SHORT, before + 1, after + 1)]
        for job_id, before, after in zip(
            ordered, (0, *shared), (*shared, 0), strict=False
        )
    }


def _alike(one: str, other: str) -> int:
    """Return the length of the beginning that two texts share."""
    return next(
        (
            number
            for number, (left, right) in enumerate(zip(one, other, strict=False))
            if left != right
        ),
        min(len(one), len(other)),
    )


def hint(name: str, known: Iterable[str]) -> str:
    """Return a question after the name that was probably meant, as the end of a message; empty if none is similar."""
    similar = get_close_matches(name, sorted(set(known)), n=1)
    return f"; did you mean {similar[0]}?" if similar else ""

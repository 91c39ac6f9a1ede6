"""Patience with a hub that is away for a while, as in an upgrade, while something of it is followed."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from dispatchd.errors import NotReachable

_AGAIN_S: Final = 1.0
"""Pause before the next question to a hub that doesn't answer (seconds)."""

_MOST_FAILURES: Final = 60
"""Most questions in a row that a hub may leave without an answer (count)."""

T = TypeVar("T")


def patiently(ask: Callable[[], T]) -> T:
    """Return the answer to a question, which is asked again while the hub is away.

    Raises:
        NotReachable: The hub stays away.
    """
    for _ in range(_MOST_FAILURES):
        try:
            return ask()
        except NotReachable:
            time.sleep(_AGAIN_S)
    return ask()

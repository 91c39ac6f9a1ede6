"""Wait before the next try: full jitter, drawn after the cap.

Random numbers come in as arguments, so that a run of failures can be replayed in a test.
"""

from typing import Final

CAP_S: Final = 60.0
"""Longest wait between two tries (seconds): recovery after an outage of any length takes at most this."""

RETRY_AFTER_CAP_S: Final = 300.0
"""Longest wait that an endpoint can ask for (seconds): a mistake there must not silence a machine for a day."""

RETRY_CAP_S: Final = 300.0
"""Upper bound of every wait before another attempt of a run (seconds)."""

_LONGEST_SHIFT: Final = 16
"""Doublings after which every base has passed the cap; keeps the power small after a week of failures."""


def full_jitter_s(
    failures: int, draw: float, *, base_s: float = 1.0, cap_s: float = CAP_S
) -> float:
    """Return the seconds to wait after `failures` failures in a row (1 or more).

    Args:
        failures: Failures so far.
        draw: A random number from [0, 1).
        base_s: Upper bound of the first wait, in seconds.
        cap_s: Upper bound of every wait, in seconds.
    """
    return draw * float(min(cap_s, base_s * 2 ** min(failures - 1, _LONGEST_SHIFT)))


def after_asked_s(asked_s: float, draw: float) -> float:
    """Return the seconds to wait where the endpoint asked for `asked_s` (Retry-After).

    Never shorter than asked, up to the cap. Longer by up to a tenth, and at least by up to a second, so
    that machines that got the same answer don't all return at once.
    """
    requested_s = min(max(asked_s, 0.0), RETRY_AFTER_CAP_S)
    return requested_s + draw * max(1.0, requested_s / 10)


def next_try_s(failures: int, asked_s: float | None, draw: float) -> float:
    """Return the seconds to wait before the next try of a remote call.

    The wait that the endpoint asked for is a lower bound: 0, or a date in the past, must not end the back-off.

    Args:
        failures: Failures in a row so far, 1 or more.
        asked_s: Wait that the endpoint asked for (Retry-After, seconds), or None.
        draw: A random number from [0, 1).
    """
    backoff_s = full_jitter_s(failures, draw)
    return (
        backoff_s if asked_s is None else max(backoff_s, after_asked_s(asked_s, draw))
    )

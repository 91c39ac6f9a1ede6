"""Back-off state: failures in a row of a repeated action, and the wait after each."""

import random

from attrs import define, field

from dispatchd.protocol.backoff import CAP_S, after_asked_s, full_jitter_s


@define
class Retry:
    """Counts failures in a row. Waits grow from `base_s` to `cap_s` (seconds), and are drawn with full jitter."""

    _random: random.Random
    base_s: float = 1.0
    cap_s: float = CAP_S
    failures: int = field(default=0, init=False)
    wait_s: float = field(default=0.0, init=False)
    """Wait before the next try (seconds); 0 while nothing fails."""

    def failed(self, asked_s: float | None = None) -> float:
        """Count a failure, and return the wait before the next try (seconds).

        Args:
            asked_s: Wait that an endpoint has asked for (Retry-After, seconds), or None. It is a lower bound: 0, or a
                date in the past, must not end the back-off.
        """
        self.failures += 1
        draw, base_s, cap_s = self._random.random(), self.base_s, self.cap_s
        backoff_s = full_jitter_s(self.failures, draw, base_s=base_s, cap_s=cap_s)
        requested_s = 0.0 if asked_s is None else after_asked_s(asked_s, draw)
        self.wait_s = max(backoff_s, requested_s)
        return self.wait_s

    def worked(self) -> None:
        """Count from the beginning: the action has worked."""
        self.failures, self.wait_s = 0, 0.0

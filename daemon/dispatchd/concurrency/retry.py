"""Back-off state: failures in a row of a repeated action, and the wait after each."""

import random

from attrs import define, field

from dispatchd.protocol.backoff import CAP_S, full_jitter_s


@define
class Retry:
    """Counts failures in a row. Waits grow to `cap_s` (seconds) and are drawn with full jitter."""

    _random: random.Random
    cap_s: float = CAP_S
    failures: int = field(default=0, init=False)

    def failed(self) -> float:
        """Count a failure, and return the wait before the next try (seconds)."""
        self.failures += 1
        return full_jitter_s(self.failures, self._random.random(), cap_s=self.cap_s)

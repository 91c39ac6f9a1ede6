"""Length of a held pull: shorter after cuts on the way, longer again when polls come through.

Proxies close idle connections after a minute or two. A cut poll counts as empty, and the next one asks
for a shorter hold; see contracts/README.md, long poll.
"""

from typing import Final, Self

from attrs import evolve, frozen

FLOOR_S: Final = 15.0
"""Shortest hold to ask for after cuts (seconds), unless the configured one is shorter."""

_SHRINK: Final = 0.8
_GROW: Final = 1.25


@frozen(kw_only=True)
class Hold:
    """Hold to ask for next (`now_s`) and configured hold (`longest_s`), in seconds."""

    longest_s: float
    now_s: float

    @classmethod
    def of(cls, longest_s: float) -> Self:
        """Return the first hold."""
        return cls(longest_s=longest_s, now_s=longest_s)

    def up_to(self, longest_s: float) -> Self:
        """Return the hold, limited by the configured one, which a reload may have changed."""
        return self if longest_s == self.longest_s else self.of(longest_s)

    def after_cut(self, held_s: float) -> Self:
        """Return the hold after a poll was cut `held_s` seconds into it."""
        floor = min(FLOOR_S, self.longest_s)
        return evolve(self, now_s=max(floor, min(self.now_s, held_s) * _SHRINK))

    def after_full(self) -> Self:
        """Return the hold after a poll that came through."""
        return evolve(self, now_s=min(self.longest_s, self.now_s * _GROW))

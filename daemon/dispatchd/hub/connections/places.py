"""A number of places, of which the newest always gets one: who has had one for longest goes."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from attrs import define, field


@define
class Places:
    """So many may be under way at a time (count)."""

    most: int
    _taken: dict[anyio.CancelScope, None] = field(factory=dict, init=False)
    """Oldest first."""

    @contextmanager
    def one(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Give a place for the length of a block; `scope` around it is cancelled when others need it."""
        if len(self._taken) >= self.most:
            oldest = next(iter(self._taken))
            del self._taken[oldest]
            oldest.cancel()
        self._taken[scope] = None
        try:
            yield
        finally:
            self._taken.pop(scope, None)

"""Limited places: a new holder always gets one; if none is free, the oldest holder is cancelled."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from attrs import define, field


@define
class Places:
    """Places for at most `most` holders at the same time (count)."""

    most: int
    _taken: dict[anyio.CancelScope, None] = field(factory=dict, init=False)
    """Holders, oldest first."""

    @contextmanager
    def one(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Take a place until the block ends; `scope` around it is cancelled when others need the place."""
        if len(self._taken) >= self.most:
            oldest = next(iter(self._taken))
            del self._taken[oldest]
            oldest.cancel()
        self._taken[scope] = None
        try:
            yield
        finally:
            self._taken.pop(scope, None)

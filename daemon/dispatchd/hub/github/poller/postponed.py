"""Deliveries that are listed but couldn't be fetched: the time of the next try, and the end of trying. Pure.

None of them delays the others. Times are seconds since the epoch by GitHub's clock.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import define, evolve, field, frozen

from dispatchd.hub.github.poller.listed import Listed
from dispatchd.hub.github.poller.walk import PendingDelivery, Walk

NOT_THERE_S: Final = 3600.0
"""Longest time for which a listed delivery may be not found (seconds); some seconds are usual (chmouel/gosmee, replay.go)."""

UNCLEAR_S: Final = 24 * 3600.0
"""Longest time for which a delivery may fail otherwise while others can be fetched (seconds)."""

_TRIES: Final = 3
"""Failures in a row after which one more event may be passed over (count)."""

_MOST_PASSED: Final = 10
"""Most events that may be passed over in a row (count): each may take until its deadline."""

_SLOWEST_S: Final = 60.0
"""Longest wait for the next try (seconds)."""


@frozen(kw_only=True)
class _Later:
    """A postponed event, with the times of its first failure and its last try."""

    pending: PendingDelivery
    since: float
    tried_at: float

    def is_due(self, now: float) -> bool:
        """Return whether another try is due: at first often, then rarely."""
        wait_s = min(self.tried_at - self.since, _SLOWEST_S)
        # A clock that was set back must not delay it.
        return not self.tried_at <= now < self.tried_at + wait_s


@define
class Postponed:
    """Events that couldn't be fetched, in the memory of this process."""

    _later: dict[str, _Later] = field(factory=dict, init=False)
    _failures: Counter[str] = field(factory=Counter, init=False)
    _lost: set[int] = field(factory=set, init=False)

    def guids(self) -> list[str]:
        """Return the GUIDs of the postponed events."""
        return [*self._later]

    def times(self) -> list[float]:
        """Return the times at which they were delivered."""
        return [later.pending.delivered_at for later in self._later.values()]

    def is_lost(self, listed: Listed) -> bool:
        """Return whether a delivery attempt is given up; another one of the same event still counts."""
        return listed.id in self._lost

    def may_pass(self, guids: Sequence[str]) -> bool:
        """Count a failure to fetch the last of some events in a row; return whether the next may be tried.

        A failure of GitHub looks the same as that of one event, until another can be fetched. So the longer the first one
        fails, the more may be passed over.
        """
        first, last = guids[0], guids[-1]
        self._failures[last] += 1
        return len(guids) <= min(self._failures[first] // _TRIES, _MOST_PASSED)

    def put_off(
        self, pending: PendingDelivery, *, now: float, patience_s: float
    ) -> bool:
        """Postpone an event; return False if it is given up, because it has failed for longer than `patience_s` (seconds)."""
        before = self._later.get(pending.guid)
        since = before.since if before else now
        if now - since > patience_s:
            self._lost.update(pending.ids)
            self.forget([pending.guid])
            return False
        later = _Later(pending=pending, since=since, tried_at=now)
        self._later[pending.guid] = later
        return True

    def forget(self, guids: Iterable[str]) -> None:
        """Forget events that are finished."""
        for guid in guids:
            self._later.pop(guid, None)
            self._failures.pop(guid, None)

    def rejoin(self, walk: Walk, *, now: float) -> None:
        """Add to a walk the events that are due, and those of which it has found another attempt; all, if it has found others.

        Else a newer event would be processed before an older one that can perhaps be fetched by now.
        """
        has_more = not self._later.keys() >= walk.pending.keys()
        for guid, later in self._later.items():
            seen = walk.pending.pop(guid, None)
            tries = seen.ids if seen else ()
            ids = tuple(dict.fromkeys((*later.pending.ids, *tries)))
            has_new_try = len(ids) > len(later.pending.ids)
            if has_more or has_new_try or later.is_due(now):
                walk.pending[guid] = evolve(later.pending, ids=ids)

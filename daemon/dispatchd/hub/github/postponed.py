"""Deliveries that are listed and couldn't be had: when they are tried again, and when they are given up. Pure.

One of them never keeps the others waiting. Times are seconds since the epoch by GitHub's clock.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import define, evolve, field, frozen

from dispatchd.hub.github.listed import Listed
from dispatchd.hub.github.walk import Walk, Wanted

NOT_THERE_S: Final = 3600.0
"""How long a delivery may be listed and not be there (seconds); some seconds are usual (chmouel/gosmee, replay.go)."""

UNCLEAR_S: Final = 24 * 3600.0
"""How long one may fail otherwise while others can be fetched (seconds)."""

_TRIES: Final = 3
"""After how many failures in a row one more event may be passed (count)."""

_MOST_PASSED: Final = 10
"""How many may be passed in a row at most (count): each may take until its deadline."""

_SLOWEST_S: Final = 60.0
"""How long the next try is away at most (seconds)."""


@frozen(kw_only=True)
class _Later:
    """An event, since when it couldn't be had, and when it was tried last."""

    wanted: Wanted
    since: float
    tried_at: float

    def is_due(self, now: float) -> bool:
        """Return whether it is time for another try: at first often, then rarely."""
        wait_s = min(self.tried_at - self.since, _SLOWEST_S)
        # A clock that was set back must not keep it waiting.
        return not self.tried_at <= now < self.tried_at + wait_s


@define
class Postponed:
    """The events that couldn't be had, for as long as this process asks."""

    _later: dict[str, _Later] = field(factory=dict, init=False)
    _failures: Counter[str] = field(factory=Counter, init=False)
    _lost: set[int] = field(factory=set, init=False)

    def guids(self) -> list[str]:
        """Return which ones there are."""
        return [*self._later]

    def times(self) -> list[float]:
        """Return when they were delivered."""
        return [each.wanted.delivered_at for each in self._later.values()]

    def is_lost(self, listed: Listed) -> bool:
        """Return whether a try is given up; another one of the same event still counts."""
        return listed.id in self._lost

    def may_pass(self, guids: Sequence[str]) -> bool:
        """Note that fetching the last of some events, one after the other, has failed; return whether the next may try.

        What is everybody's trouble looks the same as that of one event, until another can be had. So the longer the
        first one fails, the more of them may be passed.
        """
        first, last = guids[0], guids[-1]
        self._failures[last] += 1
        return len(guids) <= min(self._failures[first] // _TRIES, _MOST_PASSED)

    def put_off(self, wanted: Wanted, *, now: float, patience_s: float) -> bool:
        """Keep one for later; False if it is given up, because that has lasted longer than some seconds."""
        before = self._later.get(wanted.guid)
        since = before.since if before else now
        if now - since > patience_s:
            self._lost.update(wanted.ids)
            self.forget([wanted.guid])
            return False
        later = _Later(wanted=wanted, since=since, tried_at=now)
        self._later[wanted.guid] = later
        return True

    def forget(self, guids: Iterable[str]) -> None:
        """Forget those that are dealt with."""
        for guid in guids:
            self._later.pop(guid, None)
            self._failures.pop(guid, None)

    def rejoin(self, walk: Walk, *, now: float) -> None:
        """Let those take part in a walk that are due, or that it has found another try of; all, if it has found more.

        Else the newer one would be taken in before the older one that could be had by now.
        """
        has_more = not self._later.keys() >= walk.found.keys()
        for guid, later in self._later.items():
            found = walk.found.pop(guid, None)
            tries = found.ids if found else ()
            ids = tuple(dict.fromkeys((*later.wanted.ids, *tries)))
            has_new_try = len(ids) > len(later.wanted.ids)
            if has_more or has_new_try or later.is_due(now):
                walk.found[guid] = evolve(later.wanted, ids=ids)

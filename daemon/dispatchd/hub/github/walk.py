"""One walk through GitHub's list of deliveries, and how far all of it is dealt with: pure decisions.

The list is newest first, has no filter, and its cursor leads only to what is older (contracts/README.md, deliveries
of GitHub). So a walk goes from the top down to what the walk before has seen, and somewhat beyond, because entries
turn up late. What it finds is taken in oldest first only once the walk is over: a newer commit may put an older one
out, never the other way round. However long the list has become, the same walk goes on until it is through; what
bounds it is GitHub's retention, and what it has to remember are a few numbers for each event that is wanted.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from attrs import define, evolve, field, frozen

from dispatchd.hub.github.listed import Listed

OVERLAP_S: Final = 600.0
"""How far a walk goes beyond the watermark (seconds): deliveries "can take a few minutes to appear" (GitHub docs,
"Viewing webhook deliveries")."""

MOST_PAGES: Final = 20
"""How many pages are read in one go (count): at 100 a page more than a day of most Apps."""


@frozen(kw_only=True)
class Wanted:
    """An event that isn't known yet. `ids` are GitHub's tries to deliver it, the oldest first."""

    guid: str
    delivered_at: float
    """Of its first try that is listed."""
    event: str = ""
    action: str = ""
    installation: int = 0
    ids: tuple[int, ...] = ()

    def also(self, other: Listed) -> "Wanted":
        """Return it with another try, which the list has later and is therefore older."""
        if other.id in self.ids:
            return self
        first = min(self.delivered_at, other.delivered_at)
        return evolve(self, ids=(other.id, *self.ids), delivered_at=first)


@define(kw_only=True)
class Walk:
    """A walk from the top of the list down to `floor`."""

    floor: float
    """It is over once something older was seen (seconds since the epoch, by GitHub's clock)."""
    began_at: float
    cursor: str = ""
    """Of the next page; empty on the first and after the last one."""
    pages: int = 0
    newest: float = 0.0
    """The newest time that was seen."""
    is_over: bool = False
    found: dict[str, Wanted] = field(factory=dict)
    """GUID -> event."""

    def see(self, page: Sequence[Listed], cursor: str, wanted: Iterable[str]) -> None:
        """Go on by a page.

        Args:
            page: Its entries, newest first.
            cursor: That of the next one; empty if there is none.
            wanted: The GUIDs among the entries whose events have to be fetched.
        """
        kept = set(wanted)
        for each in page:
            self.newest = max(self.newest, each.delivered_at)
            if each.guid in kept and each.delivered_at >= self.floor:
                self._find(each)
        self.pages += 1
        # The last entry decides: what is out of order is so by less than the overlap.
        below = bool(page) and page[-1].delivered_at < self.floor
        # A cursor that leads to itself would never end.
        self.is_over = below or cursor in ("", self.cursor)
        self.cursor = cursor

    def _find(self, listed: Listed) -> None:
        before = self.found.get(listed.guid)
        self.found[listed.guid] = (
            before.also(listed)
            if before
            else Wanted(
                guid=listed.guid,
                delivered_at=listed.delivered_at,
                event=listed.event,
                action=listed.action,
                installation=listed.installation,
                ids=(listed.id,),
            )
        )

    def in_order(self) -> list[Wanted]:
        """Return what was found, oldest first; of the same age what the list has lower is older."""
        lowest_first = [*self.found.values()][::-1]
        return sorted(lowest_first, key=lambda each: each.delivered_at)


def watermark(
    before: float, *, unfinished: Iterable[float], newest: float, now: float
) -> float:
    """Return up to when all is dealt with: the oldest event that isn't, else the newest entry seen.

    Args:
        before: The watermark of before.
        unfinished: When the events were delivered that are still to be fetched.
        newest: The newest time that a walk has seen.
        now: The time by GitHub's clock, beyond which nothing can have been seen.
    """
    oldest = min(unfinished, default=None)
    return min(max(before, newest), now) if oldest is None else min(oldest, now)

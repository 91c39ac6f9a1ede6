"""Walk through GitHub's list of deliveries, and the watermark of finished ones. Pure.

The list is newest first, has no filter, and its cursor leads only to older entries (contracts/README.md, deliveries
of GitHub). So a walk goes from the top down to the entries of the walk before, and somewhat beyond, because entries
appear late. Its events are processed oldest first, and only once the walk is over: a newer commit may supersede an
older one, never the other way round. However long the list is, the same walk continues to its end. GitHub's
retention limits its length. Its memory is a few numbers for each wanted event.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from attrs import define, evolve, field, frozen

from dispatchd.hub.github.poller.listed import Listed

OVERLAP_S: Final = 600.0
"""Time by which a walk goes beyond the watermark (seconds): deliveries "can take a few minutes to appear" (GitHub docs,
"Viewing webhook deliveries")."""

MOST_PAGES: Final = 20
"""Most pages that are read at once (count): at 100 entries a page more than a day of most Apps."""


@frozen(kw_only=True)
class PendingDelivery:
    """An event that isn't known yet. `ids` are GitHub's attempts to deliver it, oldest first."""

    guid: str
    delivered_at: float
    """Time of its first listed attempt."""
    event: str = ""
    action: str = ""
    installation: int = 0
    ids: tuple[int, ...] = ()

    def also(self, other: Listed) -> "PendingDelivery":
        """Return it with another attempt, which is older because it comes later in the list."""
        if other.id in self.ids:
            return self
        first = min(self.delivered_at, other.delivered_at)
        return evolve(self, ids=(other.id, *self.ids), delivered_at=first)


@define(kw_only=True)
class Walk:
    """A walk from the top of the list down to `floor`."""

    floor: float
    """Time at which it ends: it is over once an older entry was seen (seconds since the epoch, by GitHub's clock)."""
    began_at: float
    cursor: str = ""
    """Cursor of the next page; empty before the first and after the last one."""
    pages: int = 0
    newest: float = 0.0
    """Newest delivery time seen."""
    is_over: bool = False
    pending: dict[str, PendingDelivery] = field(factory=dict)
    """GUID -> event."""

    def see(self, page: Sequence[Listed], cursor: str, to_fetch: Iterable[str]) -> None:
        """Add a page.

        Args:
            page: Its entries, newest first.
            cursor: The cursor of the next page; empty if there is none.
            to_fetch: The GUIDs of the entries whose events have to be fetched.
        """
        guids = set(to_fetch)
        for listed in page:
            self.newest = max(self.newest, listed.delivered_at)
            if listed.guid in guids and listed.delivered_at >= self.floor:
                self._find(listed)
        self.pages += 1
        # The last entry decides: entries are out of order by less than the overlap.
        below = bool(page) and page[-1].delivered_at < self.floor
        # A cursor that leads to itself would never end.
        self.is_over = below or cursor in ("", self.cursor)
        self.cursor = cursor

    def _find(self, listed: Listed) -> None:
        before = self.pending.get(listed.guid)
        self.pending[listed.guid] = (
            before.also(listed)
            if before
            else PendingDelivery(
                guid=listed.guid,
                delivered_at=listed.delivered_at,
                event=listed.event,
                action=listed.action,
                installation=listed.installation,
                ids=(listed.id,),
            )
        )

    def in_order(self) -> list[PendingDelivery]:
        """Return the events found, oldest first; of two with the same age the one lower in the list is older."""
        lowest_first = [*self.pending.values()][::-1]
        return sorted(lowest_first, key=lambda delivery: delivery.delivered_at)


def watermark(
    before: float, *, unfinished: Iterable[float], newest: float, now: float
) -> float:
    """Return the time until which all is finished: that of the oldest unfinished event, else of the newest entry seen.

    Args:
        before: The previous watermark.
        unfinished: The delivery times of the events that are still to be fetched.
        newest: The newest delivery time that a walk has seen.
        now: The time by GitHub's clock; the watermark never passes it.
    """
    oldest = min(unfinished, default=None)
    return min(max(before, newest), now) if oldest is None else min(oldest, now)

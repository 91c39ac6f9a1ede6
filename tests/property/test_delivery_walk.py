"""The planning of a sweep against an oracle: whatever the list does, each event is taken in once, and the oldest first.

The oracle is a set: every event that is listed for as long as a few sweeps go through has to be taken in, and none
may be twice. Restarts lose what the process remembers and keep what is durable: the ledger and the watermark.
"""

import random
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from typing_extensions import override

from dispatchd.hub.github.poller.listed import Listed
from dispatchd.hub.github.poller.postponed import NOT_THERE_S, Postponed
from dispatchd.hub.github.poller.walk import MOST_PAGES, OVERLAP_S, Walk, watermark
from dispatchd.hub.storage.delivery_cursor import Loss, Progress
from support.state_machines import run_for_long
from support.torture import Torture

BEGAN_AT = 1_795_000_000.0
LATEST_S = 599.0
"""How late an entry may turn up (seconds): some minutes (GitHub docs), so that ten are enough."""


@define
class Entry:
    """An entry of the real list."""

    listed: Listed
    appears_at: float
    missing: int = 0


@define
class Model:
    """The hub's side, as `poller/sweep.py` composes the pure parts, with the ledger as a set."""

    entries: list[Entry]
    page_size: int
    chance: random.Random
    now: float = BEGAN_AT
    ledger: list[str] = field(factory=list)
    mark: float = BEGAN_AT
    walk: Walk | None = None
    reach: float = 0.0
    postponed: Postponed = field(factory=Postponed)

    def visible(self) -> list[Listed]:
        """Return the list: newest first, with small inversions, as no two servers agree on milliseconds."""
        found = [each.listed for each in self.entries if each.appears_at <= self.now]
        return sorted(found, key=lambda each: (-each.delivered_at, -each.id))

    def page(self, cursor: str) -> tuple[list[Listed], str]:
        found = self.visible()
        if cursor:
            at, number = cursor.split()
            last = (-float(at), -int(number))
            found = [each for each in found if (-each.delivered_at, -each.id) > last]
        page = found[: self.page_size]
        beyond = page[-1] if len(found) > len(page) else None
        return page, f"{beyond.delivered_at!r} {beyond.id}" if beyond else ""

    def look(self, pages: int) -> None:
        """Read some pages."""
        if self.walk is not None and self.walk.is_over:
            return
        for _ in range(pages):
            floor = (self.reach or self.mark) - OVERLAP_S
            walk = self.walk or Walk(floor=floor, began_at=self.now)
            self.walk = walk
            page, cursor = self.page(walk.cursor)
            wanted = [
                each.guid
                for each in page
                if each.guid not in self.ledger and not self.postponed.is_lost(each)
            ]
            walk.see(page, cursor, wanted)
            if walk.is_over:
                self.reach = max(self.reach, walk.newest)
                known = [each for each in self.postponed.guids() if each in self.ledger]
                self.postponed.forget(known)
                self.postponed.rejoin(walk, now=self.now)
                return

    def fetch(self, most: int) -> None:
        """Take some of what was found in, if the walk is through."""
        if self.walk is None or not self.walk.is_over:
            return
        order = self.walk.in_order()
        assert order == sorted(order, key=lambda each: each.delivered_at)
        for wanted in order[:most]:
            tries = [each for each in self.entries if each.listed.id in wanted.ids]
            there = False
            for each in tries:
                there = there or not each.missing
                each.missing = max(each.missing - 1, 0)
            if there:
                if wanted.guid not in self.ledger:
                    self.ledger.append(wanted.guid)
                self.postponed.forget([wanted.guid])
            else:
                self.postponed.put_off(wanted, now=self.now, patience_s=NOT_THERE_S)
            del self.walk.pending[wanted.guid]
        if not self.walk.pending:
            self.keep()
            self.walk = None
        else:
            self.keep()

    def keep(self) -> None:
        if self.walk is not None and not self.walk.is_over:
            return
        left = [] if self.walk is None else [*self.walk.pending.values()]
        unfinished = [each.delivered_at for each in left] + self.postponed.times()
        self.mark = watermark(
            self.mark, unfinished=unfinished, newest=self.reach, now=self.now
        )

    def die(self) -> None:
        """Forget what isn't durable."""
        self.walk, self.reach, self.postponed = None, 0.0, Postponed()


class Sweeps(RuleBasedStateMachine):
    """Events come, sweeps go on by any amount, and the process dies at any point."""

    @initialize(seed=st.integers(0, 2**32), page_size=st.integers(1, 4))
    def begin(self, seed: int, page_size: int) -> None:
        self.model = Model([], page_size, random.Random(seed))
        self.number = 0

    @rule(
        late_s=st.sampled_from([0.0, 0.0, 1.0, 200.0, LATEST_S]),
        missing=st.sampled_from([0, 0, 0, 1, 3]),
        new_id=st.booleans(),
    )
    def event(self, late_s: float, missing: int, *, new_id: bool) -> None:
        self.number += 1
        at = self.model.now
        base = 3804004623172239366 if new_id else 199287304442
        listed = Listed(
            id=base + self.number, guid=f"g{self.number}", delivered_at=at, event="push"
        )
        self.model.entries.append(Entry(listed, at + late_s, missing))

    @precondition(lambda self: bool(self.model.entries))
    @rule(data=st.data())
    def redelivery(self, data: st.DataObject) -> None:
        before = data.draw(st.sampled_from(self.model.entries)).listed
        self.number += 1
        listed = evolve(
            before, id=199287304442 + self.number, delivered_at=self.model.now
        )
        self.model.entries.append(Entry(listed, self.model.now))

    @rule(seconds=st.sampled_from([0.5, 15.0, 300.0, 1500.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.model.now += seconds

    @rule(pages=st.integers(1, 5), most=st.integers(0, 5))
    def sweep(self, pages: int, most: int) -> None:
        self.model.look(pages)
        self.model.fetch(most)

    @rule()
    def die(self) -> None:
        self.model.die()

    @invariant()
    def none_is_doubled_and_the_watermark_passes_none(self) -> None:
        model = getattr(self, "model", None)
        if model is None:
            return
        assert len(model.ledger) == len({*model.ledger})
        for each in model.entries:
            done = each.listed.guid in model.ledger
            if done or model.postponed.is_lost(each.listed):
                continue
            # Wherever the process dies now, the next walk goes that far down.
            assert each.listed.delivered_at >= model.mark - OVERLAP_S

    @override
    def teardown(self) -> None:
        """Let things calm down: then everything is there."""
        model = getattr(self, "model", None)
        if model is None:
            return
        model.now += LATEST_S + 1
        for each in model.entries:
            each.missing = 0
        for _ in range(5):
            while model.walk is None or not model.walk.is_over:
                model.look(MOST_PAGES)
            model.fetch(10**6)
            model.now += 61
        wanted = {
            each.listed.guid
            for each in model.entries
            if not model.postponed.is_lost(each.listed)
        }
        assert wanted - {*model.ledger} == set()
        if not model.postponed.guids():
            newest = max(
                (each.listed.delivered_at for each in model.entries), default=0
            )
            assert model.mark == max(newest, BEGAN_AT)


TestSweeps = Sweeps.TestCase
TestSweeps.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_sweeps_for_long(torture: Torture) -> None:
    run_for_long(Sweeps, TestSweeps.settings, torture, examples=1_500)


@given(
    outages=st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), max_size=40),
    retention_s=st.floats(60, 1e6),
)
def test_every_second_is_either_looked_at_in_time_or_told_as_lost(
    outages: list[tuple[float, float]], retention_s: float
) -> None:
    """Up and down in turn; a time counts as seen if a sweep was made while GitHub still had it."""
    progress, now = Progress(started_at=BEGAN_AT, watermark=BEGAN_AT), BEGAN_AT
    lost: list[Loss] = []
    for down_s, up_s in outages:
        seen_until = progress.complete_until
        now += down_s
        if now - retention_s > seen_until:
            lost.append(Loss(since=seen_until, until=now - retention_s))
        progress = progress.with_loss(kept_since=now - retention_s)
        now += up_s
        progress = evolve(progress, swept_at=now)

    assert list(progress.losses) == lost[-20:]
    assert Progress.read(progress.as_mark()) == progress


@given(
    times=st.lists(st.floats(1, 1e6), min_size=2, max_size=8),
    retention_s=st.floats(1, 1e5),
)
def test_a_loss_that_grows_while_github_is_away_is_one(
    times: list[float], retention_s: float
) -> None:
    progress = Progress(started_at=BEGAN_AT, watermark=BEGAN_AT)
    for now in sorted(times):
        progress = progress.with_loss(kept_since=BEGAN_AT + now - retention_s)

    longest = max(times) - retention_s
    expected: tuple[Any, ...] = (
        (Loss(since=BEGAN_AT, until=BEGAN_AT + max(times) - retention_s),)
        if longest > 0 and BEGAN_AT + longest > BEGAN_AT
        else ()
    )
    assert progress.losses == expected

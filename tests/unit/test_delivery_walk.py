"""Single rules of the walk through GitHub's list, and of what couldn't be had."""

from itertools import pairwise
from typing import Any

import pytest

from dispatchd.hub.github.poller.listed import (
    Listed,
    Unreadable,
    arrival,
    has_payload,
    read_page,
)
from dispatchd.hub.github.poller.postponed import NOT_THERE_S, UNCLEAR_S, Postponed
from dispatchd.hub.github.poller.walk import OVERLAP_S, PendingDelivery, Walk, watermark

NOW = 1_795_000_000.0


def listed(number: int, ago_s: float, guid: str = "") -> Listed:
    return Listed(
        id=number, guid=guid or f"g{number}", delivered_at=NOW - ago_s, event="push"
    )


def test_a_walk_goes_on_to_ten_minutes_beyond_what_was_seen_before() -> None:
    walk = Walk(floor=NOW - OVERLAP_S, began_at=NOW)

    walk.see([listed(3, 0), listed(2, 599)], "c1", ["g3", "g2"])
    went_on = not walk.is_over
    walk.see([listed(1, 599.5), listed(0, 601)], "c2", ["g1", "g0"])

    assert OVERLAP_S == 600
    assert went_on
    assert walk.is_over
    assert [each.guid for each in walk.in_order()] == ["g1", "g2", "g3"]


@pytest.mark.parametrize("cursor", ["", "same"])
def test_a_walk_ends_where_the_list_does(cursor: str) -> None:
    walk = Walk(floor=0, began_at=NOW, cursor="same")

    walk.see([listed(1, 0)], cursor, ["g1"])

    assert walk.is_over


def test_nothing_that_is_seen_moves_the_watermark_into_the_future_or_back() -> None:
    assert watermark(NOW - 9, unfinished=[], newest=NOW + 1e6, now=NOW) == NOW
    assert watermark(NOW - 9, unfinished=[], newest=NOW - 99, now=NOW) == NOW - 9
    assert watermark(NOW - 9, unfinished=[NOW - 50], newest=NOW, now=NOW) == NOW - 50


def test_what_is_not_there_is_given_up_after_an_hour_and_not_before() -> None:
    postponed, wanted = (
        Postponed(),
        PendingDelivery(guid="g", delivered_at=NOW, ids=(1, 2)),
    )

    for at in (0, 1800, 3600):
        assert postponed.put_off(wanted, now=NOW + at, patience_s=NOT_THERE_S)
    assert not postponed.put_off(wanted, now=NOW + 3601, patience_s=NOT_THERE_S)

    assert (NOT_THERE_S, UNCLEAR_S) == (3600, 86_400)
    assert [postponed.is_lost(listed(each, 0, "g")) for each in (1, 2, 3)] == [
        *(True, True),
        False,
    ]
    assert postponed.times() == []


def test_what_is_not_there_is_tried_often_at_first_and_then_once_a_minute() -> None:
    postponed, tries = Postponed(), []
    wanted = PendingDelivery(guid="g", delivered_at=NOW, ids=(1,))
    postponed.put_off(wanted, now=NOW, patience_s=NOT_THERE_S)
    for second in range(1, 601):
        walk = Walk(floor=0, began_at=NOW)
        postponed.rejoin(walk, now=NOW + second)
        if walk.pending:
            tries.append(second)
            postponed.put_off(wanted, now=NOW + second, patience_s=NOT_THERE_S)

    assert tries[:6] == [1, 2, 4, 8, 16, 32]
    assert {after - before for before, after in pairwise(tries[7:])} == {60}


def test_a_new_try_of_it_makes_it_due_at_once() -> None:
    postponed = Postponed()
    wanted = PendingDelivery(guid="g", delivered_at=NOW, ids=(1,))
    postponed.put_off(wanted, now=NOW, patience_s=NOT_THERE_S)
    postponed.put_off(wanted, now=NOW + 50, patience_s=NOT_THERE_S)
    quiet, busy = Walk(floor=0, began_at=NOW), Walk(floor=0, began_at=NOW)
    busy.see([listed(7, -51, "g")], "", ["g"])

    for walk in (quiet, busy):
        postponed.rejoin(walk, now=NOW + 51)

    assert quiet.pending == {}
    assert busy.pending["g"].ids == (1, 7)
    assert busy.pending["g"].delivered_at == NOW


def test_an_entry_that_cannot_be_asked_for_is_left_out_and_a_bad_time_is_its_neighbours() -> (
    None
):
    good: dict[str, Any] = {
        "id": 2**62,
        "guid": "a",
        "delivered_at": "2026-11-25T09:00:00Z",
    }
    found = read_page(
        [
            good,
            {**good, "id": "7"},
            {**good, "guid": None},
            {"id": 1, "guid": "b", "delivered_at": "soon", "action": None},
            {**good, "guid": "c", "delivered_at": "2026-11-25T08:00:00"},
        ],
        now=NOW,
    )

    assert [(each.id, each.guid) for each in found] == [
        (2**62, "a"),
        (1, "b"),
        (2**62, "c"),
    ]
    first, second, third = (each.delivered_at for each in found)
    assert first == second == third + 3600
    assert read_page([{"id": 1, "guid": "b"}], now=NOW)[0].delivered_at == NOW


def test_a_payload_keeps_its_text_where_it_comes_as_one() -> None:
    text = '{"ref":  "refs/heads/main", "n": 1.10}'
    document = {"event": "push"}

    def with_payload(payload: Any) -> Any:
        return {**document, "request": {"headers": None, "payload": payload}}

    kept = arrival("integration/1", "g", "push", with_payload(text))
    made = arrival("integration/1", "g", "push", with_payload({"ä": "\ud800"}))

    assert kept.payload == text
    assert made.payload == '{"\\u00e4":"\\ud800"}'
    assert not has_payload(with_payload(None))
    assert not has_payload(with_payload(""))
    assert has_payload(with_payload([]))
    for bad in ("{", "[]", 7, [1], '{"a": NaN}'):
        with pytest.raises(Unreadable):
            arrival("integration/1", "g", "push", with_payload(bad))

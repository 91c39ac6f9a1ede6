import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from dispatchd.agent.domain.long_poll import FLOOR_S, Hold
from dispatchd.concurrency.retry import Retry
from dispatchd.protocol.backoff import (
    CAP_S,
    RETRY_AFTER_CAP_S,
    after_asked_s,
    full_jitter_s,
    next_try_s,
)

draws = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(failures=st.integers(1, 10**6), draw=draws)
def test_no_wait_is_longer_than_the_cap(failures: int, draw: float) -> None:
    assert 0 <= full_jitter_s(failures, draw) <= CAP_S


def test_jitter_is_drawn_after_the_cap() -> None:
    assert full_jitter_s(50, 0.5) == CAP_S / 2


def test_the_bound_doubles() -> None:
    assert [full_jitter_s(n, 1.0) for n in (1, 2, 3, 4)] == [1, 2, 4, 8]


@given(asked=st.floats(min_value=0, max_value=10**9), draw=draws)
def test_an_asked_wait_is_kept_up_to_its_cap(asked: float, draw: float) -> None:
    delay = after_asked_s(asked, draw)

    assert min(asked, RETRY_AFTER_CAP_S) <= delay <= RETRY_AFTER_CAP_S * 1.1 + 1


def test_what_the_endpoint_asks_for_outranks_the_backoff() -> None:
    assert next_try_s(1, 30.0, 0.0) == 30.0
    assert next_try_s(1, None, 0.5) == 0.5


class Half(random.Random):
    """Draws the middle."""

    @override
    def random(self) -> float:
        return 0.5


def test_waits_of_a_retry_grow_to_its_cap_until_the_action_works() -> None:
    retry = Retry(Half(), base_s=4.0, cap_s=10.0)

    assert [retry.failed() for _ in range(3)] == [2.0, 4.0, 5.0]
    assert (retry.failures, retry.wait_s) == (3, 5.0)
    retry.worked()
    assert (retry.failures, retry.wait_s) == (0, 0.0)
    assert retry.failed() == 2.0


def test_a_retry_waits_as_long_as_it_is_asked_to() -> None:
    retry = Retry(Half(), cap_s=5.0)

    assert retry.failed(30.0) == 30.0 + 0.5 * 3.0
    assert retry.failed() == 1.0


@pytest.mark.parametrize("asked", [0.0, -5.0, 0.5])
def test_a_wait_of_nothing_does_not_end_the_backoff(asked: float) -> None:
    retry = Retry(Half())
    waits = [next_try_s(failures, asked, 0.5) for failures in range(1, 12)]

    assert waits == sorted(waits)
    assert waits[-1] == CAP_S / 2
    assert [retry.failed(asked) for _ in waits] == waits


def test_the_hold_shrinks_when_it_is_cut_and_grows_back() -> None:
    hold = Hold.of(50)

    cut = hold.after_cut(30)
    assert cut.now_s == 24
    for _ in range(10):
        cut = cut.after_cut(1)
    assert cut.now_s == FLOOR_S
    for _ in range(10):
        cut = cut.after_full()
    assert cut == hold


@pytest.mark.parametrize("longest", [0, 5])
def test_a_short_hold_is_never_made_longer_by_cuts(longest: float) -> None:
    assert Hold.of(longest).after_cut(1).now_s <= longest

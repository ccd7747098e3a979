"""How often a Postgres that crashes is started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgidle.lifecycle.restarts import MOST_CRASHES, MOST_FAILED_STARTS, WINDOW, Restarts


def test_the_first_crash_is_restarted_at_once_and_later_ones_wait_longer() -> None:
    restarts, delays = Restarts(), []
    for moment in range(4):
        restarts = restarts.crashed(float(moment), was_ready=True)
        delays.append(restarts.delay)
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert not restarts.exhausted


def test_too_many_crashes_in_the_window_exhaust() -> None:
    restarts = Restarts()
    for moment in range(MOST_CRASHES):
        assert not restarts.exhausted
        restarts = restarts.crashed(float(moment), was_ready=True)
    assert restarts.exhausted


@given(st.floats(min_value=0, max_value=1e6))
def test_crashes_far_apart_never_exhaust(start: float) -> None:
    restarts = Restarts()
    for moment in range(3 * MOST_CRASHES):
        restarts = restarts.crashed(start + moment * (WINDOW + 1), was_ready=True)
        assert not restarts.exhausted
        assert restarts.delay == 0


def test_starts_that_never_get_ready_exhaust_sooner_and_one_that_did_forgives() -> None:
    restarts = Restarts()
    for moment in range(MOST_FAILED_STARTS - 1):
        restarts = restarts.crashed(moment * WINDOW, was_ready=False)
    assert not restarts.exhausted
    assert restarts.crashed(1e6, was_ready=False).exhausted
    assert not restarts.started().crashed(1e6, was_ready=False).exhausted
    assert not restarts.crashed(1e6, was_ready=True).crashed(2e6, was_ready=False).exhausted

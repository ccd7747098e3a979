"""What a span of time adds up to, as totals of days that can be kept and added."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_history_timeline import scripts

from harness.journal_script import DAY, MIDNIGHT, Script
from pgidle.history.tally import (
    MOST_DAYS,
    MOST_WAKERS,
    OTHERS,
    Days,
    Histogram,
    Tally,
    as_json,
    count_in,
    day_of,
    from_json,
    parts,
    spend_in,
)
from pgidle.history.timeline import Condition, Episode, Timeline

TODAY = day_of(MIDNIGHT)


def tallied(script: Script) -> Days:
    days: Days = {}
    timeline = Timeline()
    for event in script.events:
        for episode in timeline.add(event):
            spend_in(days, episode)
        count_in(days, event)
    for episode in timeline.up_to(script.wall, is_running=True):
        spend_in(days, episode)
    return days


def test_a_day() -> None:
    script = Script().started().woken("start", took=0.4).wait(100)
    script.slept(shutdown=0.3, cut=["a"], cut_count=30).wait(1000)
    script.woken(by="10.0.0.3", took=0.6).wait(1).note("client", client='app "web"').wait(99)
    script.note("crashed", why="signal 9").woken("crash", took=2).wait(8)
    script.note("start-failed", why="x", count=4)
    one = tallied(script)[TODAY]
    assert {name.value: round(seconds, 3) for name, seconds in one.seconds.items()} == {
        "waking": 3.0,
        "awake": 208.0,
        "asleep": 1000.0,
    }
    assert one.wakes == {"start": 1, "client": 1, "crash": 1}
    assert one.wakers == {'app "web"': 1}
    assert (one.sleeps, one.crashes, one.failed_starts, one.sessions_cut) == (1, 1, 1, 30)
    assert (one.wait.count, one.took.count, one.took.longest, one.shutdown.total) == (1, 3, 2.0, 0.3)
    assert one.last_sleep == MIDNIGHT + 100.4


def test_an_episode_is_divided_at_midnight() -> None:
    script = Script(MIDNIGHT - 100).started().woken("start").wait(50).slept().wait(2 * DAY).woken().wait(5)
    days = tallied(script)
    seconds = {
        day - TODAY: {name.value: round(value, 1) for name, value in one.seconds.items()}
        for day, one in days.items()
    }
    assert seconds == {
        -1: {"waking": 0.5, "awake": 50, "asleep": 49.5},
        0: {"asleep": DAY},
        1: {"asleep": DAY - 49.5, "waking": 0.5, "awake": 5},
    }
    assert days[TODAY + 1].wakes == {"client": 1}
    assert days[TODAY].wakes == {}


@given(st.floats(0, 1e10), st.floats(0, 1e6))
def test_parts_add_up(begin: float, seconds: float) -> None:
    found = [*parts(begin, begin + seconds)]
    assert sum(part for _, part in found) == pytest.approx(seconds, abs=1e-3)
    assert all(0 < part <= DAY for _, part in found)
    assert [day for day, _ in found] == sorted({day for day, _ in found})


@given(scripts())
def test_the_days_add_up_to_the_span(script: Script) -> None:
    days = tallied(script)
    assert sum(sum(one.seconds.values()) for one in days.values()) == pytest.approx(script.wall - MIDNIGHT)
    for one in days.values():
        assert sum(one.seconds.values()) <= DAY + 1e-3


@given(scripts(jumps=True))
def test_what_is_kept_is_the_same(script: Script) -> None:
    for one in tallied(script).values():
        again = from_json(json.loads(json.dumps(as_json(one))))
        assert as_json(again) == as_json(one)


def test_a_clock_at_another_year_makes_no_days_without_number() -> None:
    days: Days = {}
    spend_in(days, Episode(Condition.ASLEEP, MIDNIGHT, MIDNIGHT + 1e11))
    assert len(days) <= MOST_DAYS + 1


def test_only_so_many_clients_are_told_apart() -> None:
    one = Tally()
    for number in range(MOST_WAKERS + 7):
        one.woken_by(f"10.0.0.{number}")
    one.woken_by("10.0.0.0")
    one.woken_by("")
    assert len(one.wakers) == MOST_WAKERS + 1
    assert one.wakers[OTHERS] == 7
    assert one.wakers["10.0.0.0"] == 2


def test_tallies_are_added() -> None:
    one, other = Tally(), Tally()
    for tally, times in ((one, 1), (other, 2)):
        tally.spend(Condition.AWAKE, 10.0 * times)
        tally.woken_by("a", times)
        tally.woken_by("b" * times)
        tally.wakes["client"] += times
        tally.wait.add(0.2 * times)
        tally.sleeps += times
        tally.last_wake = 5.0 * times
    one.merge(other)
    assert one.seconds == {Condition.AWAKE: 30.0}
    assert one.wakers == {"a": 3, "b": 1, "bb": 1}
    assert (one.wakes["client"], one.sleeps, one.last_wake) == (3, 3, 10.0)
    assert (one.wait.count, one.wait.longest) == (2, 0.4)
    assert one.wait.total == pytest.approx(0.6)


@given(st.lists(st.none() | st.floats(0, 1000)))
def test_a_histogram_counts_each_once(durations: list[float | None]) -> None:
    one = Histogram()
    for seconds in durations:
        one.add(seconds)
    known = [seconds for seconds in durations if seconds is not None]
    assert (one.count, one.longest) == (len(known), max(known, default=0.0))
    assert one.total == pytest.approx(sum(known))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sleeps", -1),
        ("sleeps", True),
        ("seconds", {"dreaming": 1}),
        ("seconds", {"awake": float("nan")}),
        ("wakes", {"client": 1.5}),
        ("wait", {"buckets": [1], "total": 1, "longest": 1}),
        ("last_wake", "x"),
    ],
)
def test_nonsense_is_no_tally(name: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        from_json(as_json(Tally()) | {name: value})

"""The replay of the journal against other timeouts, compared with what happens under them."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_history_timeline import episodes, scripts

from harness.journal_script import DAY, MIDNIGHT, Script
from pgidle.history.what_if import WORTH, Advice, Outcome, as_it_was, known_share, recommend, replay

GAPS = st.lists(st.integers(2, 3000).map(float), min_size=1, max_size=30)
TIMEOUTS = st.sampled_from([10.0, 60.0, 300.0, 900.0, math.inf])


def lived(gaps: list[float], timeout: float, *, min_awake: float = 0.0) -> Script:
    """A Postgres that is used for an instant after each of these idle times, and sleeps after `timeout`."""
    script = Script().started(None if math.isinf(timeout) else timeout, min_awake).woken("start", took=0)
    awake_since = script.wall
    for gap in gaps:
        sleeps_at = max(script.wall + timeout, awake_since + min_awake)
        if script.wall + gap <= sleeps_at:
            script.wait(gap).note("use", idle=gap, count=1, by="a")
        else:
            used_at = script.wall
            script.wait(sleeps_at - used_at).slept(idle=sleeps_at - used_at)
            script.wait(used_at + gap - sleeps_at).woken(took=0)
            awake_since = script.wall
    return script


def outcome(script: Script, timeout: float) -> tuple[float, int]:
    one = replay(episodes(script), 0.0, timeout)
    assert one.idle_timeout == timeout
    return one.asleep, one.wakes


def actual(script: Script) -> tuple[float, int]:
    one = as_it_was(episodes(script), 0.0, 0.0)
    return one.asleep, one.wakes


@given(GAPS, TIMEOUTS, st.sampled_from([0.0, 30.0, 500.0]))
def test_with_the_timeout_in_force_the_replay_gives_what_happened(
    gaps: list[float], timeout: float, min_awake: float
) -> None:
    script = lived(gaps, timeout, min_awake=min_awake)
    asleep, wakes = outcome(script, timeout)
    assert (asleep, wakes) == (pytest.approx(actual(script)[0]), actual(script)[1])


@given(scripts(), st.floats(0, 1e6))
def test_whatever_happened_the_timeout_in_force_changes_nothing(script: Script, since: float) -> None:
    """Crashes, orders, holds, stops, kills, lost lines: all with 300 s, and some with a flapping client."""
    for line in script.events:
        assume(line.kind.value != "settings")
    found = episodes(script)
    assert replay(found, MIDNIGHT + since, 300.0) == as_it_was(found, MIDNIGHT + since, 300.0)


@given(GAPS, TIMEOUTS, TIMEOUTS)
def test_with_another_timeout_it_gives_what_would_have_happened(
    gaps: list[float], timeout: float, other: float
) -> None:
    """Exactly, for a Postgres that stops and starts at once, and whose every use is on record."""
    assume(all(abs(gap - timeout) > 2.5 for gap in gaps))
    asleep, wakes = outcome(lived(gaps, timeout), other)
    expected = actual(lived(gaps, other))
    assert (asleep, wakes) == (pytest.approx(expected[0]), expected[1])


def test_a_sleep_that_was_asked_for_is_asked_for_under_any_timeout() -> None:
    script = Script().started(300).woken("start").wait(20).slept(idle=20).wait(1000).woken()
    assert outcome(script, 3600.0) == (1000, 1)
    assert outcome(script, 5.0) == (1015, 1)


def test_a_sleep_that_a_hold_put_off_comes_no_sooner() -> None:
    script = Script().started(300).woken("start").wait(4000).slept(idle=4000).wait(1000).woken()
    assert outcome(script, 10.0) == (1000, 1)
    assert outcome(script, 4500.0) == (500, 1)
    assert outcome(script, 6000.0) == (0, 0)


def test_an_idle_time_beyond_the_timeout_had_another_reason() -> None:
    script = Script().started(300).woken("client").wait(4000).note("use", idle=4000, count=1).wait(1)
    assert outcome(script, 300.0) == outcome(script, 10.0) == (0, 1)


def test_uses_that_are_alike_count_as_often_as_they_were() -> None:
    script = Script().started(300).woken("client").wait(600).note("use", idle=100, count=6).wait(1)
    assert outcome(script, 60.0) == (240, 7)
    assert outcome(script, 100.0) == (0, 1)


def test_no_sleep_sooner_after_waking_than_min_awake() -> None:
    script = Script().started(300, 200).woken("start", took=0).wait(300).slept(idle=300).wait(1000).woken()
    assert outcome(script, 10.0) == (1100, 1)


def test_stopping_takes_its_time() -> None:
    script = Script().started(300).woken("client").wait(100).note("use", idle=100).wait(300)
    script.slept(idle=290, shutdown=10).wait(1000).woken()
    assert outcome(script, 40.0)[0] == pytest.approx(1000 + 250 + 50)
    short = Script().started(300).woken("client").wait(100).note("use", idle=100).wait(300)
    assert outcome(short.slept(idle=300, shutdown=10), 40.0)[0] == pytest.approx(50 + 260)


def test_what_a_flapping_client_adds_grows_with_the_timeout() -> None:
    script = Script().started(300).woken("client").note("flapping", client="a", extra=300)
    script.wait(600).slept(idle=600).wait(1000).woken()
    assert outcome(script, 300.0) == (1000, 2)
    assert outcome(script, 60.0) == (1480, 2)


def test_where_the_settings_are_not_known_nothing_changes() -> None:
    script = Script().started(300).woken("start").wait(300).slept().wait(1000).woken().wait(100)
    del script.lines[0]
    found = episodes(script)
    assert replay(found, 0.0, 10.0).asleep == 1000
    assert known_share(found) == 0
    script = Script().started(300).woken("start").wait(300).slept().wait(1000)
    assert known_share(episodes(script)) == 1
    assert known_share([]) == 0


def test_the_span_begins_in_the_middle_of_a_sleep() -> None:
    script = Script().started(300).woken("start", took=0).wait(300).slept().wait(1000).woken().wait(9)
    found = episodes(script)
    assert replay(found, MIDNIGHT + 800, 300.0).asleep == 500
    assert replay(found, MIDNIGHT + 800, 900.0).asleep == 400
    assert as_it_was(found, MIDNIGHT + 1305, 300.0).wakes == 0


def test_a_shorter_timeout_is_recommended_while_each_wake_buys_enough() -> None:
    off = Outcome(math.inf, 0.0, 0)
    long = Outcome(900.0, 100 * WORTH, 50)
    middle = Outcome(300.0, 130 * WORTH, 80)
    short = Outcome(60.0, 140 * WORTH, 200)
    assert recommend(middle, [short, long, off], DAY) == Advice(
        middle, "no other one buys enough sleep with each wake that a client feels"
    )
    advice = recommend(long, [short, middle], DAY)
    assert advice == Advice(
        middle, "compared with 15min it sleeps 7h 30min more and costs clients 30 waits, 15min per wait"
    )
    advice = recommend(short, [middle], DAY)
    assert advice == Advice(
        middle,
        "compared with 1min it spares clients 120 waits and costs 2h 30min of sleep, 1min 15s per wait",
    )
    free = Outcome(60.0, 140 * WORTH, 80)
    assert recommend(middle, [free], DAY).why.endswith("sleeps 2h 30min more, and clients wait as often")
    assert recommend(off, [Outcome(60.0, 0.0, 0)], DAY).best is None


def test_nothing_is_recommended_from_too_little() -> None:
    now, other = Outcome(300.0, 0.0, 0), Outcome(60.0, 5 * WORTH, 1)
    assert recommend(now, [other], DAY).best == other
    assert recommend(now, [other], DAY - 1) == Advice(None, "less than a day is on record")
    assert recommend(None, [other], DAY) == Advice(None, "the settings in force are not on record")


@given(GAPS, TIMEOUTS, st.lists(TIMEOUTS))
def test_what_is_recommended_is_one_of_them(gaps: list[float], timeout: float, others: list[float]) -> None:
    found = episodes(lived(gaps, timeout))
    now = as_it_was(found, 0.0, timeout)
    outcomes = [replay(found, 0.0, one) for one in others]
    advice = recommend(now, outcomes, DAY)
    assert advice.best is None or advice.best in (now, *outcomes)


def test_a_sleep_within_a_time_awake_comes_no_sooner_than_min_awake_after_the_one_before() -> None:
    script = Script().started(300, 200).woken("client").wait(250).note("use", idle=250, count=1).wait(1)
    assert outcome(script, 10.0) == (50, 2)
    script = Script().started(300, 200).woken("client").wait(150).note("use", idle=150, count=1).wait(1)
    assert outcome(script, 10.0) == (0, 1)


def test_what_was_before_the_span_does_not_count() -> None:
    script = Script().started(300).woken("client", took=0).wait(250).note("use", idle=250).wait(900)
    found = episodes(script)
    assert replay(found, MIDNIGHT, 50.0) == Outcome(50.0, 200, 2)
    assert replay(found, MIDNIGHT + 500, 50.0) == Outcome(50.0, 0, 0)


def test_a_sleep_of_which_the_idle_time_is_not_on_record_began_with_the_timeout() -> None:
    script = Script().started(300).woken("start").wait(400).slept(idle=None).wait(1000).woken()
    assert outcome(script, 400.0) == (900, 1)
    assert outcome(script, math.inf) == (0, 0)
    script = Script().started(None).woken("start").wait(400).slept(idle=None).wait(1000).woken()
    assert outcome(script, 400.0) == (1000, 1)

"""From events to episodes: what Postgres did when, whatever is missing, repeated, or noted by a clock that was set."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.journal_script import MIDNIGHT, Script
from pgidle.history.events import Terms
from pgidle.history.timeline import Condition, Timeline, kept, restored

if TYPE_CHECKING:
    from pgidle.history.timeline import Episode

W, A, S, F, X, U = (
    Condition.WAKING,
    Condition.AWAKE,
    Condition.ASLEEP,
    Condition.FAILING,
    Condition.STOPPED,
    Condition.UNKNOWN,
)


def episodes(script: Script, timeline: Timeline | None = None, *, is_running: bool = True) -> list[Episode]:
    timeline = timeline or Timeline()
    found = [episode for event in script.events for episode in timeline.add(event)]
    return [*found, *timeline.up_to(script.wall, is_running=is_running)]


def shape(found: list[Episode]) -> list[tuple[Condition, float]]:
    return [(one.condition, round(one.seconds, 3)) for one in found]


def assert_gapless(found: list[Episode]) -> None:
    for before, after in itertools.pairwise(found):
        assert after.begin == pytest.approx(before.end, abs=1e-5), (before, after)


def test_a_day_in_the_life() -> None:
    script = Script().started().woken("start", took=0.4)
    script.wait(3).note("client", client='app "web"', application="web").wait(50)
    script.note("use", idle=50, count=3, by='app "web"').wait(300)
    script.slept(checkpoint=0.1, shutdown=0.2, cut=["a", "b"]).wait(4000)
    script.woken(took=0.6).wait(1).note("client", client='app "psql"').wait(10)
    found = episodes(script)
    assert shape(found) == [(W, 0.4), (A, 353), (S, 4000), (W, 0.6), (A, 11)]
    assert_gapless(found)
    first, asleep, second = found[1], found[2], found[4]
    assert (first.cause, first.waker, first.took, first.wait) == ("start", "", 0.4, None)
    assert [(use.idle, use.count, use.by) for use in first.uses] == [(50, 3, 'app "web"')]
    assert (asleep.idle, asleep.checkpoint, asleep.shutdown, asleep.cut) == (300, 0.1, 0.2, ("a", "b"))
    assert (second.cause, second.by, second.waker, second.wait) == (
        "client",
        ("10.0.0.3",),
        'app "psql"',
        0.6,
    )
    assert [one.lasts for one in found] == [False] * 4 + [True]


def test_a_crash() -> None:
    script = (
        Script().started().woken("start").wait(100).note("crashed", why="signal 9").woken("crash", took=2)
    )
    found = episodes(script.wait(5))
    assert shape(found) == [(W, 0.5), (A, 100), (W, 2), (A, 5)]
    assert (found[2].why, found[3].cause, found[3].waker) == ("signal 9", "crash", "")


def test_a_crash_while_it_starts_is_part_of_the_start() -> None:
    script = Script().started().wait(1).note("crashed", why="signal 9").woken("crash", took=2)
    assert shape(episodes(script)) == [(W, 1), (W, 2), (A, 0)]


def test_failed_starts() -> None:
    script = Script().started().woken("start").slept().wait(50)
    script.note("start-failed", why="disk full", count=1).wait(20)
    script.note("start-failed", why="no permission", count=7).woken(took=30)
    found = episodes(script.wait(5))
    assert shape(found) == [(W, 0.5), (A, 0), (S, 50), (F, 50), (A, 5)]
    assert found[3].why == "disk full"


def test_a_stop_and_a_failure() -> None:
    script = Script().started().woken("start").wait(10).note("stop", why="SIGTERM").wait(1)
    script.exited("terminating").wait(600).started().wait(9).exited("failed").wait(60)
    found = episodes(script, is_running=False)
    assert shape(found) == [(W, 0.5), (A, 11), (X, 600), (W, 9), (F, 60)]
    assert_gapless(found)


def test_exit_mode_sleeps_over_the_exit_and_is_woken_by_a_client() -> None:
    script = Script().started().woken("client").wait(300).slept().wait(0.1).exited().wait(5000)
    asleep = episodes(script, is_running=False)
    assert shape(asleep) == [(W, 0.5), (A, 300), (S, 5000.1)]
    assert asleep[-1].lasts
    script.started().woken("client", by="10.0.0.9").wait(1)
    found = episodes(script)
    assert shape(found) == [(W, 0.5), (A, 300), (S, 5000.1), (W, 0.5), (A, 1)]
    assert_gapless(found)
    assert (found[-1].cause, found[-1].waker) == ("client", "10.0.0.9")
    assert found[2].idle == 300


def test_an_exit_asleep_whose_sleep_was_not_noted_is_a_sleep() -> None:
    script = Script().started().woken("start").wait(300).lose().exited().wait(1000)
    assert shape(episodes(script, is_running=False)) == [(W, 0.5), (A, 300), (S, 1000)]


@pytest.mark.parametrize(
    ("script", "before", "doing"),
    [
        (Script().started().woken("start").wait(70).note("use", idle=60), (A, 70), "awake"),
        (Script().started().woken("start").wait(300).slept(), (A, 300), "asleep"),
        (Script().started().wait(7).note("start-failed", why="disk full"), (W, 7), "starting"),
    ],
)
def test_a_killed_run_leaves_an_unknown_time(
    script: Script, before: tuple[Condition, float], doing: str
) -> None:
    """From when it was last heard of to the next start, or to now."""
    heard = script.wall
    script.wait(1000)
    found = episodes(script, is_running=False)
    assert shape(found)[-2:] == [before, (U, 1000)]
    assert found[-1].begin == heard
    assert f"while Postgres was {doing}" in found[-1].why
    assert episodes(script)[-1].condition is not U
    script.started().woken("start").wait(5)
    found = episodes(script)
    assert shape(found)[-4:] == [before, (U, 1000), (W, 0.5), (A, 5)]
    assert_gapless(found)


@pytest.mark.parametrize("by", [3600.0, -3600.0, 40_000_000.0, -2.5])
def test_a_clock_that_is_set_changes_no_duration(by: float) -> None:
    script = Script().started().woken("start").wait(30).note("use", idle=20).set_clock(by).wait(40)
    script.note("use", idle=30).wait(50).note("use", idle=40).wait(60).slept().wait(1000).woken().wait(7)
    found = episodes(script)
    assert shape(found) == [(W, 0.5), (A, 180), (S, 1000), (W, 0.5), (A, 7)]
    # What follows is told by the new clock.
    assert found[1].begin == pytest.approx(MIDNIGHT + 0.5 + by)
    assert found[1].uses[0].at == pytest.approx(MIDNIGHT + 30.5 + by)
    assert_gapless(found[1:])


def test_a_clock_that_is_set_while_it_sleeps() -> None:
    script = Script().started().woken("start").wait(30).slept().wait(500).set_clock(-9000).wait(500)
    found = episodes(script.woken().wait(7))
    assert shape(found) == [(W, 0.5), (A, 30), (S, 1000), (W, 0.5), (A, 7)]
    assert_gapless(found[2:])


def test_a_leap_second_makes_no_overlap() -> None:
    script = Script().started().woken("start").wait(30).set_clock(-1).wait(0.2).slept().wait(10).woken()
    assert_gapless(episodes(script))


def test_a_clock_set_back_between_two_runs() -> None:
    script = Script().started().woken("start").wait(300).slept().exited().set_clock(-90_000).wait(100)
    found = episodes(script.started().woken().wait(5))
    assert shape(found) == [(W, 0.5), (A, 300), (W, 0.5), (A, 5)]


def test_lost_lines_are_counted() -> None:
    script = Script().started().woken("start").wait(5).lose(3).slept().wait(5).started().lose(2).woken()
    timeline = Timeline()
    episodes(script, timeline)
    assert timeline.position.lost == 5


def test_lines_of_a_later_version_are_not_lost() -> None:
    script = Script().started().note("resized", to=5).woken("start").note("resized").wait(5)
    timeline = Timeline()
    assert shape(episodes(script, timeline)) == [(W, 0.5), (A, 5)]
    assert timeline.position.lost == 0


def test_where_the_record_begins_nothing_is_lost() -> None:
    script = Script().started().woken("start").wait(300).slept().wait(100).woken().wait(50)
    del script.lines[:2]
    timeline = Timeline()
    assert shape(episodes(script, timeline)) == [(S, 100), (W, 0.5), (A, 50)]
    assert timeline.position.lost == 0


def test_a_repeated_line_makes_no_line_lost() -> None:
    script = Script().started().woken("start").wait(5).slept().wait(5).woken()
    script.lines.insert(3, script.lines[1])
    timeline = Timeline()
    episodes(script, timeline)
    assert timeline.position.lost == 0


def test_a_run_whose_first_lines_are_lost() -> None:
    """It began when its clock says so; what it did until the first line that is there is not known."""
    script = Script().started().woken("start").wait(300).slept().wait(0.1).exited().wait(5000)
    script.started().woken().wait(60).note("use", idle=40).wait(40).slept().wait(10)
    del script.lines[4:7]
    timeline = Timeline()
    found = episodes(script, timeline)
    assert shape(found) == [(W, 0.5), (A, 300), (S, 5000.1), (U, 100.5), (S, 10)]
    assert_gapless(found)
    assert timeline.position.lost == 3


def test_a_wake_without_its_start_does_not_reach_into_the_run_before() -> None:
    script = Script().started().woken("start").wait(300).slept().exited().wait(50).started().woken(took=5)
    del script.lines[4]
    found = episodes(script.wait(1))
    assert shape(found) == [(W, 0.5), (A, 300), (S, 50), (W, 5), (A, 1)]
    assert_gapless(found)


def test_the_settings_at_the_end_of_the_time_awake_go_with_the_sleep() -> None:
    script = Script().started(300, 30).woken("start").wait(5)
    script.note("settings", changed={}, settings={"idle-timeout": 60, "min-awake": 1, "when-idle": "exit"})
    script.wait(60).slept().wait(5)
    script.note("settings", changed={}, settings={"idle-timeout": None, "min-awake": 1, "when-idle": "exit"})
    found = episodes(script.woken().wait(1))
    sixty, off = Terms(60.0, 1.0, "exit"), Terms(None, 1.0, "exit")
    assert [one.terms for one in found if one.condition in (A, S)] == [sixty, sixty, off]


def test_flapping_is_of_the_time_awake_and_the_sleep_after_it() -> None:
    script = Script().started(300).woken("start").wait(5).note("flapping", client="a", extra=300)
    found = episodes(script.wait(600).slept().wait(5).woken().wait(300).slept())
    extra = [one.terms.extra for one in found if one.condition in (A, S) and one.terms is not None]
    assert extra == [300, 300, 0, 0]


EVENTS = st.sampled_from(
    "started woken client use slept crashed start-failed stop exited hold settings flapping poll new".split()
)
WAITS = st.floats(0, 100_000).map(lambda seconds: round(seconds, 3))
EXIT_STATES = st.sampled_from(["leaving", "terminating", "failed"])


@st.composite
def scripts(draw: Any, *, jumps: bool = False, one_run: bool = False) -> Script:
    """Events in any order, also in those that no supervisor writes."""
    script = Script().started()
    for _ in range(draw(st.integers(0, 25))):
        script.wait(draw(WAITS))
        if jumps and draw(st.booleans()):
            script.set_clock(draw(st.floats(-1e6, 1e6)))
            script.wall = max(0.0, script.wall)
        if draw(st.integers(0, 9)) == 0:
            script.lose(draw(st.integers(1, 5)))
        match draw(EVENTS):
            case "started" if one_run:
                continue
            case "started":
                script.started()
            case "woken":
                script.woken(draw(st.sampled_from(["client", "start", "crash", "order"])), took=draw(WAITS))
            case "slept":
                script.slept()
            case "exited":
                script.exited(draw(EXIT_STATES))
            case name:
                script.note(name, idle=draw(WAITS), why="x", client="c", extra=1)
    return script.wait(draw(WAITS))


@given(scripts(), st.booleans())
def test_episodes_never_overlap_and_leave_no_hole(script: Script, is_running: bool) -> None:
    found = episodes(script, is_running=is_running)
    assert_gapless(found)
    assert found[0].begin == pytest.approx(MIDNIGHT)
    assert found[-1].end == pytest.approx(script.wall)
    assert sum(one.seconds for one in found) == pytest.approx(script.wall - MIDNIGHT)


@given(scripts(jumps=True, one_run=True))
def test_within_a_run_a_clock_that_is_set_changes_no_duration(script: Script) -> None:
    timeline = Timeline()
    found = [episode for event in script.events for episode in timeline.add(event)]
    found += timeline.up_to(timeline.position.at, is_running=True)
    # Each time the clock is set by less than JUMP it is taken for the truth.
    slack = 2.0 * len(script.lines) + 1e-3
    assert sum(one.seconds for one in found) == pytest.approx(timeline.position.up, abs=slack)


@given(scripts(jumps=True), st.integers(0, 30), st.booleans())
def test_a_timeline_goes_on_from_what_is_kept(script: Script, cut: int, is_running: bool) -> None:
    timeline = Timeline()
    for event in script.events[:cut]:
        for _ in timeline.add(event):
            pass
    again = restored(json.loads(json.dumps(kept(timeline))))
    script.lines = script.lines[cut:]
    rest = episodes(script, again, is_running=is_running)
    whole = episodes(script, timeline, is_running=is_running)
    assert shape(rest) == shape(whole)
    assert [(one.why, one.waker) for one in rest] == [(one.why, one.waker) for one in whole]
    assert again.position == timeline.position
    assert again.terms == timeline.terms


@pytest.mark.parametrize("change", [{"at": -1}, {"lost": -1}, {"n": 1.5}, {"run": 2**60}, {"up": "x"}])
def test_nonsense_is_not_restored(change: dict[str, object]) -> None:
    said = kept(Timeline())
    said["position"] |= change
    with pytest.raises((ValueError, TypeError)):
        restored(said)

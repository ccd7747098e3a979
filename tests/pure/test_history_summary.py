"""What a span adds up to, and how it is shown: a sentence, bars, a table, in 80 columns and plain text."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_history_timeline import scripts

from harness.journal_script import DAY, MIDNIGHT, Script
from pgidle.history.files import Reduced
from pgidle.history.summary import Summary, day_text, episode_as_json, summarise, summary_as_json
from pgidle.history.tables import (
    CELLS,
    GLYPHS,
    MOST_EPISODES,
    PLAIN_GLYPHS,
    WIDTH,
    as_text,
    what_if_text,
)
from pgidle.history.tally import count_in, spend_in
from pgidle.history.timeline import Condition
from pgidle.history.what_if import as_it_was, known_share, recommend, replay
from pgidle.settings.options import parse_price

if TYPE_CHECKING:
    from collections.abc import Sequence


def summed(script: Script, since: float = MIDNIGHT, *, reduced: int = 0, is_running: bool = True) -> Summary:
    """The summary of a script's lines, of which the first ones have been reduced to day totals."""
    before = Reduced()
    for event in script.events[:reduced]:
        for episode in before.timeline.add(event):
            spend_in(before.days, episode)
        count_in(before.days, event)
    return summarise(before, script.events[reduced:], since, script.wall, is_running=is_running)


def text(
    summary: Summary, price: str | None = None, *, is_unicode: bool = True, is_running: bool = True
) -> str:
    priced = parse_price(price) if price is not None else None
    lines = [*as_text(summary, priced, is_running=is_running, is_unicode=is_unicode)]
    for line in lines:
        assert len(line) <= WIDTH, line
        assert line.isprintable(), line
        assert line == line.rstrip()
    return "\n".join(lines)


def joined(shown: str) -> str:
    return " ".join(shown.split())


def two_days() -> Script:
    script = Script().started().woken("start").wait(3 * 3600)
    script.slept(cut=["a", "b"]).wait(15 * 3600).woken(by="10.0.0.3", took=0.7).wait(1)
    script.note("client", client='app "web", user app, 10.0.0.3').wait(6 * 3600).slept().wait(18 * 3600)
    return script


def test_the_sentence() -> None:
    script = two_days().woken(by="10.0.0.9", took=0.3).note("crashed", why="signal 9").woken("crash").wait(60)
    shown = joined(text(summed(script)))
    assert (
        "Postgres slept 33.0 h (79%) and was awake 9.0 h, from 2024-10-04 00:00 to 2024-10-05 18:01 UTC."
        in shown
    )
    assert (
        "slept twice, and was woken twice by clients, which waited 0.5s on average and 0.7s at most." in shown
    )
    assert "It crashed once." in shown
    assert "It has been awake since 2024-10-05 18:00." in shown


def test_a_short_wait_is_told_in_milliseconds() -> None:
    shown = joined(text(summed(two_days().woken(by="10.0.0.9", took=0.037).wait(60))))
    assert "10.0.0.9 (waited 37ms)" in shown


def test_whether_it_runs() -> None:
    script = two_days().exited()
    assert "asleep since 2024-10-05 00:00 (pgidle does not run)." in joined(
        text(summed(script, is_running=False), is_running=False)
    )
    assert "pgidle does not run now." in joined(text(summed(two_days(), is_running=False), is_running=False))
    assert "asleep since 2024-10-05 00:00." in joined(text(summed(two_days())))


def test_bars_are_hours_of_days() -> None:
    lines = text(summed(two_days())).splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("day (UTC)"))
    awake, asleep, _ = GLYPHS
    first = awake * 18 + asleep * 30
    assert lines[at + 1] == f"2024-10-04     9.0 h   15.0 h   {first}"
    assert lines[at + 2].endswith(f"   {awake}{asleep * 35}")
    plain = text(summed(two_days()), is_unicode=False)
    assert plain.isascii()
    assert PLAIN_GLYPHS[0] * 18 + PLAIN_GLYPHS[1] * 30 in plain


def test_a_minute_awake_is_seen() -> None:
    script = Script().started().woken("start").wait(60).slept().wait(DAY - 60.5)
    (bar,) = [
        line.split()[-1] for line in text(summed(script)).splitlines() if line.startswith("2024-10-04  ")
    ][:1]
    assert bar == GLYPHS[0] + GLYPHS[1] * (CELLS - 1)


def test_many_days_are_months() -> None:
    script = Script()
    script.started().woken("start")
    for _ in range(100):
        script.wait(DAY / 4).slept().wait(DAY * 3 / 4).woken()
    shown = text(summed(script))
    months = [line[:7] for line in shown.splitlines() if line.startswith("20") and line[7:9] == "  "]
    assert months == ["2024-10", "2024-11", "2024-12", "2025-01"]
    hours = next(line.split() for line in shown.splitlines() if line.startswith("2024-11"))
    assert (hours[1], hours[3]) == ("180.0", "540.0")


def test_the_last_episodes_come_last_and_the_others_are_told() -> None:
    script = Script().started().woken("start")
    for number in range(30):
        script.wait(300).slept(last_use=f"client {number}").wait(1000).woken(by=f"10.0.0.{number}")
    shown = text(summed(script))
    assert shown.count("10.0.0.29 (waited 0.5s)") == 1
    assert (
        f"({61 - MOST_EPISODES} earlier ones are not shown: --since and --until narrow it, --json has all)"
        in shown
    )
    rows = [line for line in shown.splitlines() if "asleep" in line and "last used" in line]
    assert rows[-1].endswith("client 29")
    assert "     1  10.0.0." in shown
    assert f"{20:>6}  20 more" in shown


def test_by_whom() -> None:
    script = Script().started().woken("start").wait(1).note("client", client="app x").wait(9)
    script.slept(last_use="none since waking").wait(50).woken("order", by="").wait(9).slept().wait(5)
    script.woken("hold").wait(5).note("crashed", why="killed by signal 9").woken("crash").wait(5)
    shown = text(summed(script))
    assert "pgidle started; first used by app x" in shown
    assert "asleep   idle" in shown
    assert "started again after a crash" in shown
    assert "killed by signal 9" in shown


def test_a_sleep_that_was_asked_for_is_not_told_as_an_idle_one() -> None:
    script = Script().started().woken("start").wait(9).slept(why="asked to sleep", last_use="app x").wait(5)
    assert "asleep   asked to sleep; last used by app x" in text(summed(script))


def test_lost_lines_are_told() -> None:
    script = two_days().lose(3).woken()
    assert "3 lines of the journal could not be written, or were never reached" in joined(
        text(summed(script))
    )
    assert summed(script, MIDNIGHT + DAY).lost == 3
    script = Script().started().lose(3).woken("start").wait(DAY).slept().wait(DAY)
    assert summed(script, MIDNIGHT + DAY + 5).lost == 0


def test_nothing_on_record() -> None:
    assert joined(text(summed(Script().wait(100)))) == (
        "Nothing is on record from 2024-10-04 00:00 to 2024-10-04 00:01 UTC."
    )


def test_the_record_begins_later() -> None:
    shown = joined(text(summed(two_days(), MIDNIGHT - 7 * DAY)))
    assert "from 2024-09-27 00:00" in shown
    assert "The record begins at 2024-10-04 00:00." in shown


def test_money_and_what_it_assumes() -> None:
    shown = joined(text(summed(two_days()), "$0.02/h"))
    assert "Saved: $0.66, for 33.0 h asleep at $0.02/h." in shown
    assert "With when-idle stay, as here, pgidle stays and only memory is freed" in shown
    script = two_days()
    script.lines[0] = script.lines[0].replace(b'"stay"', b'"exit"')
    assert "the machine is not billed while Postgres sleeps, as where pgidle exits" in joined(
        text(summed(script), "0.02/h")
    )


def test_names_cannot_write_on_the_terminal() -> None:
    evil = 'app "\x1b[2J\n\r\u202e\ud800<b>"'
    script = Script().started().woken("start").wait(300).slept(last_use=evil, why=evil).wait(9).woken(by=evil)
    script.wait(1).note("client", client=evil).note("crashed", why=evil).woken("crash")
    assert "<b>" in text(summed(script))


@pytest.mark.parametrize("since", [0.0, 1000.0, DAY / 2, DAY, 1.6 * DAY])
def test_a_span_that_begins_anywhere_is_full(since: float) -> None:
    found = summed(two_days(), MIDNIGHT + since)
    assert found.seconds.total() == pytest.approx(found.until - found.since)
    assert found.until - found.since == pytest.approx(two_days().wall - MIDNIGHT - since)


def test_wakes_before_the_span_do_not_count() -> None:
    found = summed(two_days(), MIDNIGHT + 19 * 3600)
    assert (found.total.sleeps, found.total.wakes, found.total.wakers) == (1, {}, {})
    assert [one.condition for one in found.episodes] == [Condition.AWAKE, Condition.ASLEEP]


@given(scripts(), st.integers(0, 30), st.floats(0, 5e5))
def test_reduced_or_not_a_span_of_whole_days_is_the_same(script: Script, reduced: int, since: float) -> None:
    """Where the lines of its beginning are gone, the span begins with its day."""
    begin = MIDNIGHT + since // DAY * DAY
    whole = summed(script, begin)
    parts = summed(script, MIDNIGHT + since, reduced=reduced)
    seam = script.events[min(reduced, len(script.events)) - 1].at if reduced else 0.0
    if parts.since == begin:
        assert parts.seconds == pytest.approx(whole.seconds, abs=1e-3)
        assert parts.total.wakes == whole.total.wakes
        assert parts.total.sleeps == whole.total.sleeps
        # A waker counts on the day on which its time awake began.
        assert parts.total.wakers.total() == whole.total.wakers.total()
    else:
        # Its beginning is there, or nothing had come to an end before it.
        assert parts.since == MIDNIGHT + since
        assert since >= seam - MIDNIGHT or parts.begins == parts.since


@given(scripts(jumps=True), st.floats(-1e6, 1e6), st.booleans(), st.booleans())
def test_whatever_is_on_record_can_be_shown(
    script: Script, since: float, is_running: bool, is_unicode: bool
) -> None:
    found = summed(script, max(0.0, script.wall + since), is_running=is_running)
    assert text(found, "1 EUR/h", is_running=is_running, is_unicode=is_unicode)
    json.dumps(summary_as_json(found))
    assert all(json.dumps(episode_as_json(one)) for one in found.episodes)


def test_json_has_the_days_by_name() -> None:
    found = summary_as_json(summed(two_days()))
    assert [*found["days"]] == ["2024-10-04", "2024-10-05"]
    assert found["days"]["2024-10-04"]["seconds"]["asleep"] == pytest.approx(15 * 3600, abs=2)
    assert day_text(0) == "1970-01-01"


def replayed(script: Script, timeouts: Sequence[float], price: str | None = None) -> str:
    found = summed(script)
    now = as_it_was(found.episodes, found.detailed_since, 300.0)
    others = [replay(found.episodes, found.detailed_since, one) for one in timeouts]
    advice, known = recommend(now, others, DAY), known_share(found.episodes)
    priced = parse_price(price) if price is not None else None
    lines = [*what_if_text(found, now, others, advice, priced, known)]
    assert all(len(line) <= WIDTH for line in lines), lines
    return "\n".join(lines)


def test_what_if_as_a_table() -> None:
    script = Script().started(300).woken("start")
    for _ in range(10):
        script.wait(2000).note("use", idle=200, count=9).wait(300).slept().wait(7000).woken()
    shown = replayed(script, [60.0, 300.0, 3600.0, math.inf], "$1/h")
    rows = [line.split() for line in shown.splitlines()[2:6]]
    assert [(row[0], row[-1 if "best" not in row else -3]) for row in rows] == [
        ("1min", "$23.61"),
        ("5min", "$19.44"),
        ("1h", "$10.28"),
        ("off", "$0.00"),
    ]
    assert "5min (as it was)      19.4 h    75%            10          $19.44  <- best" in shown
    assert "Keep 5min: no other one buys enough sleep with each wake" in joined(shown)


def test_what_if_nothing_is_known() -> None:
    assert "nothing to replay" in replayed(Script(), [60.0])
    script = Script().started(300).woken("start").wait(100).slept(idle=100).wait(50)
    del script.lines[0]
    assert "For 100% of the time the settings are not on record" in joined(replayed(script, [60.0]))
    assert "Nothing to recommend" in replayed(Script().started(300).woken("start").wait(100), [600.0])

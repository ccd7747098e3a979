"""Stretches of the timeline: bounded in number, and nothing of them lost."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgidle.history import spans
from pgidle.history.events import Event, Kind
from pgidle.history.spans import Mixed, Stretch
from pgidle.history.tally import DAY, Tally
from pgidle.history.timeline import Condition, Episode

BEGIN, END = 10 * DAY, 40 * DAY


def episodes(lengths: list[float], begin: float = BEGIN) -> list[Episode]:
    """Awake and asleep in turns, each so many seconds long."""
    made = []
    for number, length in enumerate(lengths):
        condition = Condition.ASLEEP if number % 2 else Condition.AWAKE
        made.append(Episode(condition, begin, begin + length, client=f"app {number % 3}"))
        begin += length
    return made


def seconds(made: list[spans.Span]) -> Counter[Condition]:
    found: Counter[Condition] = Counter()
    for span in made:
        found.update(span.seconds if isinstance(span, Mixed) else {span.condition: span.seconds})
    return found


@given(st.lists(st.floats(0.001, 5000), max_size=120), st.integers(2, 20))
def test_merging_loses_no_time_and_no_wake_and_leaves_no_gap(lengths: list[float], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "MOST_SPANS", most)
        stretch = Stretch(BEGIN, END)
        given = episodes(lengths)
        for one in given:
            stretch.add(one)
        stretch.finish()
    assert len(stretch.spans) < 2 * most
    assert seconds(stretch.spans) == pytest.approx(seconds(list(given)))
    assert sum(
        one.wakes if isinstance(one, Mixed) else one.condition is Condition.AWAKE for one in stretch.spans
    ) == sum(one.condition is Condition.AWAKE for one in given)
    edges = [(one.begin, one.end) for one in stretch.spans]
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(edges))
    assert [edge[0] for edge in edges[:1]] == [one.begin for one in given[:1]]
    assert [edge[1] for edge in edges[-1:]] == [one.end for one in given[-1:]]


def test_what_is_long_enough_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "MOST_SPANS", 20)
    long = Episode(Condition.FAILING, BEGIN + 1000, BEGIN + 5 * DAY, "no space left on device")
    stretch = Stretch(BEGIN, END)
    for one in (*episodes([10.0] * 100), long, *episodes([10.0] * 100, long.end)):
        stretch.add(one)
    stretch.finish()
    assert long in stretch.spans
    assert any(isinstance(one, Mixed) for one in stretch.spans)


def test_what_came_last_is_as_coarse_as_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "MOST_SPANS", 20)
    stretch = Stretch(BEGIN, END)
    for one in episodes([10.0] * 1000):
        stretch.add(one)
    assert any(one.end - one.begin == 10.0 for one in stretch.spans)
    stretch.finish()
    assert [one for one in stretch.spans[:-1] if one.end - one.begin < 100] == []


def test_few_are_not_merged_however_short() -> None:
    stretch = Stretch(BEGIN, END)
    given = episodes([0.5] * 1000)
    for one in given:
        stretch.add(one)
    stretch.finish()
    assert stretch.spans == given


def test_only_the_time_in_between_counts() -> None:
    stretch = Stretch(BEGIN, END)
    stretch.add(Episode(Condition.ASLEEP, BEGIN - 500, BEGIN - 100))
    stretch.add(Episode(Condition.AWAKE, BEGIN - 100, BEGIN + 60, client="before"))
    stretch.add(Episode(Condition.ASLEEP, BEGIN + 60, END - 30))
    stretch.add(Episode(Condition.AWAKE, END - 30, END + 1000, client="within"))
    for at in (BEGIN - 1, BEGIN + 1, END - 1, END + 1):
        stretch.add_event(Event(at, at, 1, 1, Kind.SLEPT, {}))
    total = stretch.total()
    assert total.seconds == {Condition.AWAKE: 90.0, Condition.ASLEEP: END - BEGIN - 90}
    assert total.wakers == {"within": 1}
    assert total.sleeps == 2
    # Their details are whole.
    assert [one.begin - BEGIN for one in stretch.spans] == [-100, 60, END - BEGIN - 30]


def test_a_short_waking_is_part_of_the_time_awake() -> None:
    stretch = Stretch(BEGIN, END)
    waking = Episode(Condition.WAKING, BEGIN, BEGIN + 2)
    stretch.add(waking)
    stretch.add(Episode(Condition.AWAKE, BEGIN + 2, BEGIN + 60, took=2.0))
    long = Episode(Condition.WAKING, BEGIN + 60, BEGIN + 60 + DAY)
    stretch.add(long)
    awake = Episode(Condition.AWAKE, long.end, long.end + 60)
    stretch.add(awake)
    assert stretch.spans == [Episode(Condition.AWAKE, BEGIN, BEGIN + 60, took=2.0), long, awake]
    assert stretch.total().seconds[Condition.WAKING] == 2 + DAY


def test_totals_of_older_days_are_spans_of_days() -> None:
    tally = Tally(
        {Condition.AWAKE: 1000.0, Condition.ASLEEP: 5000.0}, Counter(client=3), Counter({"app 1": 3})
    )
    stretch = Stretch(BEGIN + 1, END)
    until = 12 * DAY + 6000
    stretch.add_days({9: tally, 10: tally, 11: tally, 12: tally, 13: tally}, until)
    # The first is cut by the beginning, and of a total no part can be told.
    assert [(one.begin, one.end) for one in stretch.spans] == [(11 * DAY, 12 * DAY), (12 * DAY, until)]
    assert stretch.total().seconds == {Condition.AWAKE: 2000.0, Condition.ASLEEP: 10000.0}
    assert stretch.total().wakers == {"app 1": 6}


def test_the_latest_polls_are_kept() -> None:
    stretch = Stretch(BEGIN, END)
    for number in range(spans.MOST_POLLS + 5):
        stretch.add_event(Event(BEGIN + number, 0.0, 1, number, Kind.POLL, {}))
    assert [event.number for event in stretch.polls] == list(range(5, spans.MOST_POLLS + 5))

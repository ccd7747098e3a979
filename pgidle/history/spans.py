"""A stretch of the timeline for a picture: its episodes, a bounded number of them, and what they add up to. Pure.

Where there are more than can be drawn, neighbours that are too short to be told apart become one `Mixed` span, which
says how much of it was what. An episode that is long enough, or has no short neighbour, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from pgidle.history.events import Kind
from pgidle.history.tally import DAY, Tally, day_of, on, parts
from pgidle.history.timeline import Condition

if TYPE_CHECKING:
    from pgidle.history.events import Event
    from pgidle.history.tally import Days
    from pgidle.history.timeline import Episode

MOST_SPANS = 2000
"""Spans of one answer, at most twice as many: about as many as a wide screen has columns."""

COLUMNS = 1500
"""A waking that is shorter than this part of the whole is drawn as part of the time awake that follows."""

FINEST = 8000
"""Neighbours are merged at first if they are shorter than this part of the whole."""

MOST_POLLS = 20
"""Findings about clients that ask in a rhythm: the latest ones."""


@dataclass(slots=True)
class Mixed:
    """Several episodes: `seconds` by condition, and who began how many of the times awake."""

    begin: float
    end: float
    seconds: dict[Condition, float] = field(default_factory=dict)
    wakes: int = 0
    wakers: dict[str, int] = field(default_factory=dict)

    def add(self, span: Span) -> None:
        """Take what follows into it."""
        self.end = span.end
        if isinstance(span, Mixed):
            for condition, seconds in span.seconds.items():
                self.seconds[condition] = self.seconds.get(condition, 0.0) + seconds
            self.wakes += span.wakes
            for waker, times in span.wakers.items():
                self.wakers[waker] = self.wakers.get(waker, 0) + times
            return
        self.seconds[span.condition] = self.seconds.get(span.condition, 0.0) + span.seconds
        if span.condition is Condition.AWAKE:
            self.wakes += 1
            self.wakers[span.waker] = self.wakers.get(span.waker, 0) + 1


Span: TypeAlias = "Episode | Mixed"


class Stretch:
    """What lies between two moments (Unix time). Give it every event and episode of a timeline, in order."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin, self.end = begin, end
        self.spans: list[Span] = []
        self.days: Days = {}
        """By UTC day, of the first and the last only the part between the two moments."""
        self.polls: list[Event] = []
        self._waking = (end - begin) / COLUMNS
        self._shortest = (end - begin) / FINEST
        self._is_merged = False

    def add_days(self, days: Days, until: float) -> None:
        """Take the totals of older days. What is on record of them as episodes begins at `until`."""
        for day in sorted(days):
            begin, end = day * DAY, min((day + 1) * DAY, until)
            if begin < self.begin or end <= begin:
                continue  # A part of a total cannot be told.
            tally = days[day]
            on(self.days, day).merge(tally)
            known, wakers = dict(tally.seconds), dict(tally.wakers)
            self.spans.append(Mixed(begin, end, known, tally.wakes.total(), wakers))

    def add_event(self, event: Event) -> None:
        """Count an event, if it lies between the two moments."""
        if not self.begin <= event.at <= self.end:
            return
        on(self.days, day_of(event.at)).count(event)
        if event.kind is Kind.POLL:
            self.polls = [*self.polls[1 - MOST_POLLS :], event]

    def add(self, one: Episode) -> None:
        """Take an episode, as far as it lies between the two moments."""
        begin, end = max(one.begin, self.begin), min(one.end, self.end)
        if end < begin or one.end < self.begin:
            return
        for day, seconds in parts(begin, end):
            on(self.days, day).spend(one.condition, seconds)
        if one.condition is Condition.AWAKE and one.begin >= self.begin:
            on(self.days, day_of(one.begin)).woken_by(one.waker)
        last = self.spans[-1] if self.spans else None
        if (
            one.condition is Condition.AWAKE
            and last is not None
            and not isinstance(last, Mixed)
            and last.condition is Condition.WAKING
            and last.end == one.begin
            and last.seconds < self._waking
        ):
            self.spans[-1] = replace(one, begin=last.begin)
        else:
            self.spans.append(one)
        if len(self.spans) >= 2 * MOST_SPANS:
            self._merge()

    def total(self) -> Tally:
        """What all of it adds up to."""
        total = Tally()
        for day in sorted(self.days):
            total.merge(self.days[day])
        return total

    def finish(self) -> None:
        """Merge what was added last as the rest was, so that all of it is as fine."""
        if self._is_merged:
            self.spans = _merged(self.spans, self._shortest)

    def _merge(self) -> None:
        """Merge neighbours that are too short, with a limit that grows until enough of them are."""
        self.spans = _merged(self.spans, self._shortest)
        while len(self.spans) > MOST_SPANS:
            self._shortest *= 1.5
            self.spans = _merged(self.spans, self._shortest)
        self._is_merged = True


def _merged(spans: list[Span], shortest: float) -> list[Span]:
    """The same with neighbours merged that are shorter, up to about that length."""
    merged: list[Span] = []
    growing: Mixed | None = None
    for span in spans:
        last = merged[-1] if merged else None
        if span.end - span.begin >= shortest or last is None or last.end - last.begin >= shortest:
            merged.append(span)
            growing = None
            continue
        if growing is None or growing is not last:
            growing = Mixed(last.begin, last.begin)
            growing.add(last)
            merged[-1] = growing
        growing.add(span)
    return merged

"""What is on record of a span of time: totals, days and episodes. Pure.

Where the span begins before the lines that are still there, it begins with a whole day (UTC), and the days before the
lines come from the day totals.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from pgidle.history.tally import DAY, Days, Tally, as_json, count_in, day_of, on, parts, spend_in
from pgidle.history.timeline import Condition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgidle.history.events import Event, Terms
    from pgidle.history.files import Reduced
    from pgidle.history.timeline import Episode

LONGEST_WAITS = 5


@dataclass(frozen=True, slots=True)
class Summary:
    """From `since` to `until` (Unix time), of which something is on record from `begins` on.

    `days` and `total`: what happened within the span. `episodes`: those that reach into it, as far as there are lines
    about them: from `detailed_since` on; the last one may reach beyond `until`, unless that `is_now`. `lost`: lines
    that are missing. `terms`: the settings in force by now, if they are known.
    """

    since: float
    until: float
    begins: float
    days: Days
    total: Tally
    episodes: tuple[Episode, ...]
    detailed_since: float
    lost: int
    terms: Terms | None
    is_now: bool = True

    @property
    def seconds(self) -> Counter[str]:
        """Seconds on record: `awake` (waking included), `asleep`, `other`."""
        return sums(self.total)

    @property
    def longest_waits(self) -> list[Episode]:
        """The times awake for which a client waited longest."""
        awake = [one for one in self.episodes if one.wait and one.begin >= self.since]
        return nlargest(LONGEST_WAITS, awake, key=lambda one: one.wait or 0.0)

    @property
    def troubles(self) -> list[Episode]:
        """Crashes, failed starts, and times about which nothing is known."""
        return [one for one in self.episodes if _is_trouble(one)]


def summarise(
    reduced: Reduced,
    events: Iterable[Event],
    since: float,
    now: float,
    *,
    is_running: bool,
    until: float | None = None,
) -> Summary:
    """What is on record since a moment, up to another or, without one, up to now; `is_running`: pgidle runs now. Where
    there are only totals, both are whole days. Changes `reduced`."""
    timeline = reduced.timeline
    seam = timeline.position.at
    if reduced.days and since < seam:
        since = day_of(since) * DAY
    last_day = day_of(until) if until is not None else math.inf
    days = {
        day: tally for day, tally in reduced.days.items() if since < seam and day_of(since) <= day <= last_day
    }
    episodes: list[Episode] = []
    lost_before = 0
    begins = None
    if days:
        # From there on the first day is full.
        first = min(days)
        begins = min(seam, (first + 1) * DAY) - sums(days[first]).total()
    for event in events:
        begins = event.at if begins is None else begins
        episodes += timeline.add(event)
        if event.at < since:
            lost_before = timeline.position.lost
        elif until is None or event.at < until:
            count_in(days, event)
    at_last = max(now, timeline.position.at)
    episodes += timeline.up_to(at_last, is_running=is_running)
    episodes = [one for one in episodes if one.end > since or (one.lasts and one.end >= since)]
    is_now = until is None
    if until is None:
        until = at_last
    else:
        episodes = [one for one in episodes if one.begin < until]
    for one in episodes:
        _spend_within(days, one, since, until)
    if episodes:
        begins = min(episodes[0].begin, until if begins is None else begins)
    total = Tally()
    for day in sorted(days):
        total.merge(days[day])
    return Summary(
        since,
        until,
        max(since, until if begins is None else begins),
        days,
        total,
        tuple(episodes),
        max(since, episodes[0].begin) if episodes else until,
        timeline.position.lost - lost_before,
        timeline.terms,
        is_now,
    )


def sums(tally: Tally) -> Counter[str]:
    """Seconds as people ask for them: `awake` (waking included), `asleep`, and `other`."""
    names = {Condition.AWAKE: "awake", Condition.WAKING: "awake", Condition.ASLEEP: "asleep"}
    found: Counter[str] = Counter()
    for condition, seconds in tally.seconds.items():
        found[names.get(condition, "other")] += seconds  # type: ignore[assignment]
    return found


def summary_as_json(summary: Summary) -> dict[str, Any]:
    """Everything but the episodes, for programs; docs/commands.md names it."""
    return {
        "since": summary.since,
        "until": summary.until,
        "record_begins": summary.begins,
        "episodes_since": summary.detailed_since,
        "lost_lines": summary.lost,
        "total": as_json(summary.total),
        "days": {day_text(day): as_json(summary.days[day]) for day in sorted(summary.days)},
    }


def episode_as_json(one: Episode) -> dict[str, Any]:
    uses = [{"at": use.at, "idle": use.idle, "count": use.count, "by": use.by} for use in one.uses]
    return {
        "condition": one.condition.value,
        "begin": one.begin,
        "end": one.end,
        "seconds": round(one.seconds, 3),
        "lasts": one.lasts,
        "why": one.why,
        "cause": one.cause,
        "by": list(one.by),
        "client": one.client,
        "parked": one.parked,
        "wait": one.wait,
        "took": one.took,
        "uses": uses,
        "last_use": one.last_use,
        "idle": one.idle,
        "checkpoint": one.checkpoint,
        "shutdown": one.shutdown,
        "cut": list(one.cut),
    }


def day_text(day: int) -> str:
    """A day, by its number since 1970, as 2026-11-20."""
    from datetime import date, timedelta

    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


def _spend_within(days: Days, one: Episode, since: float, until: float) -> None:
    if one.begin >= since:
        spend_in(days, one if one.end <= until else replace(one, end=until))
        return
    for day, seconds in parts(since, min(until, one.end)):
        on(days, day).spend(one.condition, seconds)


def _is_trouble(one: Episode) -> bool:
    return one.condition in (Condition.FAILING, Condition.UNKNOWN) or (
        one.condition is Condition.WAKING and one.cause == "crash"
    )

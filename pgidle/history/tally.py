"""What a span of time adds up to: seconds awake and asleep, wakes by cause and by client, waits. Pure.

The same record serves a day of the journal's older part, the metrics' counters, and any question about a span.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pgidle.base import checked
from pgidle.history.events import Kind
from pgidle.history.timeline import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgidle.history.events import Event
    from pgidle.history.timeline import Episode

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds (seconds) of a histogram's buckets; one more has the rest."""

MOST_WAKERS = 50
"""Clients that are told apart; the rest are counted together as OTHERS."""

OTHERS = "others"
DAY = 86400.0

MOST_DAYS = 5 * 366
"""Days of which totals are kept."""


@dataclass(slots=True)
class Histogram:
    """Durations: how many fall into each bucket (not cumulated), their sum, and the longest."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0
    longest: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def add(self, seconds: float | None) -> None:
        """Count one more; None is not counted."""
        if seconds is None:
            return
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def merge(self, other: Histogram) -> None:
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total
        self.longest = max(self.longest, other.longest)


@dataclass(slots=True)
class Tally:
    """`seconds` by condition, `wakes` by cause, `wakers` by client; `wait`: of first clients, `took`: from asleep to
    ready. `last_wake` and `last_sleep`: Unix time, 0 if there was none."""

    seconds: dict[Condition, float] = field(default_factory=dict)
    wakes: Counter[str] = field(default_factory=Counter)
    wakers: Counter[str] = field(default_factory=Counter)
    sleeps: int = 0
    crashes: int = 0
    failed_starts: int = 0
    sessions_cut: int = 0
    wait: Histogram = field(default_factory=Histogram)
    took: Histogram = field(default_factory=Histogram)
    shutdown: Histogram = field(default_factory=Histogram)
    last_wake: float = 0.0
    last_sleep: float = 0.0

    def count(self, event: Event) -> None:
        """Count what has happened."""
        match event.kind:
            case Kind.WOKEN:
                self.wakes[event.text("cause") or "other"] += 1
                self.wait.add(event.seconds("wait"))
                self.took.add(event.seconds("took"))
                self.last_wake = max(self.last_wake, event.at)
            case Kind.SLEPT:
                self.sleeps += 1
                self.sessions_cut += max(event.count("cut_count"), len(event.texts("cut")))
                self.shutdown.add(event.seconds("shutdown"))
                self.last_sleep = max(self.last_sleep, event.at)
            case Kind.CRASHED:
                self.crashes += 1
            case Kind.START_FAILED:
                self.failed_starts += 1

    def spend(self, condition: Condition, seconds: float) -> None:
        self.seconds[condition] = self.seconds.get(condition, 0.0) + seconds

    def woken_by(self, waker: str, times: int = 1) -> None:
        """Count a wake for a client."""
        if waker and times:
            name = waker if waker in self.wakers or len(self.wakers) < MOST_WAKERS else OTHERS
            self.wakers[name] += times

    def merge(self, other: Tally) -> None:
        """Add everything of another."""
        for condition, seconds in other.seconds.items():
            self.spend(condition, seconds)
        self.wakes.update(other.wakes)
        for waker, times in other.wakers.most_common():
            self.woken_by(waker, times)
        self.sleeps += other.sleeps
        self.crashes += other.crashes
        self.failed_starts += other.failed_starts
        self.sessions_cut += other.sessions_cut
        for mine, theirs in (
            (self.wait, other.wait),
            (self.took, other.took),
            (self.shutdown, other.shutdown),
        ):
            mine.merge(theirs)
        self.last_wake = max(self.last_wake, other.last_wake)
        self.last_sleep = max(self.last_sleep, other.last_sleep)


_COUNTED = frozenset((Kind.WOKEN, Kind.SLEPT, Kind.CRASHED, Kind.START_FAILED))

Days = dict[int, Tally]
"""Tallies by day: the number of days since 1970 (UTC)."""


def day_of(at: float) -> int:
    return int(at // DAY)


def on(days: Days, day: int) -> Tally:
    """The tally of a day, made if there is none."""
    tally = days.get(day)
    if tally is None:
        tally = days[day] = Tally()
    return tally


def count_in(days: Days, event: Event) -> None:
    """Count what has happened on its day."""
    if event.kind in _COUNTED:
        on(days, day_of(event.at)).count(event)


def spend_in(days: Days, episode: Episode) -> None:
    """Add an episode's time to the days that it touches, and its waker to the day on which it began."""
    # A clock that once stood at another year must not make days without number.
    for day, seconds in parts(max(episode.begin, episode.end - MOST_DAYS * DAY), episode.end):
        on(days, day).spend(episode.condition, seconds)
    if episode.condition is Condition.AWAKE and (waker := episode.waker):
        on(days, day_of(episode.begin)).woken_by(waker)


def parts(begin: float, end: float) -> Iterator[tuple[int, float]]:
    """A span of time, divided into days: their numbers, and the seconds in each."""
    while begin < end:
        stop = min(end, (begin // DAY + 1) * DAY)
        yield day_of(begin), stop - begin
        begin = stop


def as_json(tally: Tally) -> dict[str, Any]:
    return {
        "seconds": {condition.value: round(seconds, 3) for condition, seconds in tally.seconds.items()},
        "wakes": dict(tally.wakes),
        "wakers": dict(tally.wakers),
        "sleeps": tally.sleeps,
        "crashes": tally.crashes,
        "failed_starts": tally.failed_starts,
        "sessions_cut": tally.sessions_cut,
        "wait": _histogram_as_json(tally.wait),
        "took": _histogram_as_json(tally.took),
        "shutdown": _histogram_as_json(tally.shutdown),
        "last_wake": tally.last_wake,
        "last_sleep": tally.last_sleep,
    }


def from_json(said: Mapping[str, Any]) -> Tally:
    """What `as_json` returned. Raises ValueError, TypeError or KeyError for anything else."""
    return Tally(
        {Condition(name): checked.seconds(value) for name, value in said["seconds"].items()},
        Counter({str(name): checked.count(value) for name, value in said["wakes"].items()}),
        Counter({str(name): checked.count(value) for name, value in said["wakers"].items()}),
        sleeps=checked.count(said["sleeps"]),
        crashes=checked.count(said["crashes"]),
        failed_starts=checked.count(said["failed_starts"]),
        sessions_cut=checked.count(said["sessions_cut"]),
        wait=_histogram(said["wait"]),
        took=_histogram(said["took"]),
        shutdown=_histogram(said["shutdown"]),
        last_wake=checked.seconds(said["last_wake"]),
        last_sleep=checked.seconds(said["last_sleep"]),
    )


def _histogram_as_json(one: Histogram) -> dict[str, Any]:
    return {"buckets": one.buckets, "total": round(one.total, 6), "longest": round(one.longest, 6)}


def _histogram(said: Mapping[str, Any]) -> Histogram:
    buckets = [checked.count(one) for one in said["buckets"]]
    if len(buckets) != len(BOUNDS) + 1:
        raise ValueError("another version's buckets")
    return Histogram(buckets, checked.seconds(said["total"]), checked.seconds(said["longest"]))

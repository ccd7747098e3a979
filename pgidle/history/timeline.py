"""From the journal's events to episodes: spans of time in which Postgres was awake, asleep, or something else. Pure.

    timeline = Timeline()
    for event in events:
        for episode in timeline.add(event):
            ...
    timeline.open(now)      # the episode that lasts still

Within a run, durations come from a clock that never jumps, so a wall clock that is set only moves what follows. What
lies between two runs without a line about the first one's end is unknown, and says since when.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from pgidle.history.events import LATEST, Kind
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgidle.history.events import Event

JUMP = 2.0
"""Seconds by which the wall clock may differ from the other one before it counts as set."""


class Condition(Enum):
    """What Postgres does in an episode."""

    WAKING = "waking"
    AWAKE = "awake"
    ASLEEP = "asleep"
    FAILING = "failing"
    """It does not start, and is tried again; or pgidle has given up, and exited."""
    STOPPED = "stopped"
    """pgidle was asked to stop, and does not run."""
    UNKNOWN = "unknown"
    """Nothing is on record: pgidle was killed, or the machine was lost."""


@dataclass(frozen=True, slots=True)
class Use:
    """Uses that ended an idle time each: how many, of how many seconds on average, the last one's moment, by whom."""

    at: float
    idle: float
    count: int
    by: str


@dataclass(slots=True)
class Episode:
    """A span of time, `begin` to `end` (Unix time), with what is known of the event that began it.

    WAKING and AWAKE: `cause` (`client`, `order`, `hold`, `start`, `crash`), `by` (addresses or users of the clients
    that waited), `parked` (how many), and of AWAKE `wait` (seconds of the first client), `took` (seconds to ready),
    `client` (who came first, as a look saw it) and `uses`. ASLEEP: `last_use`, `idle` (seconds since it), `checkpoint`
    and `shutdown` (seconds), `cut` (the sessions). `lasts`: it has not ended.

    Changed by its `Timeline` alone, and never once it has ended. (Copies would take most of the time of reading.)
    """

    condition: Condition
    begin: float
    end: float
    why: str = ""
    cause: str = ""
    by: tuple[str, ...] = ()
    parked: int = 0
    wait: float | None = None
    took: float | None = None
    client: str = ""
    uses: tuple[Use, ...] = ()
    last_use: str = ""
    idle: float | None = None
    checkpoint: float | None = None
    shutdown: float | None = None
    cut: tuple[str, ...] = ()
    lasts: bool = False

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.begin)

    @property
    def waker(self) -> str:
        """Who woke Postgres, as well as that is known; empty for a start or a crash that nobody caused."""
        return self.client or ", ".join(self.by)


@dataclass(frozen=True, slots=True)
class Position:
    """The last event read: what the next one is measured from. `lost`: lines that are missing so far."""

    at: float = 0.0
    up: float = 0.0
    run: int = 0
    number: int = 0
    lost: int = 0


class Timeline:
    """Begins with nothing, or goes on from what another has `kept`."""

    def __init__(
        self, position: Position | None = None, current: Episode | None = None, *, has_exited: bool = False
    ) -> None:
        self.position = position or Position()
        self.current = current
        """The episode that lasts; `end` is when it was last heard of."""
        self.has_exited = has_exited
        """Whether the end of the last run is on record."""

    def add(self, event: Event) -> Iterator[Episode]:
        """Take the next event; the episodes that end with it."""
        before = self.position
        is_new_run = event.run != before.run
        lost = event.number - 1 - (0 if is_new_run else before.number)
        self.position = Position(event.at, event.up, event.run, event.number, before.lost + max(0, lost))
        end = _end(self.current, before, event)
        if is_new_run and self.current is not None:
            yield from self._between_runs(event, end)
        elif self.current is not None:
            self.current.end = end
        self.has_exited = event.kind is Kind.EXITED
        yield from self._begin(event)

    def open(self, now: float, *, is_running: bool) -> Episode | None:
        """The episode that lasts still, at a moment. `is_running`: pgidle runs."""
        one = self.current
        if one is None:
            return None
        if not is_running and not self.has_exited:
            one = _unknown(one, one.end)
        return replace(one, end=max(one.begin, now), lasts=True)

    def _between_runs(self, event: Event, end: float) -> Iterator[Episode]:
        """End what the run before has left; an end that is not on record makes the time up to now unknown."""
        one = self.current
        self.current = None
        if one is None:
            return
        if not self.has_exited:
            if one.end > one.begin:
                yield one
            one = _unknown(one, one.end)
        one.end = max(one.begin, end)
        yield one

    def _begin(self, event: Event) -> Iterator[Episode]:
        """Begin another episode, if this event does."""
        begun = _begun(event, self.current)
        if begun is None:
            if self.current is not None:
                _learn(self.current, event)
            return
        if (one := self.current) is not None:
            took = begun.begin if begun.condition is Condition.WAKING else event.at
            one.end = max(one.begin, min(one.end, took))
            if one.seconds or one.condition is Condition.AWAKE:
                yield one
        self.current = begun
        if event.kind is Kind.WOKEN and begun.condition is Condition.WAKING:
            yield begun
            self.current = _awake(event)


def kept(timeline: Timeline) -> dict[str, Any]:
    """A timeline as JSON, without the details of what lasts."""
    at, one = timeline.position, timeline.current
    position = {"at": at.at, "up": at.up, "run": at.run, "n": at.number, "lost": at.lost}
    lasting = (
        {
            "condition": one.condition.value,
            "begin": one.begin,
            "end": one.end,
            "why": one.why,
            "cause": one.cause,
            "by": list(one.by),
            "client": one.client,
        }
        if one is not None
        else None
    )
    return {"position": position, "current": lasting, "has_exited": timeline.has_exited}


def restored(said: Mapping[str, Any]) -> Timeline:
    """What `kept` returned. Raises ValueError, TypeError or KeyError for anything else."""
    at, one = said["position"], said["current"]
    position = Position(
        _time(at["at"]), _time(at["up"]), _whole(at["run"]), _whole(at["n"]), _whole(at["lost"])
    )
    if one is None:
        return Timeline(position)
    texts = [str(one[name]) for name in ("why", "cause", "client")]
    current = Episode(
        Condition(one["condition"]),
        _time(one["begin"]),
        _time(one["end"]),
        texts[0],
        texts[1],
        tuple(map(str, one["by"])),
        client=texts[2],
    )
    return Timeline(position, current, has_exited=said["has_exited"] is True)


def _begun(event: Event, before: Episode | None) -> Episode | None:
    """The episode that an event begins, if it does."""
    at, why = event.at, event.text("why")
    match event.kind:
        case Kind.STARTED:
            return Episode(Condition.WAKING, at, at, why, "start")
        case Kind.WOKEN if before is not None and before.condition in (Condition.WAKING, Condition.FAILING):
            return _awake(event)
        case Kind.WOKEN:
            # What came before ended when Postgres began to wake.
            begin = max(at - (event.seconds("took") or 0.0), before.begin if before is not None else 0.0)
            by, cause = event.texts("by"), event.text("cause")
            return Episode(Condition.WAKING, begin, at, why, cause, by, event.count("parked"))
        case Kind.CRASHED:
            return Episode(Condition.WAKING, at, at, why, "crash")
        case Kind.START_FAILED if before is None or before.condition is not Condition.FAILING:
            return Episode(Condition.FAILING, at, at, why)
        case Kind.SLEPT:
            return Episode(
                Condition.ASLEEP,
                at,
                at,
                why,
                last_use=event.text("last_use"),
                idle=event.seconds("idle"),
                checkpoint=event.seconds("checkpoint"),
                shutdown=event.seconds("shutdown"),
                cut=event.texts("cut"),
            )
        case Kind.EXITED if event.text("state") == State.LEAVING.noun:
            # It sleeps on, and whoever started pgidle wakes it.
            return (
                None
                if before is not None and before.condition is Condition.ASLEEP
                else Episode(Condition.ASLEEP, at, at, why)
            )
        case Kind.EXITED:
            has_failed = event.text("state") == State.FAILED.noun
            return Episode(Condition.FAILING if has_failed else Condition.STOPPED, at, at, why)
    return None


def _awake(event: Event) -> Episode:
    return Episode(
        Condition.AWAKE,
        event.at,
        event.at,
        event.text("why"),
        event.text("cause"),
        event.texts("by"),
        event.count("parked"),
        event.seconds("wait"),
        event.seconds("took"),
    )


def _learn(episode: Episode, event: Event) -> None:
    """Add to an episode what a later event tells about it."""
    if event.kind is Kind.CLIENT:
        episode.client = episode.client or event.text("client")
    elif event.kind is Kind.USE and (idle := event.seconds("idle")) is not None:
        use = Use(event.at, idle, max(1, event.count("count")), event.text("by"))
        episode.uses = (*episode.uses, use)


def _unknown(last: Episode, since: float) -> Episode:
    doing = {Condition.AWAKE: "awake", Condition.ASLEEP: "asleep"}.get(last.condition, "starting")
    why = f"no end on record: pgidle was killed, or its machine was lost, while Postgres was {doing}"
    return Episode(Condition.UNKNOWN, since, since, why)


def _end(current: Episode | None, before: Position, event: Event) -> float:
    """When the current episode ends, if it ends with this event."""
    if current is None or event.run != before.run:
        return event.at
    steps = event.up - before.up
    # Where the clock was set, the episode is as long as it was.
    return event.at if abs(event.at - before.at - steps) < JUMP else current.end + max(0.0, steps)


def _time(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= LATEST:
        raise ValueError(f"{value!r} is not a moment")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{value!r} is not a count")
    return value

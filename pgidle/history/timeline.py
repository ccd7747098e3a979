"""From the journal's events to episodes: spans of time in which Postgres was awake, asleep, or something else. Pure.

    timeline = Timeline()
    for event in events:
        for episode in timeline.add(event):
            ...
    for episode in timeline.up_to(now, is_running=True):    # the last one of these lasts still
        ...

Within a run, durations come from a clock that never jumps: where the wall clock was set, the episode that lasts is
moved with it, and what was before stays. What lies between two runs without a line about the first one's end is
unknown, and says since when.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from pgidle.base import checked
from pgidle.history.events import Kind, Terms
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pgidle.history.events import Event

JUMP = 2.0
"""Seconds by which the wall clock may differ from the other one before it counts as set."""

NOT_WAKERS = ("start", "crash")
"""Causes of a wake that no client is behind, even if one came first afterwards."""


_BEGINS = frozenset((Kind.STARTED, Kind.WOKEN, Kind.CRASHED, Kind.START_FAILED, Kind.SLEPT, Kind.EXITED))


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
    and `shutdown` (seconds), `cut` (the sessions). AWAKE and ASLEEP: `terms`, the settings that held at the end of the
    time awake. `lasts`: it has not ended.

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
    uses: Sequence[Use] = ()
    last_use: str = ""
    idle: float | None = None
    checkpoint: float | None = None
    shutdown: float | None = None
    cut: tuple[str, ...] = ()
    terms: Terms | None = None
    lasts: bool = False

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.begin)

    @property
    def waker(self) -> str:
        """Who woke Postgres, as well as that is known; empty for a start or a crash that nobody caused."""
        return "" if self.cause in NOT_WAKERS else self.client or ", ".join(self.by)


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
        self,
        position: Position | None = None,
        current: Episode | None = None,
        *,
        has_exited: bool = False,
        terms: Terms | None = None,
    ) -> None:
        self.position = position or Position()
        self.current = current
        """The episode that lasts; `end` is when it was last heard of."""
        self.has_exited = has_exited
        """Whether the end of the last run is on record."""
        self.terms = terms
        """The settings in force, if they are known."""

    def add(self, event: Event) -> Iterator[Episode]:
        """Take the next event; the episodes that end with it."""
        before = self.position
        if event.run != before.run:
            lost = event.number - 1 if before.run else 0
            self.position = Position(event.at, event.up, event.run, event.number, before.lost + lost)
            yield from self._between_runs(event)
        else:
            lost = max(0, event.number - 1 - before.number)
            at, number = self._moment(event), max(event.number, before.number)
            self.position = Position(at, event.up, event.run, number, before.lost + lost)
            if at != event.at:
                event = replace(event, at=at)
            if self.current is not None:
                self.current.end = max(self.current.begin, at)
        self.has_exited = event.kind is Kind.EXITED
        self._note_terms(event)
        yield from self._begin(event)

    def up_to(self, now: float, *, is_running: bool) -> Iterator[Episode]:
        """What `add` has not returned yet, up to a moment: the last one lasts still. `is_running`: pgidle runs."""
        one = self.current
        if one is None:
            return
        if not is_running and not self.has_exited:
            if one.seconds:
                yield replace(one)
            one = _unknown(one, one.end)
        yield replace(one, end=max(one.begin, now), lasts=True)

    def open(self, now: float, *, is_running: bool) -> Episode | None:
        """The episode that lasts still, at a moment. `is_running`: pgidle runs."""
        return next(reversed([*self.up_to(now, is_running=is_running)]), None)

    def _moment(self, event: Event) -> float:
        """When an event of the same run happened. If the clock was set, the episode that lasts is moved with it."""
        before = self.position
        set_by = event.at - before.at - max(0.0, event.up - before.up)
        if abs(set_by) < JUMP:
            return max(event.at, before.at)
        if (one := self.current) is not None:
            one.begin = max(0.0, one.begin + set_by)
            one.uses = [replace(use, at=max(0.0, use.at + set_by)) for use in one.uses]
        return event.at

    def _note_terms(self, event: Event) -> None:
        if event.kind in (Kind.STARTED, Kind.SETTINGS) and (terms := event.terms()) is not None:
            self.terms = terms
            if self.current is not None and self.current.condition is Condition.AWAKE:
                self.current.terms = terms

    def _between_runs(self, event: Event) -> Iterator[Episode]:
        """End what the run before has left, when this one began. Where its end is not on record, the time up to then
        is unknown; so is the beginning of this run, where that is not."""
        one = self.current
        if one is None:
            return
        began = max(one.end, event.at - event.up)
        if not self.has_exited:
            if one.seconds:
                yield one
            one = _unknown(one, one.end)
        one.end = began
        if one.seconds:
            yield one
        self.current = None
        if event.kind is not Kind.STARTED:
            why = "lines of the journal are lost"
            self.current = Episode(Condition.UNKNOWN, began, max(began, event.at), why)

    def _begin(self, event: Event) -> Iterator[Episode]:
        """Begin another episode, if this event does."""
        begun = _begun(event, self.current) if event.kind in _BEGINS else None
        if begun is None:
            if self.current is not None:
                _learn(self.current, event)
            return
        begun.terms = self.terms
        if (one := self.current) is not None:
            if begun.condition is Condition.ASLEEP and one.condition is Condition.AWAKE:
                begun.terms = one.terms
            one.end = max(one.begin, min(one.end, begun.begin))
            if one.seconds or one.condition is Condition.AWAKE:
                yield one
        self.current = begun
        if event.kind is Kind.WOKEN and begun.condition is Condition.WAKING:
            if begun.seconds:
                yield begun
            self.current = _awake(event)
            self.current.terms = self.terms


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
    return {
        "position": position,
        "current": lasting,
        "has_exited": timeline.has_exited,
        "settings": _settings(timeline.terms) if timeline.terms is not None else None,
    }


def restored(said: Mapping[str, Any]) -> Timeline:
    """What `kept` returned. Raises ValueError, TypeError or KeyError for anything else."""
    at, one = said["position"], said["current"]
    position = Position(
        checked.seconds(at["at"]),
        checked.seconds(at["up"]),
        checked.count(at["run"]),
        checked.count(at["n"]),
        checked.count(at["lost"]),
    )
    terms = _terms(settings) if (settings := said.get("settings")) is not None else None
    if one is None:
        return Timeline(position, terms=terms)
    texts = [str(one[name]) for name in ("why", "cause", "client")]
    current = Episode(
        Condition(one["condition"]),
        checked.seconds(one["begin"]),
        checked.seconds(one["end"]),
        texts[0],
        texts[1],
        tuple(map(str, one["by"])),
        client=texts[2],
        terms=terms,
    )
    return Timeline(position, current, has_exited=said["has_exited"] is True, terms=terms)


def _settings(terms: Terms) -> dict[str, Any]:
    return {
        "idle-timeout": terms.idle_timeout,
        "min-awake": terms.min_awake,
        "when-idle": terms.when_idle,
    }


def _terms(settings: Mapping[str, Any]) -> Terms:
    timeout = settings["idle-timeout"]
    return Terms(
        checked.seconds(timeout) if timeout is not None else None,
        checked.seconds(settings["min-awake"]),
        str(settings["when-idle"]),
    )


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
        if isinstance(episode.uses, list):
            episode.uses.append(use)
        else:
            episode.uses = [use]
    elif event.kind is Kind.FLAPPING and episode.condition is Condition.AWAKE and episode.terms is not None:
        episode.terms = replace(episode.terms, extra=event.seconds("extra") or 0.0)


def _unknown(last: Episode, since: float) -> Episode:
    doing = {Condition.AWAKE: "awake", Condition.ASLEEP: "asleep"}.get(last.condition, "starting")
    why = f"no end on record: pgidle was killed, or its machine was lost, while Postgres was {doing}"
    return Episode(Condition.UNKNOWN, since, since, why)

"""What another idle-timeout would have done to the times on record. Pure.

A time awake ends with the idle time after which Postgres slept (`idle` of the sleep), and the idle times within it are
on record too, as they were ended by a use. Under another timeout the sleep begins that much earlier or later, or not at
all if the next wake came first; and each idle time that is longer than a shorter timeout becomes a sleep of its own,
which the use would have ended, so that its client would have waited. Everything else stays as it was: a sleep that was
asked for, one that something else put off, idle times in which Postgres was kept awake in spite of the timeout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgidle.history.timeline import Condition
from pgidle.idle.reasons import duration_text
from pgidle.settings.options import format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.history.events import Terms
    from pgidle.history.timeline import Episode, Use

SLACK = 2.0
"""Seconds after the timeout within which an idle time still ended in a sleep because of it: looks take time."""

LEAST = 86_400.0
"""Seconds on record below which nothing is recommended."""

WORTH = 900.0
"""Seconds of sleep that a wake felt by a client should buy, for a shorter timeout to be recommended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """With this idle-timeout (seconds; infinity: never sleep): seconds asleep, and wakes for which a client waited."""

    idle_timeout: float
    asleep: float
    wakes: int


@dataclass(frozen=True, slots=True)
class Advice:
    """The outcome that is recommended, and why; None: nothing can be said."""

    best: Outcome | None
    why: str


def as_it_was(episodes: Sequence[Episode], since: float, timeout: float) -> Outcome:
    """What happened since a moment; `timeout`: what is in force now."""
    asleep = sum(
        max(0.0, one.end - max(since, one.begin)) for one in episodes if one.condition is Condition.ASLEEP
    )
    wakes = sum(_is_felt(one) and one.begin >= since for one in episodes)
    return Outcome(timeout, asleep, wakes)


def replay(episodes: Sequence[Episode], since: float, timeout: float) -> Outcome:
    """What would have happened with another timeout (seconds; infinity: never sleep)."""
    shutdown = _usual_shutdown(episodes)
    asleep, wakes = 0.0, 0
    awake: Episode | None = None
    is_left_out = False
    """Whether the last sleep would not have been."""
    for one in episodes:
        if one.condition is Condition.ASLEEP:
            begin = one.begin + _later(one, awake, timeout)
            asleep += max(0.0, one.end - max(since, begin))
            is_left_out = begin >= one.end > one.begin
            awake = None
        elif one.condition is Condition.AWAKE:
            wakes += _is_felt(one) and not is_left_out and one.begin >= since
            is_left_out = False
            awake = one
            for use, seconds in _sleeps_within(one, timeout):
                if use.at >= since:
                    asleep += max(0.0, seconds - shutdown) * use.count
                    wakes += use.count
        elif one.condition is not Condition.WAKING:
            is_left_out = False
    return Outcome(timeout, asleep, wakes)


def known_share(episodes: Sequence[Episode]) -> float:
    """The part of the sleeps and times awake whose settings are known, by time; the others stay as they were."""
    relevant = [one for one in episodes if one.condition in (Condition.AWAKE, Condition.ASLEEP)]
    total = sum(one.seconds for one in relevant)
    return sum(one.seconds for one in relevant if one.terms is not None) / total if total else 0.0


def recommend(now: Outcome | None, others: Sequence[Outcome], seconds: float) -> Advice:
    """From the longest timeout on, a shorter one is taken while each further wake that a client feels buys WORTH
    seconds of sleep. `now`: as it was, None where the timeout in force is not on record; `seconds`: how much time was
    replayed."""
    if seconds < LEAST:
        return Advice(None, "less than a day is on record")
    if now is None:
        return Advice(None, "the settings in force are not on record")
    timeouts: dict[float, Outcome] = {one.idle_timeout: one for one in others}
    timeouts[now.idle_timeout] = now
    in_order = sorted(timeouts.values(), key=lambda one: -one.idle_timeout)
    best = in_order[0]
    for one in in_order[1:]:
        gained, more = one.asleep - best.asleep, one.wakes - best.wakes
        if gained > 0 and more * WORTH <= gained:
            best = one
    if not any(one.asleep for one in in_order):
        return Advice(None, "none of them would have slept")
    return Advice(best, _why(now, best))


def timeout_text(seconds: float) -> str:
    return "off" if math.isinf(seconds) else format_duration(seconds)


def _why(now: Outcome, best: Outcome) -> str:
    asleep, wakes = best.asleep - now.asleep, best.wakes - now.wakes
    if best is now:
        return "no other one buys enough sleep with each wake that a client feels"
    compared = f"compared with {timeout_text(now.idle_timeout)} it "
    if not wakes:
        return f"{compared}sleeps {_duration(asleep)} more, and clients wait as often"
    waits = f"{abs(wakes)} wait{'s' * (abs(wakes) > 1)}"
    if wakes < 0 <= asleep:
        return f"{compared}sleeps {_duration(asleep)} more, and spares clients {waits}"
    each = f"{_duration(abs(asleep / wakes))} per wait"
    if asleep >= 0:
        return f"{compared}sleeps {_duration(asleep)} more and costs clients {waits}, {each}"
    return f"{compared}spares clients {waits} and costs {_duration(-asleep)} of sleep, {each}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 36_000 else duration_text(seconds)


def _later(asleep: Episode, awake: Episode | None, timeout: float) -> float:
    """How many seconds later a sleep would have begun; negative: earlier."""
    terms = asleep.terms
    if terms is None:
        return 0.0
    was, would = _patience(terms, terms.idle_timeout), _patience(terms, timeout)
    idle = asleep.idle
    if idle is None:
        # It is not on record how long Postgres had been idle: as long as it had to be.
        return would - was if math.isfinite(was) else 0.0
    if idle < was - SLACK:
        slept_after = min(idle, would)  # Asked for.
    elif idle <= was + SLACK + (asleep.checkpoint or 0.0):
        slept_after = idle + (would - was)
    else:
        slept_after = max(idle, would)  # Put off by something else.
    if slept_after < idle and awake is not None:
        used_at = asleep.begin - (asleep.shutdown or 0.0) - idle
        soonest = awake.begin + terms.min_awake - used_at
        slept_after = max(slept_after, min(idle, soonest))
    return slept_after - idle


def _sleeps_within(awake: Episode, timeout: float) -> list[tuple[Use, float]]:
    """The uses that a shorter timeout would have made wakes, and how long Postgres would have slept before each."""
    if (terms := awake.terms) is None:
        return []
    was, would = _patience(terms, terms.idle_timeout), _patience(terms, timeout)
    after = max(would, terms.min_awake)
    if would >= was:
        return []
    return [(use, use.idle - after) for use in awake.uses if after < use.idle <= was + SLACK]


def _patience(terms: Terms, timeout: float | None) -> float:
    """Seconds without use after which Postgres sleeps. What a flapping client adds grows with the timeout."""
    if timeout is None or not math.isfinite(timeout):
        return math.inf
    extra = terms.extra * timeout / terms.idle_timeout if terms.idle_timeout else terms.extra
    return timeout + extra


def _is_felt(one: Episode) -> bool:
    return one.condition is Condition.AWAKE and one.cause == "client"


def _usual_shutdown(episodes: Sequence[Episode]) -> float:
    """Seconds from the decision to sleep until Postgres sleeps, on average."""
    known = [one.shutdown for one in episodes if one.shutdown is not None]
    return sum(known) / len(known) if known else 0.0

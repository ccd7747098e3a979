"""The answer to `/history`: what the journal says about the time up to now, for the page and for programs.

The lines are read a few at a time, between other work of the same loop: a look at Postgres never waits for more than
those. Imported when somebody asks.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from pgidle.history.files import read
from pgidle.history.spans import Mixed, Stretch
from pgidle.history.tally import DAY, as_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.history.events import Event
    from pgidle.history.spans import Span
    from pgidle.history.timeline import Episode

AT_ONCE = 100
"""Lines that are read before other work gets its turn: about 2 ms."""

MOST_NAMES, MOST_OF_MIXED = 10, 3
"""Clients that are named in all or for an episode, and for several episodes in one."""


async def history(
    folder: int, seconds: float, now: float, *, with_statements: bool = False
) -> dict[str, Any]:
    """The last `seconds` before `now` (Unix time), from the journal in a state directory, given its descriptor.

    Moments are Unix time, durations seconds. `with_statements`: for those who may know what is asked. Raises OSError
    if the journal cannot be read.
    """
    stretch = Stretch(now - seconds, now)
    on_record = read(folder)
    timeline = on_record.reduced.timeline
    first = min(on_record.reduced.days, default=None)
    since = first * DAY if first is not None else None
    if timeline.current is not None:
        stretch.add_days(on_record.reduced.days, timeline.current.begin)
    for number, event in enumerate(on_record.events, 1):
        since = event.at if since is None else since
        for episode in timeline.add(event):
            stretch.add(episode)
        stretch.add_event(event)
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
    stretch.finish()
    if (lasting := timeline.open(now, is_running=True)) is not None:
        stretch.add(lasting)
    found = [_poll(event, with_statements) for event in stretch.polls]
    return _as_dict(stretch, since, timeline.position.lost) | {"polls": found}


def _as_dict(stretch: Stretch, since: float | None, lost: int) -> dict[str, Any]:
    total = stretch.total()
    return {
        "begin": stretch.begin,
        "end": stretch.end,
        "on_record_since": since,
        "lines_lost": lost,
        "spans": [_span(one) for one in stretch.spans],
        "days": {
            time.strftime("%Y-%m-%d", time.gmtime(day * DAY)): {
                condition.value: round(spent, 3) for condition, spent in tally.seconds.items()
            }
            for day, tally in sorted(stretch.days.items())
        },
        "total": as_json(total) | {"wakers": _most(total.wakers)},
    }


def _span(one: Span) -> dict[str, Any]:
    head: dict[str, Any] = {"begin": round(one.begin, 3), "end": round(one.end, 3)}
    if isinstance(one, Mixed):
        said = {condition.value: round(seconds, 3) for condition, seconds in one.seconds.items()}
        return head | {
            "condition": "mixed",
            "seconds": said,
            "wakes": one.wakes,
            "wakers": _most(one.wakers, MOST_OF_MIXED),
        }
    return {"condition": one.condition.value} | head | _details(one)


def _details(one: Episode) -> dict[str, Any]:
    """What is known of an episode; what is not is left out, which is most."""
    used_by: dict[str, int] = {}
    for use in one.uses:
        used_by[use.by] = used_by.get(use.by, 0) + use.count
    said = {
        "lasts": one.lasts,
        "why": one.why,
        "cause": one.cause,
        "waker": one.waker,
        "parked": one.parked,
        "wait": one.wait,
        "took": one.took,
        "used_by": _most(used_by),
        "last_use": one.last_use,
        "idle": one.idle,
        "checkpoint": one.checkpoint,
        "shutdown": one.shutdown,
        "cut": list(one.cut),
    }
    return {name: value for name, value in said.items() if value}


def _poll(event: Event, with_statements: bool) -> dict[str, Any]:
    return {
        "at": event.at,
        "client": event.text("client") or None,
        "statement": (event.text("statement") or None) if with_statements else None,
        "every": event.seconds("every"),
    }


def _most(names: Mapping[str, int], most: int = MOST_NAMES) -> dict[str, int]:
    named = sorted(((count, name) for name, count in names.items() if name), key=lambda one: -one[0])
    return {name: count for count, name in named[:most]}

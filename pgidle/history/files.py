"""The journal's files, as they are read, and the older part reduced to day totals.

Three files in the state directory: the lines written last, those before them, and the totals of all days before those
lines begin. Each is optional. The older lines are in the totals as well once these say so (`covers`), and until the
file is replaced: so a reader, or a reduction that was interrupted, never counts them twice.
"""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pgidle.base.checked import LATEST
from pgidle.history.bounded_files import DAY_TOTALS, MOST_BYTES, lines_of, open_bounded
from pgidle.history.events import parse_all
from pgidle.history.journal import JOURNAL, LONGEST_LINE, OLDER
from pgidle.history.tally import DAY, MOST_DAYS, as_json, count_in, day_of, from_json, spend_in
from pgidle.history.timeline import Timeline, kept, restored
from pgidle.system.state_directory import LOCK, open_of_another

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from pgidle.history.events import Event
    from pgidle.history.tally import Days
    from pgidle.system.state_directory import StateDir

LONGEST_REST = 8 * LONGEST_LINE
"""Bytes of the day totals' file beside the days."""

LAST_LINES = 8
"""Lines from the end among which there is one that can be read."""


@dataclass(slots=True)
class Reduced:
    """The days before the lines begin, the timeline up to there, and what names the last lines that are in it."""

    days: Days = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    covers: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """Everything on record: `events` follow after what is `reduced`. Read them once, in order."""

    reduced: Reduced
    events: Iterator[Event]


def read(folder: int) -> Read:
    """What is on record in a state directory, given its descriptor. Missing files are empty; raises OSError for those
    that cannot be read."""
    # In this order: a file that is moved aside or reduced meanwhile is found under its new name, or noticed.
    with ExitStack() as ends:
        current, older = (_open(name, folder, ends) for name in (JOURNAL, OLDER))
        reduced = read_day_totals(folder)
        ends.pop_all()
    if older is not None and current is not None and os.path.sameopenfile(current.fileno(), older.fileno()):
        older.close()
        older = None
    return Read(reduced, _events(older, current, reduced.covers))


def read_of_another(state_dir: str) -> Read:
    """The same, of a supervisor that need not run. Raises OSError."""
    folder = open_record(state_dir)
    try:
        return read(folder)
    finally:
        os.close(folder)


def open_record(path: str) -> int:
    """Open a state directory, or a copy of its journal: a descriptor. Raises OSError; FileNotFoundError where the
    folder is neither."""
    folder = open_of_another(path)
    for name in (LOCK, JOURNAL, OLDER, DAY_TOTALS):
        try:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError:
            os.close(folder)
            raise
        return folder
    os.close(folder)
    raise FileNotFoundError(errno.ENOENT, "it has no journal", path)


def last_event(state_dir: str) -> Event | None:
    """The event on record last, of a supervisor that need not run; None if there is none that can be read."""
    try:
        folder = open_of_another(state_dir)
        try:
            file = open_bounded(JOURNAL, folder)
        finally:
            os.close(folder)
        if file is None:
            return None
        with file:
            # A line may be torn, or of a kind that a later version writes.
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_LINES * LONGEST_LINE))
            last = deque(parse_all(lines_of(file)), maxlen=1)
            return last[0] if last else None
    except OSError:
        return None


def read_day_totals(folder: int) -> Reduced:
    """The totals of older days; empty if the file is missing, or not in this format. Raises OSError."""
    file = open_bounded(DAY_TOTALS, folder)
    if file is None:
        return Reduced()
    with file:
        try:
            said: dict[str, Any] = json.loads(file.read(MOST_BYTES[DAY_TOTALS]))
            days = {_day(day): from_json(one) for day, one in said["days"].items()}
            return Reduced(days, restored(said["timeline"]), str(said["covers"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Reduced()


def reduce_older(state_dir: StateDir) -> None:
    """Add the older lines to the day totals, after which their file may be replaced. Raises OSError."""
    file = open_bounded(OLDER, state_dir.folder)
    if file is None:
        return
    with file:
        reduced = read_day_totals(state_dir.folder)
        covers = ""
        for event in parse_all(lines_of(file)):
            if not covers and (covers := _name(event)) == reduced.covers:
                return
            for episode in reduced.timeline.add(event):
                spend_in(reduced.days, episode)
            count_in(reduced.days, event)
    # Not simply the last ones: where the clock was wrong for a while, there are days to come.
    today = day_of(reduced.timeline.position.at)
    nearest = sorted(reduced.days, key=lambda day: abs(day - today))[:MOST_DAYS]
    days = _fitting({day: as_json(reduced.days[day]) for day in nearest})
    content = {"covers": covers or reduced.covers, "timeline": kept(reduced.timeline), "days": days}
    state_dir.keep(DAY_TOTALS, json.dumps(content) + "\n", durable=True)


def _fitting(days: dict[int, Any]) -> dict[int, Any]:
    """As many days as may be read again, the first ones of those given, in order."""
    left = MOST_BYTES[DAY_TOTALS] - LONGEST_REST
    fitting = {}
    for day, one in days.items():
        left -= len(json.dumps(one)) + len(f'"{day}": , ')
        if left < 0:
            break
        fitting[day] = one
    return dict(sorted(fitting.items()))


def _events(older: BinaryIO | None, current: BinaryIO | None, covers: str) -> Iterator[Event]:
    for file in (older, current):
        if file is None:
            continue
        with file:
            events = parse_all(lines_of(file))
            first = next(events, None)
            if first is not None and _name(first) != covers:
                yield first
                yield from events


def _name(first: Event) -> str:
    """What tells one file from another: its first event's run and number."""
    return f"{first.run}.{first.number}"


def _day(text: str) -> int:
    if not 0 <= (day := int(text)) <= LATEST / DAY:
        raise ValueError(f"{text} is not a day")
    return day


def _open(name: str, folder: int, ends: ExitStack) -> BinaryIO | None:
    file = open_bounded(name, folder)
    return ends.enter_context(file) if file is not None else None

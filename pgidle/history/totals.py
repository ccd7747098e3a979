"""What the whole journal adds up to, for counters that outlive every run of pgidle.

    totals = Totals(folder)
    counted = totals.count(time.time())
    totals.keep(state_dir)

A file remembers the sums and how far the journal had been read, so that only the lines since are read. Without the
file, or if the journal was replaced meanwhile, everything on record is read.

Prometheus takes a counter that goes down for one that began anew, and adds all of it once more. So what has been
counted of an episode that lasts is never taken back: the file's time of modification says up to when that was. If
pgidle is killed, Postgres was awake, or asleep, up to then at least, and only what follows is unknown.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from pgidle.base import checked
from pgidle.history.bounded_files import MOST_BYTES, lines_of, open_bounded
from pgidle.history.events import parse, parse_all
from pgidle.history.files import read_day_totals
from pgidle.history.journal import JOURNAL, LONGEST_LINE, OLDER
from pgidle.history.tally import Tally, as_json, from_json
from pgidle.history.timeline import Condition, Timeline, kept, restored
from pgidle.system.state_directory import LARGEST, open_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pgidle.history.events import Event
    from pgidle.history.journal import RunClock
    from pgidle.history.timeline import Episode
    from pgidle.system.state_directory import StateDir

TOTALS = "journal-totals.json"


@dataclass(frozen=True, slots=True)
class Counted:
    """Everything counted so far. `seconds` include the episode that lasts, which is `lasting`."""

    tally: Tally
    seconds: Mapping[Condition, float]
    lasting: Condition | None


class Totals:
    """Of one state directory, given its descriptor."""

    def __init__(self, folder: int, clock: RunClock | None = None) -> None:
        """`clock`: of the pgidle that runs; None: of none, or nobody knows."""
        self._folder = folder
        self._clock = clock
        self._tally = Tally()
        self._timeline = Timeline()
        self._shown: dict[Condition, float] = {}
        """The most seconds that were ever counted."""
        self._file = ""
        """What names the journal's file that was read last, and up to where."""
        self._offset = 0
        self._stamp: tuple[int, ...] | None = ()
        """What the journal's file looked like before it was read last."""
        self._is_new = False
        self._heard = 0.0
        self._restore()

    def count(self, now: float, *, is_running: bool = True) -> Counted:
        """Everything up to `now` (Unix time). Raises OSError for files that cannot be read."""
        self._follow()
        # The first line of a run may not have been written yet.
        is_running = is_running and (self._clock is None or self._clock.run == self._timeline.position.run)
        self._heard = self._moment(now) if is_running else 0.0
        lasting = [*self._lasting(self._heard or now, is_running)]
        self._show(lasting)
        return Counted(self._tally, self._shown, lasting[-1].condition if lasting else None)

    def keep(self, state_dir: StateDir) -> None:
        """Write the file, for the next reader: only its time, if there was nothing new to be read. Raises OSError."""
        if self._is_new:
            content = {
                "tally": as_json(self._tally),
                "timeline": kept(self._timeline),
                "shown": {condition.value: seconds for condition, seconds in self._shown.items()},
                "file": self._file,
                "offset": self._offset,
            }
            state_dir.keep(TOTALS, json.dumps(content) + "\n")
            self._is_new = False
        if self._heard:
            os.utime(TOTALS, (self._heard, self._heard), dir_fd=self._folder, follow_symlinks=False)

    def _moment(self, now: float) -> float:
        """The moment on the timeline, which the wall clock does not move between two lines."""
        at = self._timeline.position
        if self._clock is None:
            return now
        return at.at + max(0.0, self._clock.up() - at.up)

    def _show(self, lasting: Iterable[Episode]) -> None:
        """Add the episodes that last to the tally's seconds, but take nothing back."""
        seconds = dict(self._tally.seconds)
        for one in lasting:
            seconds[one.condition] = seconds.get(one.condition, 0.0) + one.seconds
        self._shown = {one: max(seconds.get(one, 0.0), self._shown.get(one, 0.0)) for one in Condition}

    def _lasting(self, now: float, is_running: bool) -> Iterator[Episode]:
        """The episodes that are not in the tally yet."""
        current = self._timeline.current
        last = self._timeline.open(now, is_running=is_running)
        if current is not None and last is not None:
            if last.condition is not current.condition:
                yield current
            yield last

    def _restore(self) -> None:
        """Go on from what is kept. What is not in this format is passed over, and everything read again."""
        try:
            file = open(open_own(TOTALS, self._folder, os.O_RDONLY), "rb")
        except OSError:
            return
        with file:
            heard = os.fstat(file.fileno()).st_mtime
            try:
                said: dict[str, Any] = json.loads(file.read(LARGEST))
                shown = {Condition(name): checked.seconds(seconds) for name, seconds in said["shown"].items()}
                tally, timeline = from_json(said["tally"]), restored(said["timeline"])
                name, offset = said["file"], checked.seconds(said["offset"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                return
        self._tally, self._timeline, self._shown = tally, timeline, shown
        self._file, self._offset = str(name), int(offset)
        if heard <= time.time() and _hear(timeline, heard) and timeline.current is not None:
            self._show([timeline.current])

    def _follow(self) -> None:
        """Read what is new."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._is_new = True
        with ExitStack() as ends:
            # In this order: a file that is moved aside meanwhile is found under its new name, or noticed.
            current, older = (self._open(name, ends) for name in (JOURNAL, OLDER))
            if not self._read_on(current, older):
                self._read_all(current, older)
        self._stamp = stamp

    def _read_on(self, current: _Part | None, older: _Part | None) -> bool:
        """Read the lines after those that were read before; False if these cannot be found."""
        if current is not None and current.name == self._file:
            last = current
        elif older is not None and older.name == self._file:
            last = older
        else:
            return False
        if os.fstat(last.lines.fileno()).st_size < self._offset:
            return False
        self._read(last, self._offset)
        if current is not None and current is not last:
            self._read(current, 0)
        return True

    def _read_all(self, current: _Part | None, older: _Part | None) -> None:
        """Read everything. What was shown before stays: sums are rounded where they are kept, and old days dropped."""
        reduced = read_day_totals(self._folder)
        self._tally, self._timeline = Tally(), reduced.timeline
        self._file, self._offset = "", 0
        for day in reduced.days.values():
            self._tally.merge(day)
        for part in {one.name: one for one in (older, current) if one is not None}.values():
            if part.name != reduced.covers:
                self._read(part, 0)

    def _read(self, part: _Part, offset: int) -> None:
        part.lines.seek(offset)
        while offset < MOST_BYTES[JOURNAL] and (line := part.lines.readline(LONGEST_LINE)):
            if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                break  # It is being written, or torn.
            offset += len(line)
            if (event := parse(line)) is not None:
                self._add(event)
        self._file, self._offset = part.name, offset

    def _add(self, event: Event) -> None:
        for episode in self._timeline.add(event):
            self._tally.spend(episode.condition, episode.seconds)
            if episode.condition is Condition.AWAKE:
                self._tally.woken_by(episode.waker)
        self._tally.count(event)

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(JOURNAL, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _open(self, name: str, ends: ExitStack) -> _Part | None:
        """A file of the journal; None if it has no event."""
        lines = open_bounded(name, self._folder)
        if lines is None:
            return None
        ends.enter_context(lines)
        first = next(parse_all(lines_of(lines)), None)
        return _Part(lines, f"{first.run}.{first.number}") if first is not None else None


@dataclass(frozen=True, slots=True)
class _Part:
    """A file of the journal, and what tells it from others: its first event's run and number."""

    lines: BinaryIO
    name: str


def _hear(timeline: Timeline, at: float) -> bool:
    """Note that the run under way was alive at a later moment; False if there is none, or it is no later."""
    before, current = timeline.position, timeline.current
    ahead = at - before.at
    if current is None or timeline.has_exited or ahead <= 0:
        return False
    timeline.position = replace(before, at=at, up=before.up + ahead)
    current.end += ahead
    return True

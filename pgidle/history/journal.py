"""The journal: what happened to Postgres, and why, as lines of JSON that outlive every supervisor. Here it is written.

One line for each event, in `journal.jsonl` of the state directory; docs/journal.md describes them, and `events` reads
them. Only the supervisor writes, and only after clients have been served. A line that cannot be written (a full disk)
is written later or given up; its number is missing then, which tells the reader that something is.
"""

from __future__ import annotations

import os
import time

from pgidle.base.errors import fault_text
from pgidle.base.json_text import encode, quoted
from pgidle.base.record import record
from pgidle.system.state_directory import open_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.base.json_text import Value
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir


JOURNAL, OLDER = "journal.jsonl", "journal-older.jsonl"
"""The lines written last, and those before them, which are the next to be reduced to day totals."""

DELIVERED = "journal-delivered"
"""Run and number of the last line that has been passed on (`on-event`)."""

SEGMENT_BYTES = 3 * 2**20
"""Bytes from which on the journal's file is moved aside."""

LARGEST_BYTES = 4 * SEGMENT_BYTES
"""Bytes that it may reach if nobody moves it aside, as when no observer can be started."""

LONGEST_LINE = 8192
"""Bytes of a line: longer texts are cut, and the longest fields left out."""

LONGEST_TEXT = 500
"""Characters of a field in it."""

MOST_UNWRITTEN, MOST_USES = 200, 100
"""Lines that are kept while the disk is full; and up to how many a use is kept, which matters less than the rest."""


@record
class RunClock:
    """The clock of one run of pgidle: `since` is when it began, by CLOCK_BOOTTIME, which never jumps."""

    run: int
    since: float

    def up(self) -> float:
        """Seconds since the run began."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.since


class Journal:
    """Lines are noted at once, and written by `write`."""

    def __init__(self, state_dir: StateDir, log: Log) -> None:
        self._state_dir = state_dir
        self._log = log
        self.clock = RunClock(int(time.time() * 1000), time.clock_gettime(time.CLOCK_BOOTTIME))
        self._number = 0
        self._unwritten: list[bytes] = []
        self._is_to_rotate = False

    def note(self, event: str, fields: Mapping[str, Value], more: str = "") -> None:
        """Note an event that happens now. `more`: fields that are JSON already, `,"name":value` for each."""
        self._number += 1
        up, run = self.clock.up(), self.clock.run
        head = (
            f'{{"at":{time.time():.3f},"up":{up:.3f},"run":{run},"n":{self._number},"event":{quoted(event)}'
        )
        cut = {name: v[:LONGEST_TEXT] if isinstance(v, str) else v for name, v in fields.items()}
        parts = [*(f",{quoted(name)}:{encode(value)}" for name, value in cut.items()), more]
        while len(head) + sum(map(len, parts)) + len("}\n") > LONGEST_LINE:
            parts.remove(max(parts, key=len))  # The event matters more than what is too long of it.
        line = f"{head}{''.join(parts)}}}\n".encode()
        most = MOST_USES if event == "use" else MOST_UNWRITTEN
        if len(self._unwritten) < most:
            self._unwritten.append(line)

    def rotate(self) -> None:
        """Move the file aside before the next line is written: the one before it has been reduced to day totals."""
        self._is_to_rotate = True

    @property
    def last(self) -> tuple[int, int]:
        """The run, and the number of its last line."""
        return self.clock.run, self._number

    def write(self) -> bool:
        """Write what has been noted; whether there was something. Where that fails, it is said in the log, and tried
        again the next time."""
        if not self._unwritten:
            return False
        try:
            self._write()
        except OSError as error:
            self._log.once("journal", f"cannot write the journal: {fault_text(error)}")
            return False
        self._log.forget("journal")
        return True

    def _write(self) -> None:
        folder = self._state_dir.folder
        # Two observers may each have said so; what is not full has just taken the place of what was.
        if self._is_to_rotate and is_full(self._state_dir):
            try:
                os.replace(JOURNAL, OLDER, src_dir_fd=folder, dst_dir_fd=folder)
            except FileNotFoundError:
                pass  # Somebody has removed it, to forget.
        self._is_to_rotate = False
        file = open_own(JOURNAL, folder, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(file).st_size
            if size > LARGEST_BYTES:
                self._unwritten.clear()
                raise OSError(27, "it has grown too large, as nothing has reduced it to day totals")
            data = b"".join(self._unwritten)
            if size and os.pread(file, 1, size - 1) != b"\n":
                data = b"\n" + data  # Its last line is torn, and stays so by itself.
            written = os.write(file, data)
            if written < len(data):
                # Half a line is no line: take it back, and write all of it once there is room.
                os.ftruncate(file, size)
                raise OSError(28, os.strerror(28))
            self._unwritten.clear()
        finally:
            os.close(file)


def is_full(state_dir: StateDir) -> bool:
    """Whether the file is so large that it is to be moved aside, once the one before it has been reduced."""
    try:
        found = os.stat(JOURNAL, dir_fd=state_dir.folder, follow_symlinks=False)
    except OSError:
        return False
    return found.st_size >= SEGMENT_BYTES

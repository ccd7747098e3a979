"""The journal's lines that the receiver of events has not been given yet.

The journal is the queue: `journal-delivered` in the state directory names the last line that was passed on, so what an
exit, a crash or a receiver that is away has left over follows later, in order.
"""

from __future__ import annotations

import json
import os

from pgidle.base.record import record
from pgidle.history.bounded_files import MOST_BYTES
from pgidle.history.journal import DELIVERED, JOURNAL, OLDER
from pgidle.system.state_directory import open_own

DELIVERED_BYTES = 48
"""Bytes of `journal-delivered`, padded, so that rewriting it needs no space on a disk that may be full."""

MOST = 500
"""Events that are kept for the receiver. If there are more, the oldest are dropped."""

NOT_DELIVERED = ("use",)
"""Events that are too frequent to tell anybody."""


@record
class Line:
    """A whole line of the journal, newline included."""

    run: int
    number: int
    event: str
    text: bytes

    @property
    def place(self) -> tuple[int, int]:
        return (self.run, self.number)


@record
class Undelivered:
    """At most MOST lines, the oldest first, and how many before them are dropped."""

    lines: tuple[Line, ...]
    dropped: int


def last_delivered(folder: int) -> tuple[int, int] | None:
    """Run and number of the line up to which everything has been delivered, of the state directory with this
    descriptor. Raises OSError."""
    words = _read(DELIVERED, folder, DELIVERED_BYTES).split()
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(map(bytes.isdigit, words)) else None


def mark_delivered(folder: int, last: tuple[int, int]) -> None:
    """Write that down. Raises OSError."""
    file = open_own(DELIVERED, folder, os.O_WRONLY | os.O_CREAT)
    try:
        os.pwrite(file, (b"%d %d\n" % last).ljust(DELIVERED_BYTES), 0)
    finally:
        os.close(file)


def find_undelivered(folder: int, last: tuple[int, int]) -> Undelivered:
    """The lines after that one, which need not be there any more. Raises OSError."""
    run, number = last
    text = _read(JOURNAL, folder)
    # Within a string there would be backslashes.
    found = text.rfind(exact := b'"run":%d,"n":%d,' % last)
    if found < 0:
        text = _read(OLDER, folder) + text
        found = text.rfind(exact)
    if found < 0:
        found = max(0, text.find(b'"run":%d,' % run))
    lines = text[text.rfind(b"\n", 0, found) + 1 :].splitlines(keepends=True)
    later = [
        line for line in map(_parse, lines) if line is not None and (line.run != run or line.number > number)
    ]
    wanted = [line for line in later if line.event not in NOT_DELIVERED]
    return Undelivered(tuple(wanted[-MOST:]), max(0, len(wanted) - MOST))


def _read(name: str, folder: int, most: int = MOST_BYTES[JOURNAL]) -> bytes:
    try:
        with open(open_own(name, folder, os.O_RDONLY), "rb") as file:
            return file.read(most)
    except FileNotFoundError:
        return b""


def _parse(text: bytes) -> Line | None:
    """A line; None if it is torn, or none."""
    try:
        fields = json.loads(text)
        run, number, event = fields["run"], fields["n"], fields["event"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_whole = text.endswith(b"\n") and type(run) is int and type(number) is int and isinstance(event, str)
    return Line(run, number, event, text) if is_whole else None

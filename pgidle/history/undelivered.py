"""The journal's lines that the receiver of events has not been given yet.

The journal is the queue: `journal-delivered` in the state directory names the last line that was passed on, so what an
exit, a crash or a receiver that is away has left over follows later, in order.
"""

from __future__ import annotations

import json
import os

from pgidle.base.record import record
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


@record
class Undelivered:
    """At most MOST lines, the oldest first, and how many before them are dropped."""

    lines: tuple[Line, ...]
    dropped: int


def find_undelivered(folder: int, after: tuple[int, int]) -> Undelivered:
    """What is to be delivered, of the state directory with this descriptor. Raises OSError.

    Where no line is known to have been delivered, or that line is gone, all lines of a run (`after[0]`) are, from the
    one after number `after[1]` on.
    """
    journal = _read(JOURNAL, folder)
    delivered = _read_delivered(folder)
    rest = _after(delivered, journal) if delivered is not None else None
    if rest is None and delivered is not None:
        rest = _after(delivered, older := _read(OLDER, folder))
        rest = rest + journal if rest is not None else None
        del older
    found = [
        line
        for text in (journal if rest is None else rest).splitlines(keepends=True)
        if (line := _parse(text))
    ]
    if rest is None:
        found = [line for line in found if line.run == after[0] and line.number > after[1]]
    wanted = [line for line in found if line.event not in NOT_DELIVERED]
    return Undelivered(tuple(wanted[-MOST:]), max(0, len(wanted) - MOST))


def mark_delivered(folder: int, line: Line) -> None:
    """Write down that everything up to this line has been delivered. Raises OSError."""
    file = open_own(DELIVERED, folder, os.O_WRONLY | os.O_CREAT)
    try:
        os.pwrite(file, f"{line.run} {line.number}\n".encode().ljust(DELIVERED_BYTES), 0)
    finally:
        os.close(file)


def _read(name: str, folder: int) -> bytes:
    try:
        with open(open_own(name, folder, os.O_RDONLY), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _read_delivered(folder: int) -> tuple[int, int] | None:
    words = _read(DELIVERED, folder).split()
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(map(bytes.isdigit, words)) else None


def _after(line: tuple[int, int], text: bytes) -> bytes | None:
    """The lines after the one with this run and number; None if it is not there."""
    # Within a string there would be backslashes.
    at = text.rfind(b'"run":%d,"n":%d,' % line)
    return text[at:].partition(b"\n")[2] if at >= 0 else None


def _parse(text: bytes) -> Line | None:
    """A line; None if it is torn, or none."""
    try:
        fields = json.loads(text)
        run, number, event = fields["run"], fields["n"], fields["event"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_whole = text.endswith(b"\n") and type(run) is int and type(number) is int and isinstance(event, str)
    return Line(run, number, event, text) if is_whole else None

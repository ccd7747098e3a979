"""Who caused the last wake, as the journal has it: also a client that was gone before any look."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgidle.history.events import Kind, parse_all
from pgidle.history.journal import JOURNAL, LONGEST_LINE
from pgidle.system.state_directory import open_own

if TYPE_CHECKING:
    from collections.abc import Sequence

LAST_LINES = 16
"""Lines of the greatest length from the end, among which a wake is looked for."""

NAMED = 3


def last_waker(folder: int, since: float) -> str:
    """The clients that the last wake was for, in a state directory, given its descriptor; empty if that is not on
    record, was something else, or was before `since` (Unix time)."""
    try:
        file = open_own(JOURNAL, folder, os.O_RDONLY)
    except OSError:
        return ""
    with open(file, "rb") as lines:
        lines.seek(max(0, os.fstat(file).st_size - LAST_LINES * LONGEST_LINE))
        wakes = [event for event in parse_all(lines) if event.kind is Kind.WOKEN]
    if not wakes or wakes[-1].at < since or wakes[-1].text("cause") != "client":
        return ""
    return _listed(wakes[-1].texts("by"))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")

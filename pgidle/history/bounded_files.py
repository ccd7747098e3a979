"""The journal's files, opened and read with limits: root's commands read them in folders of a lesser user, who could
put files there that fill the memory, or that take hours to read.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, BinaryIO

from pgidle.history.journal import JOURNAL, LARGEST_BYTES, LONGEST_LINE, MOST_UNWRITTEN, OLDER
from pgidle.system.state_directory import open_own

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_TOTALS = "journal-days.json"

MOST_BYTES = {
    # Its last write begins below LARGEST_BYTES, and may have as many lines as are kept.
    JOURNAL: LARGEST_BYTES + MOST_UNWRITTEN * (LONGEST_LINE + 1),
    OLDER: LARGEST_BYTES + MOST_UNWRITTEN * (LONGEST_LINE + 1),
    # Five years of days with 50 clients each.
    DAY_TOTALS: 8 * 2**20,
}
"""Bytes of each file that can be pgidle's."""


def open_bounded(name: str, folder: int) -> BinaryIO | None:
    """Open one of the files; None if it is missing. Raises OSError, also where it is larger than pgidle's can be."""
    try:
        file = open(open_own(name, folder, os.O_RDONLY), "rb")
    except FileNotFoundError:
        return None
    if os.fstat(file.fileno()).st_size > MOST_BYTES[name]:
        file.close()
        raise OSError(errno.EFBIG, f"{name} is larger than any that pgidle writes; move it away")
    return file


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines from where the file stands. One that is too long to be the journal's is left out; so is what is added
    to the file meanwhile, beyond what pgidle adds."""
    left = MOST_BYTES[JOURNAL]
    is_inside = False
    while left > 0 and (line := file.readline(LONGEST_LINE)):
        left -= len(line)
        was_inside, is_inside = is_inside, len(line) == LONGEST_LINE and not line.endswith(b"\n")
        if not (was_inside or is_inside):
            yield line

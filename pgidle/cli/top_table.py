"""Many supervisors as a table: two lines for each on a narrow terminal, one on a wide one. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pgidle.cli.asking import NOT_OURS
from pgidle.cli.status_table import COLOURS
from pgidle.cli.text_width import fitted, fitted_at_end, padded
from pgidle.control.sentence import NONSENSE, NOT_RUNNING, sentence
from pgidle.idle.reasons import duration_text, one_line
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgidle.cli.asking import Answer, Status

WIDE = 150
"""Columns from which on one line is enough for each."""

COLUMNS = (("state", 11), ("for", 9), ("sleeps in", 9), ("sess", 4), ("wait", 4), ("memory", 8))
NARROWEST = 12
"""Columns for a name, on however narrow a terminal."""
WIDEST = 44
NO_ANSWER = "?"
LONGEST_TEXT = 500
"""Characters of a text in an answer."""


@dataclass(frozen=True, slots=True)
class Row:
    """`state` is the state's noun, NOT_RUNNING, or NO_ANSWER. Texts are printable."""

    name: str
    state: str
    cells: tuple[str, ...]
    why: str


def row(answer: Answer, wall: float) -> Row:
    """What the table says of one supervisor. `wall` is Unix time."""
    said = answer.status
    if said is None:
        # Its name is there already.
        return _without(answer, answer.error.replace(f"the supervisor at {answer.where}", "it"))
    try:
        return _row(answer, said, wall)
    except NONSENSE:
        return _without(answer, NOT_OURS)


def head(rows: Sequence[Row], hidden: int, left_out: int = 0, *, is_root: bool) -> str:
    """How many there are of each state. `hidden`: those that could not be asked; `left_out`:
    those that were too many."""
    counts = Counter("no answer" if one.state == NO_ANSWER else one.state for one in rows)
    known = [*(state.noun for state in State), NOT_RUNNING, "no answer"]
    parts = [f"{counts[name]} {name}" for name in known if counts[name]]
    if hidden:
        why = "in containers, or with too long a path" if is_root else "run this as root"
        parts.append(f"{hidden} that may not be asked ({why})")
    if left_out:
        parts.append(f"{left_out} left out (too many)")
    return ", ".join(parts) or "no pgidle runs here"


def table(rows: Iterable[Row], width: int, *, colour: bool) -> tuple[str, list[str]]:
    """The headings, and the lines below; both empty if there are no rows."""
    rows = list(rows)
    if not rows:
        return "", []
    taken = sum(size + 1 for _, size in COLUMNS)
    widest = max((len(one.name) for one in rows), default=0)
    size = max(NARROWEST, min(widest, WIDEST, width - taken))
    is_wide = width >= WIDE
    heading = " ".join([padded("pgidle", size), *(padded(name, size) for name, size in COLUMNS)])
    lines = []
    for one in rows:
        cells = [padded(fitted(cell, room), room) for cell, (_, room) in zip(one.cells, COLUMNS, strict=True)]
        if colour:
            cells[0] = f"\x1b[1;{COLOURS.get(one.state, 33)}m{cells[0]}\x1b[0m"
        line = " ".join([padded(fitted_at_end(one.name, size), size), *cells])
        if is_wide:
            lines.append(fitted(f"{line} {one.why}", width))
        else:
            lines += [line.rstrip(), fitted(f"  {one.why}", width)]
    return f"{heading} why" if is_wide else heading.rstrip(), lines


def _row(answer: Answer, said: Status, wall: float) -> Row:
    spent, left = said.get("seconds_in_state"), said.get("sleeps_in")
    sizes = [size for size in said.get("memory", {}).values() if size is not None]
    # The state stands before it.
    why = sentence(said, wall).removeprefix("Awake: ")
    if woken_by := said.get("woken_by"):
        why = f"{why} Woken by {woken_by}."
    cells = (
        said["state"],
        duration_text(spent) if spent is not None else "",
        duration_text(left) if left is not None else "",
        _count(said.get("sessions")),
        _count(said.get("parked")),
        f"{sum(sizes) / 2**20:.1f} MB" if sizes else "",
    )
    return Row(_name(answer), _short(said["state"]), tuple(map(_short, cells)), _short(why))


def _without(answer: Answer, why: str) -> Row:
    return Row(_name(answer), NO_ANSWER, (NO_ANSWER, *("",) * 5), _short(why))


def _name(answer: Answer) -> str:
    """The folder of the control socket, or of a remote one the host, and whose it is: nothing of the answer, in which
    any user could write another database's name."""
    where = answer.where
    name = urlsplit(where).netloc if "://" in where else where.removesuffix("/pgidle")
    return one_line(f"{name} ({answer.owner})" if answer.owner else name)


def _short(text: str) -> str:
    """A text of an answer, cut before it is measured letter by letter."""
    return one_line(text[:LONGEST_TEXT])


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:d}"

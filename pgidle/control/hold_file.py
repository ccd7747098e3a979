"""Holds as kept across restarts: the file's format, and how much of a hold is left. Pure.

Moments are Unix time in seconds, as a hold outlives a reboot. A clock that is set back cannot make a hold longer than
it was when taken; nor can each restart extend it again, as its start is moved back to the current time.

A user who can write the file can keep Postgres awake, and nothing more. A file that is not exactly in this format is
ignored as a whole: it could not be told when its holds end, nor which of them to release.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from pgidle.control.orders import LONGEST_WHY, Program
from pgidle.settings.options import LONGEST

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 100
"""Holds at a time."""
LARGEST = 2**20
"""Bytes of a file: more than MOST holds of the longest kind take."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold: it ends `seconds` after `taken_at` (None: not by time), or when its program does."""

    number: int
    taken_at: float
    seconds: float | None
    why: str = ""
    program: Program | None = None

    def left(self, wall: float) -> float | None:
        """Seconds left; 0: it is over. None: it has no time limit."""
        return (
            None if self.seconds is None else min(self.seconds, max(0.0, self.taken_at + self.seconds - wall))
        )

    def counted_from(self, wall: float) -> Hold:
        """The same hold, but not taken later than `wall`, the present."""
        return replace(self, taken_at=min(self.taken_at, wall))


@dataclass(frozen=True, slots=True)
class HoldFile:
    """`last` is the highest number ever given out; `boot` identifies the machine's boot that the programs belong to."""

    boot: str = ""
    last: int = 0
    holds: tuple[Hold, ...] = ()


def to_text(content: HoldFile) -> str:
    holds = []
    for one in content.holds:
        program = one.program
        known = (
            None
            if program is None
            else {"pid": program.pid, "started": program.started, "name": program.name}
        )
        holds.append(asdict(replace(one, program=None)) | {"program": known})
    return json.dumps({"boot": content.boot, "last": content.last, "holds": holds}, indent=1) + "\n"


def from_text(text: str) -> HoldFile:
    """The content that `to_text` wrote. Raises ValueError, saying what is wrong, for anything else."""
    try:
        said = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _expect_keys(said, ("boot", "last", "holds"))
    boot, last, kept = said["boot"], said["last"], said["holds"]
    if not isinstance(boot, str) or not _is_number(last, int) or not isinstance(kept, list):
        raise ValueError("boot, last or holds has the wrong type")
    holds = tuple(_hold(one) for one in kept)
    numbers = [hold.number for hold in holds]
    if len(holds) > MOST or len(set(numbers)) < len(numbers) or not all(0 < one <= last for one in numbers):
        raise ValueError("too many holds, or hold numbers out of range or not unique")
    return HoldFile(boot, last, holds)


def _hold(said: Any) -> Hold:
    _expect_keys(said, ("number", "taken_at", "seconds", "why", "program"))
    number, taken_at, seconds, why = (said[name] for name in ("number", "taken_at", "seconds", "why"))
    program = _program(said["program"])
    if not _is_number(number, int) or not _is_number(taken_at, int, float):
        raise ValueError("a hold's number or taken_at is not a number")
    if not _is_text(why):
        raise ValueError(f"a hold's why is not text of up to {LONGEST_WHY} characters")
    if seconds is None and program is None:
        raise ValueError("a hold has no end")
    if seconds is not None and not (_is_number(seconds, int, float) and 0 < seconds <= LONGEST):
        raise ValueError("a hold's seconds are not a duration")
    return Hold(number, taken_at, seconds, why, program)


def _program(said: Any) -> Program | None:
    if said is None:
        return None
    _expect_keys(said, ("pid", "started", "name"))
    pid, started, name = said["pid"], said["started"], said["name"]
    if not (_is_number(pid, int) and _is_number(started, int) and pid > 0 <= started and _is_text(name)):
        raise ValueError("a hold's program is malformed")
    return Program(pid, started, name)


def _expect_keys(said: Any, names: Iterable[str]) -> None:
    if not isinstance(said, dict) or said.keys() != set(names):
        raise ValueError(f"expected an object with {', '.join(names)}")


def _is_number(value: object, *kinds: type) -> bool:
    """Excludes JSON's true, which is an int to Python, and numbers too large to add to a clock."""
    return type(value) in kinds and abs(value) < 2**53  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_WHY


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")

"""Holds as they are kept over restarts: what the file says, and how much of a hold is left. Pure.

Moments are Unix time, in seconds, for a hold outlives a reboot. A clock that was set back cannot make one longer than
it was when it was taken, nor can the next restart do it again, for its beginning is moved to what the clock says now.

Whoever may write the file may keep Postgres awake, and no more. A file that is not wholly as we write it counts as no
file: nobody would know when to let go, nor which hold to release.
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
"""Bytes of a file: more than MOST of the longest."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold: it ends `seconds` after `taken_at` (None: not by time), or when its program does."""

    number: int
    taken_at: float
    seconds: float | None
    why: str = ""
    program: Program | None = None

    def left(self, wall: float) -> float | None:
        """Seconds that are left of it; 0: it is over. None: it does not end by time."""
        return (
            None if self.seconds is None else min(self.seconds, max(0.0, self.taken_at + self.seconds - wall))
        )

    def counted_from(self, wall: float) -> Hold:
        """The same hold, taken in the future by nobody's clock."""
        return replace(self, taken_at=min(self.taken_at, wall))


@dataclass(frozen=True, slots=True)
class HoldFile:
    """`last` is the highest number that was ever given; `boot` says which boot of the machine the programs are of."""

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
    """What `to_text` wrote. Raises ValueError, with what is wrong, for anything else."""
    try:
        said = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _expect_keys(said, ("boot", "last", "holds"))
    boot, last, kept = said["boot"], said["last"], said["holds"]
    if not isinstance(boot, str) or not _is_number(last, int) or not isinstance(kept, list):
        raise ValueError("boot, last or holds is of another kind")
    holds = tuple(_hold(one) for one in kept)
    numbers = [hold.number for hold in holds]
    if len(holds) > MOST or len(set(numbers)) < len(numbers) or not all(0 < one <= last for one in numbers):
        raise ValueError("there are too many holds, or their numbers are not theirs alone")
    return HoldFile(boot, last, holds)


def _hold(said: Any) -> Hold:
    _expect_keys(said, ("number", "taken_at", "seconds", "why", "program"))
    number, taken_at, seconds, why = (said[name] for name in ("number", "taken_at", "seconds", "why"))
    program = _program(said["program"])
    if not _is_number(number, int) or not _is_number(taken_at, int, float):
        raise ValueError("a hold's number or taken_at is no number")
    if not _is_text(why):
        raise ValueError(f"a hold's why is no text of up to {LONGEST_WHY} characters")
    if seconds is None and program is None:
        raise ValueError("a hold has no end")
    if seconds is not None and not (_is_number(seconds, int, float) and 0 < seconds <= LONGEST):
        raise ValueError("a hold's seconds are no length of time")
    return Hold(number, taken_at, seconds, why, program)


def _program(said: Any) -> Program | None:
    if said is None:
        return None
    _expect_keys(said, ("pid", "started", "name"))
    pid, started, name = said["pid"], said["started"], said["name"]
    if not (_is_number(pid, int) and _is_number(started, int) and pid > 0 <= started and _is_text(name)):
        raise ValueError("a hold's program is not described as one")
    return Program(pid, started, name)


def _expect_keys(said: Any, names: Iterable[str]) -> None:
    if not isinstance(said, dict) or said.keys() != set(names):
        raise ValueError(f"an object of {', '.join(names)} is expected")


def _is_number(value: object, *kinds: type) -> bool:
    """JSON's true is an int to Python; what cannot be added to a clock is no number here."""
    return type(value) in kinds and abs(value) < 2**53  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_WHY


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")

"""What the supervisor and its observer say to each other: one record for each thing said.

Times are monotonic seconds, which all processes of a machine share. `period` numbers the spans in which Postgres is
looked at; a judgement of an earlier span than the present one counts for nothing. `number` numbers what is asked.
"""

from __future__ import annotations

from pgidle.base.record import Enum, record
from pgidle.lifecycle.restarts import FailedStart
from pgidle.lifecycle.transitions import State
from pgidle.settings.options import Counts, Ignore, IgnoreField, LogFormat, Tls, WhenIdle
from pgidle.settings.settings import Settings

TYPE_CHECKING = False


@record
class Situation:
    """All that the supervisor knows of itself. Sent whenever the state has changed, and when it is asked for.

    `resident`: its memory in bytes, which nobody else may be allowed to read. `number`: what the observer has asked
    last, and has been dealt with by now.
    """

    state: State
    since: float
    why: str
    parked: int
    postmaster_pid: int | None
    is_initialising: bool
    started: float
    wakes: int
    sleeps: int
    crashes: int
    failed_start: FailedStart | None
    resident: int
    number: int = 0


@record
class Attend:
    """Postgres serves, from now on or again: look at it. `postmaster_pid` tells one that is new."""

    period: int
    postmaster_pid: int


@record
class Confirm:
    """Postgres accepts nobody any more: look for the last time."""

    period: int


@record
class Adopt:
    """Other settings hold."""

    settings: Settings


@record
class TryStart:
    """Something has changed that Postgres would be started with."""


@record
class Slept:
    """Postgres was put to sleep, for this reason; the shutdown took so many seconds. For the memory of sleeps."""

    why: str
    seconds: float


@record
class StartFailed:
    """A start has failed, and is tried again: who has asked for a wake is told."""

    why: str


@record
class Connection:
    """Somebody has connected, and has sent `data` so far. A descriptor comes with it."""

    is_control: bool
    data: bytes


@record
class Ping:
    """Is anybody there? Answered by a `Pong`."""


@record
class End:
    """Answer who has asked, and end. `is_exit`: the supervisor ends too, with this status."""

    is_exit: bool
    status: int = 0


@record
class Ready:
    """The observer hears what it is told."""


@record
class Pong:
    """It still does."""


class Judgement(Enum):
    """`IDLE`: nobody uses Postgres, and the checkpoint before a sleep has been made. `CONFIRMED`: it still is so, with
    nobody let in any more. `USED`: it is not."""

    IDLE = "idle"
    CONFIRMED = "confirmed"
    USED = "used"


@record
class Judged:
    """What the looks of a period add up to. `at`: when that was judged."""

    period: int
    judgement: Judgement
    why: str
    at: float


@record
class WakeWanted:
    """Somebody has asked for a wake. Answered by a `Situation` of this number or a later one."""

    number: int
    why: str


@record
class SituationWanted:
    """Answered by a `Situation` of this number or a later one."""

    number: int


@record
class FilesChanged:
    """Files that Postgres reads have changed, or the settings file has (`is_settings`)."""

    names: tuple[str, ...]
    is_settings: bool


@record
class HoldsChanged:
    """The holds, as their file has them, or would where the disk is full: for the next observer."""

    content: str


@record
class Looks:
    """How many looks there have been, and how many of them failed: for the next observer to count on."""

    taken: int
    failed: int


if TYPE_CHECKING:
    from typing import TypeAlias

    ToObserver: TypeAlias = (
        Situation | Attend | Confirm | Adopt | TryStart | Slept | StartFailed | Connection | Ping | End
    )
    ToSupervisor: TypeAlias = (
        Ready | Pong | Judged | WakeWanted | SituationWanted | FilesChanged | HoldsChanged | Looks
    )

_PARTS = (State, FailedStart, Settings, Counts, Ignore, IgnoreField, LogFormat, Tls, WhenIdle, Judgement)
TO_OBSERVER = {
    one.__name__: one
    for one in (
        *(Situation, Attend, Confirm, Adopt, TryStart, Slept, StartFailed, Connection, Ping, End),
        *_PARTS,
    )
}
"""What an observer may be told, and what that is made of."""
TO_SUPERVISOR = {
    one.__name__: one
    for one in (
        *(Ready, Pong, Judged, WakeWanted, SituationWanted, FilesChanged, HoldsChanged, Looks),
        *_PARTS,
    )
}
"""What an observer may say."""

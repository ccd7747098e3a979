"""The messages between the supervisor and its observer: one record for each kind.

Times are monotonic seconds, which all processes of a machine share. `period` numbers the spans of time in which
Postgres is watched; a judgement from an earlier period does not count. `number` numbers the observer's questions.
"""

from __future__ import annotations

from pgidle.base.record import Enum, record
from pgidle.lifecycle.restarts import FailedStart
from pgidle.lifecycle.transitions import State
from pgidle.settings.options import Counts, Ignore, IgnoreField, LogFormat, Price, Tls, WhenIdle
from pgidle.settings.resolve import Settings

TYPE_CHECKING = False


@record
class Situation:
    """Everything that the supervisor knows of itself. Sent whenever the state changes, and on request.

    `resident`: its memory in bytes, which no other process may be allowed to read. `number`: the observer's latest
    question that has been handled.
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
    """Postgres serves clients, from now on or again: watch it. A new `postmaster_pid` means a new start."""

    period: int
    postmaster_pid: int


@record
class Confirm:
    """The gate is shut: look for the last time."""

    period: int


@record
class Adopt:
    """Use these settings from now on."""

    settings: Settings


@record
class TryStart:
    """Something that Postgres starts with has changed: try a start."""


@record
class Slept:
    """Postgres was put to sleep, why, and how many seconds the shutdown took: to be recorded."""

    why: str
    seconds: float


@record
class StartFailed:
    """A start has failed, and is retried: answer the requests for a wake."""

    why: str


@record
class Connection:
    """A connection, on which `data` has been read so far. Its descriptor comes with the message. `peer`: who is at the
    other end of the control socket."""

    is_control: bool
    data: bytes
    peer: str = ""


@record
class Ping:
    """Answered by a `Pong`."""


@record
class End:
    """Finish your answers, and exit. `is_exit`: the supervisor exits too, with this status."""

    is_exit: bool
    status: int = 0


@record
class Ready:
    """The observer reads its messages from now on."""


@record
class Pong:
    """The answer to a `Ping`."""


class Judgement(Enum):
    """`IDLE`: nobody uses Postgres, and the checkpoint before the sleep is done. `CONFIRMED`: still so, with the gate
    shut. `USED`: no longer so, with the gate shut."""

    IDLE = "idle"
    CONFIRMED = "confirmed"
    USED = "used"


@record
class Judged:
    """A judgement from the looks of a period. `at` (monotonic): with the gate shut, when the last look was ordered, as
    the observer may have been suspended at any moment after that; else when it was made."""

    period: int
    judgement: Judgement
    why: str
    at: float


@record
class WakeWanted:
    """A wake was asked for. Answered by a `Situation` with this number or a later one."""

    number: int
    why: str


@record
class SituationWanted:
    """Answered by a `Situation` with this number or a later one."""

    number: int


@record
class FilesChanged:
    """Files that Postgres reads have changed, or the settings file (`is_settings`)."""

    names: tuple[str, ...]
    is_settings: bool


@record
class HoldsChanged:
    """The content of the holds' file, even if the disk is full: for the next observer."""

    content: str


@record
class Noted:
    """An entry for the journal. `fields` are JSON: `,"name":value` for each."""

    event: str
    fields: str


@record
class Used:
    """Postgres was used, after it had been idle for so many seconds; by whom."""

    idle: float
    by: str


@record
class LastLook:
    """What the last look before a sleep tells about it, for the journal. `fields` are JSON, as in `Noted`."""

    fields: str


@record
class JournalReduced:
    """The journal's older lines are in the day totals, and their file may be replaced."""


@record
class Looks:
    """How many looks have been taken, and how many of them failed: for the next observer to continue from."""

    taken: int
    failed: int


if TYPE_CHECKING:
    from typing import TypeAlias

    ToObserver: TypeAlias = (
        Situation | Attend | Confirm | Adopt | TryStart | Slept | StartFailed | Connection | Ping | End
    )
    ToSupervisor: TypeAlias = (
        Ready
        | Pong
        | Judged
        | WakeWanted
        | SituationWanted
        | FilesChanged
        | HoldsChanged
        | Noted
        | Used
        | LastLook
        | JournalReduced
        | Looks
    )

_PARTS = (
    State,
    FailedStart,
    Settings,
    Counts,
    Ignore,
    IgnoreField,
    LogFormat,
    Price,
    Tls,
    WhenIdle,
    Judgement,
)
TO_OBSERVER = {
    one.__name__: one
    for one in (
        *(Situation, Attend, Confirm, Adopt, TryStart, Slept, StartFailed, Connection, Ping, End),
        *_PARTS,
    )
}
"""The messages that an observer accepts, and the types of their fields."""
TO_SUPERVISOR = {
    one.__name__: one
    for one in (
        *(Ready, Pong, Judged, WakeWanted, SituationWanted, FilesChanged, HoldsChanged),
        *(Noted, Used, LastLook, JournalReduced, Looks),
        *_PARTS,
    )
}
"""The messages that the supervisor accepts, and the types of their fields."""

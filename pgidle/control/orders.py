"""The orders that the control socket takes: one record for each command. Times are seconds."""

from __future__ import annotations

from pgidle.base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_WHY = 200
"""Most characters of a hold's reason."""


@record
class Program:
    """A running program. `started` (clock ticks since boot, proc_pid_stat(5)) tells it from a later one of its pid."""

    pid: int
    started: int
    name: str


@record
class Sleep:
    """Sleep now, if nobody is active; with `force` in any case.

    Answered once that is decided, or with `wait` once Postgres sleeps.
    """

    force: bool = False
    wait: bool = False


@record
class Wake:
    """Wake now, and count as a use. Answered at once, or with `wait` once Postgres accepts connections."""

    wait: bool = False


@record
class Hold:
    """Stay awake for `seconds`, or for as long as `program` runs, or until the first of the two ends.

    Answered once it is written to disk; for a program, which waits to begin, once Postgres accepts connections.
    """

    seconds: float | None
    why: str = ""
    program: Program | None = None


@record
class Release:
    """End one hold, or all of them."""

    name: str | None = None


Order = Sleep | Wake | Hold | Release


@record
class Requested:
    """An order that was given at the control socket.

    `by`: who gave it. `reply` is called once, with whether the order was granted and a line about it. `is_awaited`
    tells whether its client still waits for that.
    """

    order: Order
    by: str
    reply: Callable[[bool, str], None]
    is_awaited: Callable[[], bool]

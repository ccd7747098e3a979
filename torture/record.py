"""What happened in a round, as values: what clients met, which faults were in force when, and which process ended how.

All times are time.monotonic().
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgidle.gate.gate import Mode


class Doing(enum.Enum):
    """What a client was doing when it failed."""

    CONNECT = "connect"
    IDLE = "in an idle session"
    HELD = "in a session that must not be cut"
    CANCEL = "cancel"


class Cuts(enum.Enum):
    """Which open sessions a fault may end."""

    NONE = 0
    IDLE = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Failure:
    """One client's bad moment. `idle`: seconds since the session's last reply, when it sent the statement that failed
    or was cut. `held`: since when nobody but a fault might cut it, for Doing.HELD."""

    began: float
    at: float
    who: str
    doing: Doing
    text: str
    sqlstate: str | None = None
    idle: float = 0.0
    held: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a fault excuses while it lasts. Whatever is not said here is a violation.

    `cuts`: sessions that may end.
    `in_flight`: whom Postgres had accepted and not yet authenticated when it was hit may fail with it, one connection
    for each client. `late`: so many of those that came then may, too, before anybody could know ("Known limits" in
    docs/how.md).
    `deaf`: a backend may hear a cancel request before it reads the statement that it is for.
    `exits`: statuses with which the supervisor may end; while it is gone nobody holds its addresses. `gives_up`: more
    of them, for one that does not stay.
    `crashes`: Postgres may end otherwise than by being put to sleep or stopped.
    `errors`: classes of SQLSTATE that Postgres itself may answer with, until the fault is lifted; `words`: what such an
    answer to a connection says, of which a client library tells no SQLSTATE.
    """

    cuts: Cuts = Cuts.NONE
    in_flight: bool = False
    late: int = 0
    deaf: bool = False
    exits: frozenset[int] = frozenset()
    gives_up: frozenset[int] = frozenset()
    crashes: bool = False
    errors: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(slots=True)
class Window:
    """One injection of a fault: from just before it until a client was served again after it.

    `felt`: when pgidle is known to have noticed; None if it need not. `parks_since`: since when newcomers were kept
    waiting when it happened; None if Postgres accepted them. `lifted`: when its cause was taken away again.
    """

    fault: str
    allowance: Allowance
    began: float
    ended: float = float("inf")
    felt: float | None = None
    parks_since: float | None = None
    lifted: float = float("inf")

    def overlaps(self, since: float, until: float) -> bool:
        return self.began <= until and since <= self.ended


@dataclass(slots=True)
class Exit:
    """One end of the supervisor. `listening`: when the next one held the TCP address, if one was started; `serving`:
    when its Postgres had made the Unix socket, at the latest. `stopping`: when it was told to stop, or began to
    leave for good, from which on the Unix socket refuses.

    `said`: whether it had written a line; before that Python itself is what a signal meets. `is_clean`: whether
    pg_controldata says that the cluster is shut down.
    """

    status: int
    at: float
    said: bool
    is_clean: bool
    listening: float = float("inf")
    serving: float = float("inf")
    stopping: float = float("inf")


@dataclass(slots=True)
class Tally:
    """What the clients of a round did and met."""

    tried: int = 0
    commits: int = 0
    strangers: int = 0
    longest: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def fail(
        self,
        began: float,
        who: str,
        doing: Doing,
        error: BaseException | str,
        idle: float = 0.0,
        held: float = 0.0,
    ) -> None:
        text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
        sqlstate = getattr(error, "sqlstate", None)
        self.failures.append(
            Failure(began, time.monotonic(), who, doing, " ".join(text.split()), sqlstate, idle, held)
        )


@dataclass(slots=True)
class Round:
    """Everything that the checks judge."""

    idle_timeout: float
    stays: bool
    keeps_socket: bool = False
    """Whether the platform goes on listening when the supervisor is gone."""
    local: frozenset[str] = frozenset()
    """Clients that come over the Unix socket."""
    gates: frozenset[Mode] = frozenset()
    """Gate modes that it said to have."""
    tally: Tally = field(default_factory=Tally)
    windows: list[Window] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    crashes: list[tuple[float, str]] = field(default_factory=list)
    """When and why pgidle lost a Postgres that it had, by its own account."""
    stops: list[float] = field(default_factory=list)
    """When it began to put Postgres to sleep."""
    violations: list[str] = field(default_factory=list)
    """Promises that pgidle broke."""
    harness: str | None = None
    """Why the round could not be played to its end, through no fault of pgidle's as far as is known."""
    excuses: dict[str, int] = field(default_factory=dict)
    """How many failures were no violation, by the name of the ruling."""
    lost: int = 0
    sleeps: int = 0

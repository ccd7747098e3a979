"""The reasons behind a verdict, worded for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgidle.idle.snapshot import Session, Slot


class ReasonKind(Enum):
    """Activity restarts the idle clock, a blocker delays sleep, unknown counts as activity."""

    ACTIVITY = "activity"
    BLOCKER = "blocker"
    UNKNOWN = "unknown"
    CLOCK = "clock"
    NOTE = "note"


class Signal(Enum):
    """What was noticed."""

    SESSION_STATE = "session_state"
    NEW_SESSION = "new_session"
    VANISHED_SESSION = "vanished_session"
    COUNTERS = "counters"
    CONNECTING = "connecting"
    REPLICATION = "replication"
    BASE_BACKUP = "base_backup"
    SUBSCRIPTION = "subscription"
    MAINTENANCE = "maintenance"
    ADVISORY_LOCK = "advisory_lock"
    LISTENER = "listener"
    IDLE_SESSION = "idle_session"
    LEASE = "lease"
    PREPARED_TRANSACTIONS = "prepared_transactions"
    REPLICATION_SLOT = "replication_slot"
    PROMOTION = "promotion"
    DISK = "disk"
    CONFIGURATION = "configuration"
    LOOK = "look"
    IDLE_TIMEOUT = "idle_timeout"
    MIN_AWAKE = "min_awake"
    IGNORED_STATEMENT = "ignored_statement"
    FLAPPING = "flapping"


@dataclass(frozen=True, slots=True)
class Reason:
    """`text` says what it is and since when; `ends`, which may be empty, completes "ends ...". `client` names the
    client behind it, where that is shorter than `text`."""

    kind: ReasonKind
    signal: Signal
    text: str
    ends: str = ""
    client: str = ""

    @property
    def keeps(self) -> bool:
        """Whether it keeps Postgres awake for as long as it lasts."""
        return bool(self.ends) and self.kind in (ReasonKind.ACTIVITY, ReasonKind.BLOCKER)

    def __str__(self) -> str:
        return f"{self.text}; ends {self.ends}" if self.ends else self.text


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether Postgres is idle, and why.

    `sleeps_at` (monotonic) is when it would sleep if nothing happens; None: not foreseeable. `next_look`: seconds
    until the next look.
    """

    idle: bool
    reasons: tuple[Reason, ...]
    sleeps_at: float | None
    next_look: float


def duration_text(seconds: float) -> str:
    """A duration for people, in at most two units: 0.4s, 12s, 5min 2s, 3h 20min, 2d 4h."""
    if seconds < 10:
        return f"{round(max(seconds, 0.0), 1):g}s"
    whole = round(seconds)
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        parts.append(f"{count}{unit}" if count else "")
    first = next(index for index, part in enumerate(parts) if part)
    return " ".join(part for part in parts[first : first + 2] if part)


def who(session: Session) -> str:
    """A session as a person would recognise it: `session 4711 (app "rails", user app, 10.0.0.3)`."""
    kind = "session" if session.is_client else session.backend_type
    facts = _facts(session)
    return one_line(f"{kind} {session.pid} ({facts})" if facts else f"{kind} {session.pid}")


def client_text(session: Session) -> str:
    """The client of a session, the same after it has reconnected: `app "rails", user app, 10.0.0.3`."""
    return one_line(_facts(session) or "an unnamed client")


def _facts(session: Session) -> str:
    name = session.application_name
    facts = (
        f'app "{name}"' if name else "",
        f"user {session.usename}" if session.usename else "",
        f"database {session.datname}" if session.datname and not session.is_client else "",
        session.client_addr or ("Unix socket" if session.client_port == -1 else ""),
    )
    return ", ".join(fact for fact in facts if fact)


def slot_text(slot: Slot) -> str:
    """What an inactive replication slot costs."""
    amount = f"{slot.held_back / 2**20:.1f} MB of" if slot.held_back else "no"
    return one_line(f'{slot.slot_type} replication slot "{slot.name}" is inactive and retains {amount} WAL')


def one_line(text: str) -> str:
    """The text with unprintable characters replaced: role and database names may contain anything, even line breaks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)

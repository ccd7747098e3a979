"""Sleep is pointless while a client reconnects as soon as it is cut: notice it, back off, name the client. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgidle.idle.between_looks import is_ignored, may_wake
from pgidle.idle.reasons import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.idle.snapshot import Session, Snapshot
    from pgidle.settings.resolve import Settings

SOON = 10.0
LONGEST = 3600.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Idle time on top of the setting (seconds), and the client that made it necessary."""

    extra: float = 0.0
    culprit: str = ""


@dataclass(frozen=True, slots=True)
class Sleep:
    """One past sleep, in seconds on any one clock.

    `cut`: the applications that were connected when it began (`applications` of the last look). `woken_by`: the
    application that came first afterwards (`waker` of the first look that saw one); None if none was seen.
    """

    asleep_at: float
    woken_at: float
    cut: frozenset[str] = frozenset()
    woken_by: str | None = None


@dataclass(frozen=True, slots=True)
class LastSleep:
    """The most recent sleep: why Postgres was put to sleep, when (Unix time, seconds), and how many seconds the
    shutdown took, if known."""

    why: str
    at: float
    seconds: float | None = None


def application(session: Session) -> str:
    """What identifies a client after it has reconnected with a new pid and port."""
    name = f'app "{session.application_name}"' if session.application_name else ""
    facts = (name, f"user {session.usename}" if session.usename else "", session.client_addr or "")
    return one_line(", ".join(fact for fact in facts if fact) or "somebody")


def applications(look: Snapshot, settings: Settings) -> frozenset[str]:
    """The applications that are connected, which a shutdown would cut: `Sleep.cut`."""
    return frozenset(application(s) for s in look.sessions if _may_wake(s, settings))


def waker(look: Snapshot, settings: Settings) -> str | None:
    """The application that came first, of those still there: `Sleep.woken_by`."""
    clients = [session for session in look.sessions if _may_wake(session, settings)]
    return application(min(clients, key=lambda session: session.backend_start)) if clients else None


def ignored_waker(look: Snapshot, settings: Settings) -> str | None:
    """The application that came first, if `ignore` matches it: the gate cannot tell that of a client that waits."""
    clients = [session for session in look.sessions if session.is_client and may_wake(session, settings)]
    first = min(clients, key=lambda session: session.backend_start, default=None)
    return application(first) if first is not None and is_ignored(first, settings) else None


def _may_wake(session: Session, settings: Settings) -> bool:
    comes = session.is_client or session.is_walsender
    return comes and may_wake(session, settings) and not is_ignored(session, settings)


def flapping(
    history: Sequence[Sleep], idle_timeout: float | None, *, soon: float = SOON, longest: float = LONGEST
) -> Backoff:
    """How much longer to wait, given the past sleeps, oldest first.

    A sleep that was ended within `soon` seconds by an application that it had cut, or that had ended the sleep before,
    doubles the idle time, up to `longest`. A sleep that lasted, or that another application ended, makes all earlier
    ones irrelevant; so does one whose waker was gone before a look could see it, which no pool or LISTENer ever is.
    """
    if idle_timeout is None:
        return Backoff()
    repeats = 0
    for index in range(len(history) - 1, -1, -1):
        earlier = history[index - 1].woken_by if index else ""
        if not _flapped(history[index], earlier, soon):
            break
        repeats += 1
    if not repeats:
        return Backoff()
    patience = min(max(idle_timeout, 1.0) * 2.0 ** min(repeats, 32), max(longest, idle_timeout))
    return Backoff(patience - idle_timeout, history[-1].woken_by or "")


def _flapped(sleep: Sleep, earlier: str | None, soon: float) -> bool:
    lasted = sleep.woken_at - sleep.asleep_at
    known = sleep.woken_by is not None
    return known and 0 <= lasted < soon and (sleep.woken_by in sleep.cut or sleep.woken_by == earlier)

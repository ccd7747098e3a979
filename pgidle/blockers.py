"""What must end before Postgres may sleep, although nobody uses it at this moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgidle.changes import is_ignored
from pgidle.options import Counts
from pgidle.reasons import Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgidle.settings import Settings
    from pgidle.snapshot import Key, Session, Snapshot


@dataclass(frozen=True, slots=True)
class Blocker:
    """Something that must end first. `state` is what follows its name, as in "holds an advisory lock"."""

    signal: Signal
    session: Session
    state: str
    ends: str

    @property
    def key(self) -> tuple[Signal, Key]:
        return (self.signal, self.session.key)


def blockers(look: Snapshot, settings: Settings) -> Iterator[Blocker]:
    """Replication, subscriptions, maintenance, idle sessions that the settings keep; not ignored ones."""
    for session in look.sessions:
        if is_ignored(session, settings):
            continue
        if session.is_client:
            if session.state == "idle":
                yield from _idle_client(session, settings)
        elif _replicates(session):
            if settings.replication is Counts.KEEP:
                yield _replication(session)
        elif session.is_autovacuum_worker or session.is_working:
            yield Blocker(Signal.MAINTENANCE, session, "works", "when it is done")


def _idle_client(session: Session, settings: Settings) -> Iterator[Blocker]:
    if session.advisory_locks and settings.advisory_locks is Counts.KEEP:
        ends = "when it releases the lock or disconnects"
        yield Blocker(Signal.ADVISORY_LOCK, session, "is idle and holds an advisory lock", ends)
    if session.listening and settings.listeners is Counts.KEEP:
        ends = "when it does something else or disconnects"
        yield Blocker(Signal.LISTENER, session, "waits for notifications", ends)
    if settings.idle_sessions is Counts.KEEP:
        yield Blocker(Signal.IDLE_SESSION, session, "is connected", "when it disconnects")


def _replicates(session: Session) -> bool:
    return session.is_walsender or session.is_subscription_worker or session.backend_type == "walreceiver"


def _replication(session: Session) -> Blocker:
    if session.base_backup:
        return Blocker(Signal.BASE_BACKUP, session, "takes a base backup", "when the backup is done")
    if session.is_walsender:
        return Blocker(Signal.REPLICATION, session, "replicates", "when its receiver disconnects")
    if session.backend_type == "walreceiver":
        return Blocker(Signal.REPLICATION, session, "replicates", "when its primary is gone")
    of = f" to {session.subscription}" if session.subscription else ""
    return Blocker(
        Signal.SUBSCRIPTION, session, f"is subscribed{of}", "when the subscription is disabled or dropped"
    )

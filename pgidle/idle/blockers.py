"""What must end before Postgres may sleep, although nobody is using it at the moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgidle.idle.between_looks import is_ignored
from pgidle.idle.reasons import Signal, one_line, who
from pgidle.idle.start_result import Startable, StartResult
from pgidle.settings.options import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgidle.idle.snapshot import FreeSpace, Key, Session, Snapshot
    from pgidle.settings.resolve import Settings


NO_SESSION = (0, 0)
BYTES_TO_START = 32 * 2**20
"""With less room than two WAL segments, Postgres may shut down and then be unable to start."""

FILES_TO_START = 16
"""Postgres creates its pid file, its socket's lock file, and temporary files for statistics and WAL."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """Something that must end first. `state` completes a sentence that begins with its name, as in "holds an advisory
    lock". Without a `session` it concerns Postgres as a whole.
    """

    signal: Signal
    session: Session | None
    state: str
    ends: str

    @property
    def key(self) -> tuple[Signal, Key]:
        return (self.signal, self.session.key if self.session else NO_SESSION)

    @property
    def who(self) -> str:
        return who(self.session) if self.session else "Postgres"


def blockers(look: Snapshot, settings: Settings, start: StartResult | None = None) -> Iterator[Blocker]:
    """Replication, subscriptions, base backups, maintenance, and idle sessions that the settings let block sleep.
    Ignored sessions never block.

    A standby whose primary is unreachable is kept awake like one that streams: it may be promoted at any moment.
    """
    yield from _of_all(look, settings)
    if start is not None and start.startable is Startable.NO:
        state = f"could not start again ({one_line(start.reason)})"
        yield Blocker(Signal.CONFIGURATION, None, state, "when that is fixed")
    for session in look.sessions:
        yield from blockers_of(session, settings)


def blockers_of(session: Session, settings: Settings) -> Iterator[Blocker]:
    """Those of one session."""
    if is_ignored(session, settings):
        return
    if session.is_client:
        if session.state == "idle":
            yield from _idle_client(session, settings)
    elif replicates(session):
        # A base backup or a table copy fails when cut; a stream resumes where it was.
        if settings.replication is Counts.KEEP or (session.is_walsender and not session.streams):
            yield _replication(session)
    elif session.is_autovacuum_worker or session.is_working:
        yield Blocker(Signal.MAINTENANCE, session, "is running", "when it finishes")


def _of_all(look: Snapshot, settings: Settings) -> Iterator[Blocker]:
    """Blockers that concern Postgres as a whole."""
    if look.in_recovery and settings.replication is Counts.KEEP and not any(map(_receives, look.sessions)):
        ends = "when it is promoted, or with --replication ignore"
        yield Blocker(Signal.REPLICATION, None, "is a standby without a walreceiver", ends)
    if look.exclusive_backup:
        yield Blocker(Signal.BASE_BACKUP, None, "is in the middle of a base backup", "with pg_stop_backup()")
    if (shortage := _shortage(look.room)) is not None:
        text, ends = shortage
        yield Blocker(Signal.DISK, None, f"might not be able to start again ({text})", ends)


def _shortage(room: FreeSpace) -> tuple[str, str] | None:
    """What a start would lack, and when it would no longer lack it."""
    if room.is_read_only:
        return "its data directory or its WAL is on a read-only file system", "when that is mounted writable"
    if room.free_bytes is not None and room.free_bytes < BYTES_TO_START:
        left = f"{room.free_bytes / 2**20:.0f} MB left in its data directory"
        return left, f"when {BYTES_TO_START // 2**20} MB are free"
    if room.free_files is not None and room.free_files < FILES_TO_START:
        return f"{room.free_files} inodes left in its data directory", f"when {FILES_TO_START} are free"
    return None


def _idle_client(session: Session, settings: Settings) -> Iterator[Blocker]:
    if session.base_backup:
        ends = "with pg_backup_stop(), or when it disconnects"
        yield Blocker(Signal.BASE_BACKUP, session, "is idle in the middle of a base backup", ends)
    if session.advisory_locks and settings.advisory_locks is Counts.KEEP:
        ends = "when it releases the lock or disconnects"
        yield Blocker(Signal.ADVISORY_LOCK, session, "is idle and holds an advisory lock", ends)
    if session.listening and settings.listeners is Counts.KEEP:
        ends = "with UNLISTEN *, or when it disconnects"
        yield Blocker(Signal.LISTENER, session, "is idle and listening for notifications", ends)
    if settings.idle_sessions is Counts.KEEP:
        yield Blocker(Signal.IDLE_SESSION, session, "is connected", "when it disconnects")


def replicates(session: Session) -> bool:
    """Whether it sends or receives changes."""
    return session.is_walsender or session.is_subscription_worker or _receives(session)


def _receives(session: Session) -> bool:
    return session.backend_type == "walreceiver"


def _replication(session: Session) -> Blocker:
    if session.base_backup:
        return Blocker(Signal.BASE_BACKUP, session, "is taking a base backup", "when the backup finishes")
    if session.is_walsender and not session.streams:
        ends = "when it streams or disconnects"
        return Blocker(Signal.REPLICATION, session, "is preparing to replicate", ends)
    if session.is_walsender:
        return Blocker(
            Signal.REPLICATION,
            session,
            "is replicating",
            "when its receiver disconnects, or with --replication ignore",
        )
    if _receives(session):
        ends = "when this standby is promoted, or with --replication ignore"
        return Blocker(Signal.REPLICATION, session, "is replicating", ends)
    of = f" to {session.subscription}" if session.subscription else ""
    return Blocker(
        Signal.SUBSCRIPTION, session, f"is subscribed{of}", "when the subscription is disabled or dropped"
    )

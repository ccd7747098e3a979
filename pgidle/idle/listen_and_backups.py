"""What sessions hold that a later statement hides from every look: LISTEN, and base backups of their own. Pure.

pg_stat_activity shows only a session's last statement. So what was seen once is remembered until it is seen to end:
by UNLISTEN *, DISCARD ALL, pg_backup_stop(), or with the session.

A backup can also be inferred without seeing its statement. pg_backup_start() begins a new WAL segment and requests a
checkpoint (do_pg_backup_start in xlog.c), whose redo pointer is then at the very start of the segment. If a requested
checkpoint lies there, every session that may start a backup, was connected by then and has done something since is
assumed to be in one, unless a session was seen to begin one. A standby switches no segment, so there only the
statement tells.

Never seen: a LISTEN that another statement hid before the next look, and a LISTEN inside a function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgidle.idle.statements import Word, said

if TYPE_CHECKING:
    from pgidle.idle.snapshot import Checkpoint, Key, Session, Snapshot

FIRST_RECORD = 40
"""Bytes of a segment before its first record: SizeOfXLogLongPHD in xlog_internal.h."""

PAGE = 8192
"""Bytes that other sessions may write between the segment switch and the checkpoint."""

SECOND = 1_000_000
"""Microseconds. pg_control records a checkpoint's time to the second."""


@dataclass(frozen=True, slots=True)
class Held:
    """What sessions held at the last complete look. `redo` and `requested` are those of the last checkpoint judged."""

    listening: frozenset[Key] = frozenset()
    backup: frozenset[Key] = frozenset()
    redo: int | None = None
    requested: int | None = None


def note_held(look: Snapshot, held: Held) -> tuple[Snapshot, Held]:
    """The look, completed with what its sessions hold, and the memory for the next look."""
    in_backup = _in_backup(look, held)
    sessions = tuple(_with_memory(session, held, in_backup) for session in look.sessions)
    checkpoint = look.checkpoint
    return replace(look, sessions=sessions), Held(
        listening=frozenset(session.key for session in sessions if session.listening),
        backup=frozenset(session.key for session in sessions if session.base_backup),
        redo=held.redo if checkpoint is None or _is_undecided(checkpoint, held) else checkpoint.redo,
        requested=held.requested if checkpoint is None else checkpoint.requested,
    )


def _with_memory(session: Session, held: Held, in_backup: frozenset[Key]) -> Session:
    if not session.is_client:
        return session
    words = said(session.query)
    backup = session.base_backup or words.backup is Word.HOLDS or session.key in in_backup | held.backup
    # Until pg_backup_stop() has returned, the backup still needs its session.
    if words.backup is Word.LETS_GO and session.state == "idle":
        backup = False
    listening = session.listening or words.listening is Word.HOLDS or session.key in held.listening
    if words.listening is Word.LETS_GO and session.state == "idle":
        listening = False
    return replace(session, listening=listening, base_backup=backup)


def _in_backup(look: Snapshot, held: Held) -> frozenset[Key]:
    """Sessions for whose backup the last checkpoint may have been made."""
    checkpoint = look.checkpoint
    if checkpoint is None or not _is_news(checkpoint, held):
        return frozenset()
    was_asked_for = (
        checkpoint.time >= look.started - SECOND  # Otherwise it predates this postmaster.
        if held.requested is None
        else checkpoint.requested > held.requested
    )
    if not was_asked_for or any(_begins(session, held) for session in look.sessions):
        return frozenset()
    return frozenset(
        session.key
        for session in look.clients
        if session.may_back_up
        and session.backend_start < checkpoint.time + SECOND
        and (session.state_change or 0) >= checkpoint.time
    )


def _begins(session: Session, held: Held) -> bool:
    """Whether this look shows a backup, or its end, that the previous look did not: then the checkpoint was for it."""
    is_seen = session.base_backup or (session.is_client and said(session.query).backup is not Word.NOTHING)
    return is_seen and session.key not in held.backup


def _is_undecided(checkpoint: Checkpoint, held: Held) -> bool:
    """Whether it may yet turn out to have been requested: the count is updated a moment after the checkpoint."""
    return (
        _is_news(checkpoint, held) and held.requested is not None and checkpoint.requested <= held.requested
    )


def _is_news(checkpoint: Checkpoint, held: Held) -> bool:
    """Whether it begins a segment and has not been judged yet. A shutdown checkpoint begins one too where WAL is
    archived, and then the next checkpoint follows close behind."""
    segment, offset = divmod(checkpoint.redo, checkpoint.segment_bytes)
    if checkpoint.is_shutdown:
        return False
    if held.redo is None:
        return offset == FIRST_RECORD
    return offset < PAGE and segment > held.redo // checkpoint.segment_bytes

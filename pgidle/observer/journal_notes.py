"""What looks tell the journal about clients: who woke Postgres, who used it after a pause, whom a sleep will cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pgidle.idle.reasons import client_text
from pgidle.idle.snapshot import Snapshot
from pgidle.observer.messages import LastLook, Noted, Used

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgidle.control.orders import Hold
    from pgidle.idle.policy import Look, Memory
    from pgidle.idle.reasons import Verdict
    from pgidle.idle.snapshot import Session
    from pgidle.observer.messages import ToSupervisor

SOON = 10.0
"""Seconds from a start to a session that counts as the one that caused it."""

LEAST_IDLE = 1.0
"""Seconds: a shorter idle time is none."""

MOST_CUT = 20
"""Sessions that are named of those that a sleep cuts."""


class JournalNotes:
    """`tell` sends a message to the supervisor, who writes the journal."""

    def __init__(self, tell: Callable[[ToSupervisor], None]) -> None:
        self._tell = tell
        self._is_waker_known = False
        self._was_idle = False
        self._cut: tuple[str, ...] = ()
        self._checkpoint: float | None = None

    def begin(self) -> None:
        """Another start of Postgres is watched from now on."""
        self._is_waker_known = self._was_idle = False
        self._checkpoint = None

    def note(self, event: str, **fields: object) -> None:
        """Send an entry."""
        self._tell(Noted(event, _encoded(fields)))

    def looked(self, look: Look, verdict: Verdict, before: Memory, after: Memory) -> None:
        """A look was evaluated, with what the policy remembered before and after it."""
        if isinstance(look, Snapshot):
            if not self._is_waker_known:
                self._note_waker(look)
            self._cut = tuple(client_text(one) for one in look.sessions if one.is_client or one.is_walsender)
        idle = after.last_activity - before.last_activity
        if self._was_idle and idle >= LEAST_IDLE:
            self._tell(Used(idle, after.last_use))
        self._was_idle = not any(reason.keeps for reason in verdict.reasons)

    def held(self, number: int, order: Hold, by: str) -> None:
        """Somebody has taken a hold."""
        program = order.program.name if order.program is not None else None
        self.note("hold", name=str(number), seconds=order.seconds, why=order.why, program=program, by=by)

    def checkpointed(self, seconds: float) -> None:
        """The checkpoint before a sleep took so long."""
        self._checkpoint = seconds

    def confirmed(self, memory: Memory, now: float) -> None:
        """Nobody uses Postgres, which will sleep."""
        fields = {
            "last_use": memory.last_use,
            "idle": round(now - memory.last_activity, 3),
            "checkpoint": round(self._checkpoint, 3) if self._checkpoint is not None else None,
            "cut": self._cut[:MOST_CUT],
            "cut_count": len(self._cut),
        }
        self._tell(LastLook(_encoded(fields)))

    def _note_waker(self, look: Snapshot) -> None:
        """Note who came first since the start, if that is to be seen."""
        clients = [one for one in look.clients if one.backend_start - look.started < SOON * 1e6]
        first = min(clients, key=lambda one: one.backend_start, default=None)
        if first is not None:
            self._is_waker_known = True
            self.note("client", **_described(first))


def _described(session: Session) -> dict[str, object]:
    return {
        "client": client_text(session),
        "application": session.application_name,
        "user": session.usename,
        "database": session.datname,
        "address": session.client_addr,
    }


def _encoded(fields: Mapping[str, object]) -> str:
    """Fields as the journal wants them: `,"name":value` for each."""
    return "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items())

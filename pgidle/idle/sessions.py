"""What each session of a look does to sleep, for people and programs that ask. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pgidle.idle.activity import activity_of
from pgidle.idle.between_looks import is_ignored
from pgidle.idle.blockers import blockers_of, replicates
from pgidle.idle.polls import NO_FINDINGS
from pgidle.idle.reasons import client_text, duration_text, one_line
from pgidle.idle.statement_text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgidle.idle.polls import Findings, Label
    from pgidle.idle.snapshot import Session, Snapshot
    from pgidle.settings.resolve import Settings


class Effect(Enum):
    """What a session does to sleep, the strongest first."""

    ACTIVE = "active"
    """Is a use of Postgres at this moment: the idle clock starts when it ends."""
    BLOCKS = "blocks"
    """Delays sleep without being a use."""
    POLLS = "polls"
    """Is idle at this moment, but is used in a rhythm without which Postgres would have slept."""
    IDLE = "idle"
    """Its last use started the idle clock; now it keeps nothing awake, and is cut by a sleep."""
    IGNORED = "ignored"
    """Neither its arrival nor anything that it does counts."""


@dataclass(frozen=True, slots=True)
class SeenSession:
    """`client` is without a pid, the same after it has reconnected. `since`: when (monotonic) `state` began, if that is
    known. `text` completes a sentence that begins with the session, as in "keeps Postgres awake until its query
    ends"."""

    pid: int
    client: str
    state: str
    since: float | None
    effect: Effect
    text: str


def sessions(look: Snapshot, settings: Settings, found: Findings = NO_FINDINGS) -> tuple[SeenSession, ...]:
    """Clients, and processes that replicate or do maintenance; those that keep Postgres awake first, then those used
    last. Postgres's other processes have no part in it. `found`: the polls of this Postgres."""
    polls = {poll.label: poll.every for poll in found.polls} if found.consequence else {}
    seen = sorted(
        _seen(look, settings, polls), key=lambda one: (_ORDER[one.effect], -(one.since or 0.0), one.pid)
    )
    return tuple(seen)


_ORDER = {effect: number for number, effect in enumerate(Effect)}


def _seen(look: Snapshot, settings: Settings, polls: Mapping[Label, float]) -> Iterator[SeenSession]:
    for session in look.sessions:
        effect, text = _effect(session, settings)
        if polls and effect is Effect.IDLE and session.is_client:
            if (every := _poll_of(session, polls)) is not None:
                effect, text = Effect.POLLS, f"used every {duration_text(every)}, which keeps Postgres awake"
        if effect is Effect.IDLE and not (session.is_client or replicates(session)):
            continue
        kind = "" if session.is_client else f"{session.backend_type}, "
        yield SeenSession(
            session.pid,
            one_line(kind + client_text(session)) if not kind or _is_named(session) else kind[:-2],
            one_line(session.state or session.walsender_state or ""),
            look.at - max(session.state_age, 0.0) if session.state_age is not None else None,
            effect,
            text,
        )


def _poll_of(session: Session, polls: Mapping[Label, float]) -> float | None:
    """Seconds between two uses, if the session is one of those that poll."""
    client = client_text(session)
    if session.statement:
        return polls.get((client, shown(session.statement)))
    # A look does not read the statement of a session that has not been used since the one before.
    return next((every for (its, _), every in polls.items() if its == client), None)


def _is_named(session: Session) -> bool:
    return bool(session.application_name or session.usename or session.datname or session.client_addr)


def _effect(session: Session, settings: Settings) -> tuple[Effect, str]:
    if is_ignored(session, settings):
        return Effect.IGNORED, "does not count (setting ignore)"
    if session.is_client and (reason := activity_of(session, settings)) is not None:
        return Effect.ACTIVE, f"keeps Postgres awake{_until(reason.ends)}"
    if blocking := list(blockers_of(session, settings)):
        why = " and ".join(one.state for one in blocking)
        return Effect.BLOCKS, f"{why}: sleep waits{_until(blocking[0].ends)}"
    if session.is_client:
        return Effect.IDLE, "does not keep Postgres awake"
    return Effect.IDLE, "does not keep Postgres awake (setting replication)"


def _until(ends: str) -> str:
    """`ends` completes "ends ..."."""
    if ends.startswith("when "):
        return f" until {ends.removeprefix('when ')}"
    return f"; that ends {ends}"

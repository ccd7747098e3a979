"""What happened between two looks: sessions that came, went or were used, and what the counters say. Pure.

**Ignored sessions** (setting `ignore`) never count. Every session that starts adds one to
pg_stat_database.sessions, which does not say whose it was; so each ignored session that a look sees for the first time
excuses one step of that counter. The watcher reads the counter before the sessions, so the step shows in the same look
or the next, never earlier. Limits: an ignored session too short to appear in any look cannot be told from anybody
else's, so it counts (give such a client a lasting connection), as does one that a look catches before it has set its
application_name. A session that comes and goes at the very moment a new ignored session starts may be excused in its
place; the ignored one's step then counts at the next look.

`active_time` lags by up to ten seconds while its session lives (seen on 15 and 18), long after `state_change` has
shown the same use. It is a safety net, judged only when no session is present that could explain the change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from pgidle.idle.reasons import Reason, ReasonKind, Signal, client_text, who
from pgidle.idle.statement_text import normal
from pgidle.settings.options import Counts, IgnoreField, is_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgidle.idle.snapshot import Counters, Key, Session, Snapshot
    from pgidle.settings.resolve import Settings

EXCUSED_FOR = 10.0  # seconds: PostgreSQL 14's collector is a second or two late; later versions are not


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the last complete look saw. `counting`: the sessions that count; `excused`: since when (monotonic).
    `asked`: the bytes in which each session asked an ignored statement; `passed_over`: sessions that did nothing else
    since the look before, so that it does not count."""

    at: float
    counters: Counters | None
    counting: Mapping[Key, Session]
    ignored: frozenset[Key]
    excused: Mapping[Key, float]
    in_recovery: bool = False
    asked: Mapping[Key, int] = field(default_factory=dict)
    passed_over: frozenset[Key] = frozenset()


def counts(session: Session, settings: Settings) -> bool:
    """Whether this session's arrival, departure and use are activity."""
    if is_ignored(session, settings):
        return False
    return session.is_client or (session.is_walsender and settings.replication is Counts.KEEP)


def is_ignored(session: Session, settings: Settings) -> bool:
    """Whether the setting `ignore` matches it by application_name, role or address."""
    return any(_matches(session, ignore.field, ignore.value) for ignore in settings.ignore)


def may_wake(session: Session, settings: Settings) -> bool:
    """Whether it may have woken Postgres: a session that the setting `no-wake` matches cannot have. Which Unix socket
    a session came through is not known: where `no-wake` names a socket folder, ignored sessions are assumed to have
    come through it."""
    folders = [one for one in settings.no_wake if is_folder(one)]
    if session.client_addr is None:
        return not (folders and is_ignored(session, settings))
    return not any(_in_network(session.client_addr, one) for one in settings.no_wake if one not in folders)


def is_ignored_address(address: str | None, settings: Settings) -> bool:
    return any(
        ignore.field is IgnoreField.ADDRESS and _in_network(address, ignore.value)
        for ignore in settings.ignore
    )


def _matches(session: Session, field: IgnoreField, value: str) -> bool:
    if field is IgnoreField.APPLICATION_NAME:
        return session.application_name == value
    if field is IgnoreField.USER:
        return session.usename == value
    return field is IgnoreField.ADDRESS and _in_network(session.client_addr, value)


@lru_cache(maxsize=4096)
def _in_network(address: str | None, network: str) -> bool:
    from ipaddress import ip_address, ip_network  # A third of a megabyte that few need.

    return address is not None and ip_address(address) in ip_network(network, strict=False)


def changes(look: Snapshot, settings: Settings, before: Baseline | None) -> Iterator[Reason]:
    """Sessions that are new or gone, and counter changes that no session explains: each is a use of Postgres."""
    if before is None:
        return
    present = {session.key: session for session in look.sessions}
    known = before.counting.keys() | before.ignored
    for key, session in present.items():
        if key not in known and counts(session, settings):
            text = f"{who(session)} has connected"
            yield Reason(ReasonKind.ACTIVITY, Signal.NEW_SESSION, text, client=client_text(session))
    for key, session in before.counting.items():
        if key not in present:
            text = f"{who(session)} has disconnected"
            yield Reason(ReasonKind.ACTIVITY, Signal.VANISHED_SESSION, text, client=client_text(session))
    if before.in_recovery and not look.in_recovery:
        yield Reason(ReasonKind.ACTIVITY, Signal.PROMOTION, "the standby was promoted")
    if text := _counters_moved(look, settings, before):
        yield Reason(ReasonKind.ACTIVITY, Signal.COUNTERS, text)


def used(look: Snapshot, settings: Settings, before: Baseline | None) -> Iterator[tuple[float, str]]:
    """When (monotonic) each counting session was last used, and by which client, as far as this look has news of it.

    A step of the server's wall clock cannot date a use before the previous look, nor repeat one already known.
    """
    passed_over = only_ignored(look, settings, before)
    for session in look.sessions:
        if (
            session.key in passed_over
            or session.state_age is None
            or not (session.is_client and counts(session, settings))
        ):
            continue
        moment = look.at - max(session.state_age, 0.0)
        known = before.counting.get(session.key) if before else None
        if before and known and known.state_change == session.state_change:
            continue
        yield (max(moment, before.at) if before else moment), client_text(session)


def ignores_statements(settings: Settings) -> bool:
    """Whether looks shall tell what each connection has received."""
    return any(ignore.field is IgnoreField.STATEMENT for ignore in settings.ignore)


def only_ignored(look: Snapshot, settings: Settings, before: Baseline | None) -> frozenset[Key]:
    """Sessions that, since the look before, have been asked an ignored statement and certainly nothing else: a single
    segment arrived, as long as the one that had asked it before."""
    if before is None:
        return frozenset()
    asked = _asked(look, settings, before)
    return frozenset(key for key, octets in asked.items() if before.asked.get(key) == octets)


def _asked(look: Snapshot, settings: Settings, before: Baseline) -> dict[Key, int]:
    """Sessions to which one segment came since the look before, and which then answered an ignored statement; with the
    bytes of that segment.

    A client that waits for answers sends each statement in a segment of its own, so none can be hidden behind the last
    one. What was received by the earlier look is taken from before that look, and by this one from after it: whatever
    came during either is included.
    """
    ignored = {normal(one.value) for one in settings.ignore if one.field is IgnoreField.STATEMENT}
    asked = {}
    for session in look.clients if ignored else ():
        known = before.counting.get(session.key)
        if known is None or not (_is_at_rest(session) and _is_at_rest(known)):
            continue
        if known.received and session.received and session.state_change != known.state_change:
            then, now = known.received[0], session.received[1]
            if (
                session.is_whole
                and now.segments - then.segments == 1
                and normal(session.statement) in ignored
            ):
                asked[session.key] = now.octets - then.octets
    return asked


def _is_at_rest(session: Session) -> bool:
    return session.state == "idle" and not session.unread


def _still_asked(look: Snapshot, settings: Settings, before: Baseline | None) -> dict[Key, int]:
    """How sessions asked an ignored statement, now or before."""
    if before is None:
        return {}
    present = {session.key for session in look.sessions}
    return {key: octets for key, octets in before.asked.items() if key in present} | _asked(
        look, settings, before
    )


def baseline(look: Snapshot, settings: Settings, before: Baseline | None) -> Baseline:
    """What the next look is compared with."""
    ignored = frozenset(session.key for session in look.sessions if is_ignored(session, settings))
    return Baseline(
        at=look.at,
        counters=look.counters,
        counting={session.key: session for session in look.sessions if counts(session, settings)},
        ignored=ignored,
        excused=_still_excused(look, settings, before),
        in_recovery=look.in_recovery,
        asked=_still_asked(look, settings, before),
        passed_over=only_ignored(look, settings, before),
    )


def _excused(look: Snapshot, settings: Settings, before: Baseline) -> dict[Key, float]:
    """Ignored sessions that may have moved the counter since, the one excused longest first."""
    known = before.counting.keys() | before.ignored
    return dict(before.excused) | {
        session.key: look.at
        for session in look.sessions
        if session.is_client and session.key not in known and is_ignored(session, settings)
    }


def _steps(look: Snapshot, before: Baseline) -> int | None:
    """By how much the sessions counter moved; None where it cannot be compared."""
    if not (look.counters and before.counters):
        return None
    return look.counters.sessions - before.counters.sessions


def _counters_moved(look: Snapshot, settings: Settings, before: Baseline) -> str:
    steps = _steps(look, before)
    if steps is None or not (look.counters and before.counters):
        return ""
    unexplained = steps - len(_excused(look, settings, before))
    now, then = look.counters, before.counters
    if (now.databases, now.datids) != (then.databases, then.datids):
        return "a database was created or dropped"
    if steps < 0 or now.reset != then.reset:
        return "the statistics were reset"
    if unexplained > 0:
        return f"{steps} session{'s' * (steps > 1)} started between two looks"
    somebody = before.counting or before.ignored or look.clients
    if now.active_time != then.active_time and now.left_out == then.left_out and not somebody:
        return "a query ran between two looks"
    return ""


def _still_excused(look: Snapshot, settings: Settings, before: Baseline | None) -> dict[Key, float]:
    """Each step uses up an excuse; an excuse also expires with time, or one look after its session ended."""
    if before is None:
        return {}
    steps = _steps(look, before) or 0
    waiting = list(_excused(look, settings, before).items())
    if steps < 0 or steps > len(waiting):
        return {}
    present = {session.key for session in look.sessions}
    return {
        key: since
        for key, since in waiting[steps:]
        if look.at - since < EXCUSED_FOR and (key in present or key in before.ignored)
    }

"""Who has kept Postgres awake for an idle timeout on end, so that the log can name them. Pure.

    keepers = begin(now)                                            # when Postgres became ready
    keepers, line = note(keepers, look, reasons, settings, now)     # after every look that saw everything

Two kinds do. **What lasts** (an open transaction, a blocker) is found by every look. **A client that comes again and
again** may be idle in every look: it never leaves Postgres alone for as long as the idle timeout, by one session or by
a new one each time, so it is known by its application, user and address. Where in twice the time nobody has done so
alone, all together are named. A line comes once for as long as it stays true of somebody.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgidle.idle.between_looks import counts
from pgidle.idle.reasons import Reason, Signal, duration_text, one_line, who

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pgidle.idle.snapshot import Key, Session, Snapshot
    from pgidle.settings.settings import Settings

NAMED = 3
"""So many of those that keep Postgres awake are named in the log; `pgidle status` names more."""

LATE = 10.0
"""Seconds, at most, that a use may come after the timeout and still keep Postgres awake: while it falls asleep."""

UNSEEN = "sessions too short to be seen"


@dataclass(frozen=True, slots=True)
class Chain:
    """What goes on since a moment, as far as was seen last (monotonic)."""

    since: float
    last: float
    is_told: bool = False

    @property
    def length(self) -> float:
        return self.last - self.since


@dataclass(frozen=True, slots=True)
class Keepers:
    """What carries over from one look, at `at` (monotonic), to the next.

    `sessions`: when each changed its state, and whose it is. `together`: all that keeps it awake, while nobody alone
    has done so for long enough.
    """

    at: float
    sessions: Mapping[Key, tuple[float | None, str]] = field(default_factory=dict)
    clients: Mapping[str, Chain] = field(default_factory=dict)
    lasting: Mapping[str, Chain] = field(default_factory=dict)
    together: Chain | None = None


def begin(now: float) -> Keepers:
    """For a Postgres that became ready `now` (monotonic)."""
    return Keepers(now)


def use(keepers: Keepers, name: str, moment: float, settings: Settings) -> Keepers:
    """With a use that no look shows."""
    if settings.idle_timeout is None:
        return keepers
    pause = _pause(settings.idle_timeout)
    clients = dict(keepers.clients) | {name: _extended(keepers.clients.get(name), moment, pause)}
    return replace(keepers, clients=clients, together=_extended(keepers.together, moment, pause))


def note(
    keepers: Keepers, look: Snapshot, reasons: Iterable[Reason], settings: Settings, now: float
) -> tuple[Keepers, str]:
    """What is known with this look, and what there is to say, if anything. `reasons` are those of its verdict."""
    timeout = settings.idle_timeout
    sessions = {
        s.key: (s.state_change, _client(s)) for s in look.sessions if s.is_client and counts(s, settings)
    }
    if timeout is None:
        return Keepers(look.at, sessions), ""
    reasons = tuple(reasons)
    pause = _pause(timeout)
    for name, moment in _uses(keepers, look, sessions, reasons):
        keepers = use(keepers, name, moment, settings)
    clients = {name: chain for name, chain in keepers.clients.items() if look.at - chain.last <= pause}
    often = [name for name, chain in clients.items() if chain.length >= timeout]
    kept = {_what(one): one for one in reasons if one.keeps}
    lasting = {
        what: replace(keepers.lasting.get(what) or _begun(one, look, keepers.at), last=now)
        for what, one in kept.items()
    }
    together = _extended(keepers.together, now, pause) if kept else keepers.together
    long = [
        what
        for what, chain in lasting.items()
        if chain.length >= timeout and not _is_passing(kept[what], look, often, timeout)
    ]

    told = [what for what in long if not lasting[what].is_told]
    told_clients = [name for name in often if not clients[name].is_told]
    line = ""
    if told or told_clients:
        spent = max(now - chain.since for chain in _of(lasting, told, clients, told_clients))
        line = _line(spent, [*(str(kept[what]) for what in told), *map(_again, told_clients)])
    elif not (long or often) and together is not None and together.length >= 2 * timeout:
        latest = sorted(clients, key=lambda name: -clients[name].last)
        line = _line(together.length, [*map(str, kept.values()), *latest], "one after the other: ")
    if long or often or line:
        together = Chain(now, now)
    return (
        Keepers(
            look.at,
            sessions,
            clients | {name: replace(clients[name], is_told=True) for name in told_clients},
            lasting | {what: replace(lasting[what], is_told=True) for what in told},
            together,
        ),
        line,
    )


def _pause(timeout: float) -> float:
    """Seconds after which Postgres would have slept for certain."""
    return timeout + min(timeout, LATE)


def _extended(chain: Chain | None, moment: float, pause: float) -> Chain:
    """With one more moment; after a longer pause it begins anew."""
    if chain is None or moment - chain.last > pause:
        return Chain(moment, moment)
    return replace(chain, last=max(chain.last, moment))


def _uses(
    keepers: Keepers,
    look: Snapshot,
    sessions: Mapping[Key, tuple[float | None, str]],
    reasons: Iterable[Reason],
) -> Iterator[tuple[str, float]]:
    """Whose use this look brings news of, and when that was, as well as it can be told."""
    for session in look.sessions:
        if session.key in sessions and keepers.sessions.get(session.key) != sessions[session.key]:
            age = max(session.state_age or 0.0, 0.0)
            yield sessions[session.key][1], max(look.at - age, keepers.at)
    for key, (_, name) in keepers.sessions.items():
        if key not in sessions:
            yield name, look.at
    if any(reason.signal is Signal.COUNTERS for reason in reasons):
        yield UNSEEN, look.at


def _begun(reason: Reason, look: Snapshot, before: float) -> Chain:
    """What was not there at the look before."""
    age = _state_age(reason, look)
    return Chain(look.at if age is None else max(look.at - age, before), look.at)


def _is_passing(reason: Reason, look: Snapshot, often: Iterable[str], timeout: float) -> bool:
    """Whether a session of such a client happens to be at work: it is the client that lasts."""
    age, session = _state_age(reason, look), _session(reason, look)
    return age is not None and age < timeout and session is not None and _client(session) in often


def _state_age(reason: Reason, look: Snapshot) -> float | None:
    """Seconds for which a session has been in the state that is the reason."""
    session = _session(reason, look)
    return None if session is None or session.state_age is None else max(session.state_age, 0.0)


def _session(reason: Reason, look: Snapshot) -> Session | None:
    """Whose state is the reason."""
    if reason.signal is not Signal.SESSION_STATE:
        return None
    return next((one for one in look.clients if reason.text.startswith(f"{who(one)} ")), None)


def _what(reason: Reason) -> str:
    """A reason without how long it has been one, which is what comes last in its text."""
    return f"{reason.signal.value}: {reason.text.rpartition(' for ')[0] or reason.text}"


def _client(session: Session) -> str:
    """As a person would recognise it after it has come again: `app "web" (user app, 10.0.0.3)`."""
    name = f'app "{session.application_name}"' if session.application_name else "a client without a name"
    where = session.client_addr or ("Unix socket" if session.client_port == -1 else "")
    facts = [fact for fact in (session.usename and f"user {session.usename}", where) if fact]
    return one_line(f"{name} ({', '.join(facts)})" if facts else name)


def _again(name: str) -> str:
    return f"{name}, again and again" if name == UNSEEN else f"{name}, used again and again"


def _of(
    lasting: Mapping[str, Chain],
    told: Iterable[str],
    clients: Mapping[str, Chain],
    told_clients: Iterable[str],
) -> Iterator[Chain]:
    yield from (lasting[what] for what in told)
    yield from (clients[name] for name in told_clients)


def _line(spent: float, names: list[str], how: str = "") -> str:
    more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"kept for {duration_text(spent)} by {how}{'; '.join(names[:NAMED])}{more}"

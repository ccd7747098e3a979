"""What has kept Postgres awake for a whole idle timeout, so that the log can name it. Pure.

    keepers = begin(now)                                            # when Postgres became ready
    keepers, line = note(keepers, look, reasons, settings, now)     # after every complete look

There are two kinds. **Lasting reasons** (an open transaction, a blocker) are found by every look. **A client that keeps
using Postgres** may be idle in every look: it never leaves Postgres alone for as long as the idle timeout, through one
session or through a new one each time, so it is identified by its application, user and address. If after twice the
idle timeout no single one of them is responsible, all are named together. Each is logged once for as long as it lasts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgidle.idle.between_looks import counts
from pgidle.idle.reasons import Reason, Signal, client_text, duration_text, who

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from pgidle.idle.snapshot import Key, Session, Snapshot
    from pgidle.settings.resolve import Settings

NAMED = 3
"""How many of those that keep Postgres awake a log line names; `pgidle status` names more."""

LATE = 10.0
"""Most seconds after the timeout at which a use may still keep Postgres awake, as it is only just falling asleep."""

UNSEEN = "sessions too short to be seen"


@dataclass(frozen=True, slots=True)
class Chain:
    """Something that has gone on since a moment, and was last seen at another (monotonic)."""

    since: float
    last: float
    is_told: bool = False

    @property
    def length(self) -> float:
        return self.last - self.since


@dataclass(frozen=True, slots=True)
class AwakeCauses:
    """What carries over from one look, at `at` (monotonic), to the next.

    `sessions`: each one's state_change and its client. `together`: everything that keeps Postgres awake, as long as
    nothing has done so alone for long enough.
    """

    at: float
    sessions: Mapping[Key, tuple[float | None, str]] = field(default_factory=dict)
    clients: Mapping[str, Chain] = field(default_factory=dict)
    lasting: Mapping[str, Chain] = field(default_factory=dict)
    together: Chain | None = None


def begin(now: float) -> AwakeCauses:
    """For a Postgres that became ready `now` (monotonic)."""
    return AwakeCauses(now)


def use(keepers: AwakeCauses, name: str, moment: float, settings: Settings) -> AwakeCauses:
    """Including a use that no look shows."""
    if settings.idle_timeout is None:
        return keepers
    pause = _pause(settings.idle_timeout)
    clients = dict(keepers.clients) | {name: _extended(keepers.clients.get(name), moment, pause)}
    return replace(keepers, clients=clients, together=_extended(keepers.together, moment, pause))


def note(
    keepers: AwakeCauses,
    look: Snapshot,
    reasons: Iterable[Reason],
    settings: Settings,
    now: float,
    *,
    passed_over: Collection[Key] = (),
) -> tuple[AwakeCauses, str]:
    """The memory including this look, and the line to log, if any. `reasons` are those of the look's verdict;
    `passed_over`: sessions whose use since the look before does not count."""
    timeout = settings.idle_timeout
    sessions = {
        # A walsender is used for as long as it is there, but it may come and go again and again.
        s.key: (s.state_change if s.is_client else None, client_text(s))
        for s in look.sessions
        if counts(s, settings)
    }
    if timeout is None:
        return AwakeCauses(look.at, sessions), ""
    reasons = tuple(reasons)
    pause = _pause(timeout)
    for name, moment in _uses(keepers, look, sessions, reasons, passed_over):
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
        line = _line(spent, [*(str(kept[what]) for what in told), *map(_repeated, told_clients)])
    elif not (long or often) and together is not None and together.length >= 2 * timeout:
        latest = sorted(clients, key=lambda name: -clients[name].last)
        line = _line(together.length, [*map(str, kept.values()), *latest], " by several in turn")
    if long or often or line:
        together = Chain(now, now)
    return (
        AwakeCauses(
            look.at,
            sessions,
            clients | {name: replace(clients[name], is_told=True) for name in told_clients},
            lasting | {what: replace(lasting[what], is_told=True) for what in told},
            together,
        ),
        line,
    )


def _pause(timeout: float) -> float:
    """Seconds of no use after which Postgres would certainly have slept."""
    return timeout + min(timeout, LATE)


def _extended(chain: Chain | None, moment: float, pause: float) -> Chain:
    """Extended by one more moment; after a longer pause a new chain begins."""
    if chain is None or moment - chain.last > pause:
        return Chain(moment, moment)
    return replace(chain, last=max(chain.last, moment))


def _uses(
    keepers: AwakeCauses,
    look: Snapshot,
    sessions: Mapping[Key, tuple[float | None, str]],
    reasons: Iterable[Reason],
    passed_over: Collection[Key],
) -> Iterator[tuple[str, float]]:
    """Each client whose use this look has news of, and when that use was, as well as can be told."""
    for session in look.sessions:
        if session.key in passed_over or session.key not in sessions:
            continue
        if keepers.sessions.get(session.key) != sessions[session.key]:
            age = max(session.state_age or 0.0, 0.0)
            yield sessions[session.key][1], max(look.at - age, keepers.at)
    for key, (_, name) in keepers.sessions.items():
        if key not in sessions:
            yield name, look.at
    if any(reason.signal is Signal.COUNTERS for reason in reasons):
        yield UNSEEN, look.at


def _begun(reason: Reason, look: Snapshot, before: float) -> Chain:
    """The chain of something that the look before did not show."""
    age = _state_age(reason, look)
    return Chain(look.at if age is None else max(look.at - age, before), look.at)


def _is_passing(reason: Reason, look: Snapshot, often: Iterable[str], timeout: float) -> bool:
    """Whether this is one session of a client that keeps using Postgres: the client lasts, not the session."""
    age, session = _state_age(reason, look), _session(reason, look)
    return age is not None and age < timeout and session is not None and client_text(session) in often


def _state_age(reason: Reason, look: Snapshot) -> float | None:
    """Seconds for which a session has been in the state that is the reason."""
    session = _session(reason, look)
    return None if session is None or session.state_age is None else max(session.state_age, 0.0)


def _session(reason: Reason, look: Snapshot) -> Session | None:
    """The session whose state is the reason."""
    if reason.signal is not Signal.SESSION_STATE:
        return None
    return next((one for one in look.clients if reason.text.startswith(f"{who(one)} ")), None)


def _what(reason: Reason) -> str:
    """A reason's text without its duration, which comes last."""
    return f"{reason.signal.value}: {reason.text.rpartition(' for ')[0] or reason.text}"


def _repeated(name: str) -> str:
    return f"repeated use by {name}"


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
    return f"kept awake for {duration_text(spent)}{how}: {'; '.join(names[:NAMED])}{more}"

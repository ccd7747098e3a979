"""Whether Postgres is idle, judged from one look. Pure: the caller brings the clock and keeps the memory.

    memory = begin(now)                                       # when Postgres became ready
    verdict, memory = evaluate(look, settings, memory, now)   # after every look

**Activity** restarts the idle clock. **A blocker** only delays sleep. **Unknown** counts as activity: it restarts the
clock too, and the counters are forgotten. `between_looks` finds what happened between two looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgidle.idle.activity import in_use
from pgidle.idle.between_looks import Baseline, baseline, changes, used
from pgidle.idle.blockers import Blocker, blockers
from pgidle.idle.flapping import SOON, Backoff, Sleep, applications, flapping, waker
from pgidle.idle.listen_and_backups import Held, note_held
from pgidle.idle.reasons import (
    Reason,
    ReasonKind,
    Signal,
    Verdict,
    client_text,
    duration_text,
    one_line,
    slot_text,
    who,
)
from pgidle.idle.snapshot import LookFailed, Snapshot
from pgidle.idle.start_result import Startable, StartResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pgidle.idle.snapshot import Key
    from pgidle.settings.resolve import Settings

__all__ = [
    "Backoff",
    "Lease",
    "Look",
    "Memory",
    "Reason",
    "ReasonKind",
    "Signal",
    "Sleep",
    "Verdict",
    "applications",
    "begin",
    "evaluate",
    "flapping",
    "waker",
]

Look = Snapshot | LookFailed
NO_BACKOFF = Backoff()
LOOK_EVERY = 30.0
"""Most seconds between two looks. That may be long: sessions that come and go in between are counted, and the time of a
session's last use is known to the microsecond. Only what a session holds can be missed (`held_by_sessions`)."""
LOOK_UNCOUNTED = 5.0
"""The same where sessions are not counted (up to PostgreSQL 13), where some are ignored, as the counters cannot tell
them from others, and after a failed look."""
LOOK_SOON = 1.0
"""Seconds from a wake to the second look, with later looks at doubling intervals, so that the client that woke Postgres
is seen while it is still there."""
NEAR = 3.0
"""Seconds before a sleep for which the watching connection is kept open: several looks fall into them, and at the
end, with the gate shut, no new connection could be made. Less than the 5 s for which CREATE and DROP DATABASE wait for
it."""
JUST_ASKED = 1.0
"""Seconds for which an ignored statement puts off sleep: a pool asks it to learn whether its connection is alive, and
uses the connection right after."""
LOOK_NEAR = 0.2
LOOK_FINEST = 0.05
LOOK_AGAIN = 0.5
NAMED_PER_SIGNAL = 10
SLOT_ENDS = (
    "when its receiver is back, or with pg_drop_replication_slot(); max_slot_wal_keep_size sets a limit"
)
NO_USE = "none since waking"


@dataclass(frozen=True, slots=True)
class Lease:
    """A promise to stay awake `until` (monotonic; infinity: no time limit), perhaps for as long as a `program` runs."""

    until: float
    why: str = ""
    name: str = ""
    program: str = ""

    def ends(self, now: float) -> str:
        """When it ends, completing "ends ..."."""
        by_time = f"in {duration_text(self.until - now)}, " if self.until < math.inf else ""
        by_program = f"when {self.program} ends, " if self.program else ""
        return f"{by_time}{by_program}or with pgidle release {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class AskedToSleep:
    """A sleep was asked for: no clock applies, except that Postgres must have been unused for `unused` seconds."""

    unused: float = 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What carries over from one verdict to the next; times are monotonic.

    `delayed_since`: since when maintenance alone has kept an otherwise idle Postgres awake. `held`: what sessions hold.
    `look`: the last look, completed with that; None if it failed.
    """

    awake_since: float
    last_activity: float
    last_use: str
    baseline: Baseline | None = None
    blocked_since: Mapping[tuple[Signal, Key], float] = field(default_factory=dict)
    delayed_since: float | None = None
    held: Held = field(default_factory=Held)
    look: Snapshot | None = None


def begin(now: float) -> Memory:
    """The memory for a Postgres that became ready `now` (monotonic)."""
    return Memory(awake_since=now, last_activity=now, last_use=NO_USE)


def note_use(memory: Memory, now: float, what: str) -> Memory:
    """The memory after a use that no look shows, such as an order."""
    return replace(memory, last_activity=now, last_use=what)


def evaluate(
    look: Look,
    settings: Settings,
    memory: Memory,
    now: float,
    leases: tuple[Lease, ...] = (),
    backoff: Backoff = NO_BACKOFF,
    *,
    start: StartResult | None = None,
    asked: AskedToSleep | None = None,
) -> tuple[Verdict, Memory]:
    """The verdict, and the memory for the next one. `now` is monotonic; `backoff` comes from `flapping`.

    `start`: whether Postgres would start again, if that has been tried since it woke and since a file changed.
    """
    leases = tuple(lease for lease in leases if lease.until > now)
    held = tuple(_lease(lease, now) for lease in leases)
    if isinstance(look, LookFailed):
        return _evaluate_failed(look, settings, memory, now, held)

    look, held_on = note_held(look, memory.held)
    activity = (*in_use(look, settings), *changes(look, settings, memory.baseline))
    lasting = any(reason.ends for reason in activity)
    blocking = tuple(blockers(look, settings, start))
    firm = any(blocker.signal is not Signal.MAINTENANCE for blocker in blocking)
    maintenance = any(blocker.signal is Signal.MAINTENANCE for blocker in blocking)
    memory = _remember(look, settings, memory, now, activity, blocking)

    just_asked = tuple(_just_asked(look, memory, now)) if asked is None else ()
    ready_at = _ready_at(settings, memory, backoff, asked)
    if ready_at is not None:
        ready_at = max((ready_at, *(until for until, _ in just_asked)))
    due = ready_at is not None and now >= ready_at and not (lasting or firm or held)
    memory = replace(
        memory, delayed_since=_default(memory.delayed_since, now) if due and maintenance else None
    )
    spent = memory.delayed_since is not None and now - memory.delayed_since >= settings.autovacuum_limit
    idle = due and (spent or not maintenance)

    sleeps_at = None
    if ready_at is not None and not (lasting or firm):
        sleeps_at = now if idle else max((ready_at, *(lease.until for lease in leases)))
        if maintenance and not idle:
            sleeps_at = _default(memory.delayed_since, sleeps_at) + settings.autovacuum_limit
        sleeps_at = None if sleeps_at == math.inf else sleeps_at
    reasons = (
        *_grouped(activity),
        *_grouped(_blocks(blocker, memory, now, settings, spent) for blocker in blocking),
        *held,
        *(_asked(asked, memory, now) if asked else _clocks(settings, memory, now, backoff)),
        *_grouped(reason for _, reason in just_asked),
        *_grouped(_notes(look, start)),
    )
    memory = replace(memory, held=held_on, look=look)
    # After an order the clocks are asked again at once.
    far = LOOK_FINEST if asked is not None else _far_from_sleep(look, settings, memory, now)
    return Verdict(idle, reasons, sleeps_at, _next_look(far, sleeps_at, now)), memory


def _evaluate_failed(
    look: LookFailed, settings: Settings, memory: Memory, now: float, held: tuple[Reason, ...]
) -> tuple[Verdict, Memory]:
    """What cannot be seen counts as use."""
    text = one_line(look.reason)
    unknown = Reason(ReasonKind.UNKNOWN, Signal.LOOK, text, "with the next complete look")
    memory = Memory(
        memory.awake_since,
        now,
        "unknown (a look failed)",
        blocked_since=memory.blocked_since,
        held=memory.held,
    )
    again = _next_look(_far(settings, LOOK_UNCOUNTED, LOOK_AGAIN), None, now, LOOK_AGAIN)
    return Verdict(False, (unknown, *held), None, again), memory


def _far_from_sleep(look: Snapshot, settings: Settings, memory: Memory, now: float) -> float:
    """Seconds to the next look where no sleep is near."""
    every = LOOK_UNCOUNTED if look.counters is None or settings.ignore else LOOK_EVERY
    return min(_far(settings, every), max(LOOK_SOON, now - memory.awake_since))


def _remember(
    look: Snapshot,
    settings: Settings,
    memory: Memory,
    now: float,
    activity: tuple[Reason, ...],
    blocking: tuple[Blocker, ...],
) -> Memory:
    """The memory updated with this look's uses and blockers. Current activity is as recent as the look's end."""
    last, what = memory.last_activity, memory.last_use
    for moment, name in used(look, settings, memory.baseline):
        if moment > last:
            last, what = moment, name
    if activity:
        last, what = max(last, look.at), activity[0].client or activity[0].text
    return Memory(
        awake_since=memory.awake_since,
        last_activity=min(last, now) if last > memory.last_activity else memory.last_activity,
        last_use=what,
        baseline=baseline(look, settings, memory.baseline),
        blocked_since={b.key: memory.blocked_since.get(b.key, now) for b in blocking},
        delayed_since=memory.delayed_since,
    )


def _default(moment: float | None, otherwise: float) -> float:
    return otherwise if moment is None else moment


def _blocks(blocker: Blocker, memory: Memory, now: float, settings: Settings, spent: bool) -> Reason:
    seen = duration_text(now - memory.blocked_since[blocker.key])
    text = f"{blocker.who} {blocker.state}, seen for {seen}"
    if blocker.signal is not Signal.MAINTENANCE:
        return Reason(ReasonKind.BLOCKER, blocker.signal, text, blocker.ends)
    limit = duration_text(settings.autovacuum_limit)
    if spent or not settings.autovacuum_limit:
        return Reason(
            ReasonKind.NOTE, blocker.signal, f"{text}; no longer waited for (autovacuum-limit {limit})"
        )
    return Reason(
        ReasonKind.BLOCKER, blocker.signal, text, f"{blocker.ends}, or after delaying sleep for {limit}"
    )


def _lease(lease: Lease, now: float) -> Reason:
    why = f": {lease.why}" if lease.why else ""
    return Reason(ReasonKind.BLOCKER, Signal.LEASE, one_line(f"held awake{why}"), lease.ends(now))


def _ready_at(
    settings: Settings, memory: Memory, backoff: Backoff, asked: AskedToSleep | None
) -> float | None:
    """When the clocks alone, or the order to sleep, would let it sleep (monotonic)."""
    if asked is not None:
        return memory.last_activity + asked.unused
    if settings.idle_timeout is None:
        return None
    return max(
        memory.last_activity + settings.idle_timeout + backoff.extra, memory.awake_since + settings.min_awake
    )


def _asked(asked: AskedToSleep, memory: Memory, now: float) -> Iterator[Reason]:
    unused = duration_text(now - memory.last_activity)
    left = memory.last_activity + asked.unused - now
    text = f"asked to sleep; idle {unused}; last use: {memory.last_use}"
    ends = f"after {duration_text(asked.unused)} without use" if left > 0 else ""
    yield Reason(ReasonKind.CLOCK, Signal.IDLE_TIMEOUT, text, ends)


def _just_asked(look: Snapshot, memory: Memory, now: float) -> Iterator[tuple[float, Reason]]:
    """Sessions that were asked an ignored statement a moment ago, and until when (monotonic) that puts off sleep."""
    asked = memory.baseline.asked if memory.baseline else {}
    for session in look.clients:
        if session.key in asked and session.state_age is not None:
            age = now - look.at + max(session.state_age, 0.0)
            if age < JUST_ASKED:
                text = f"{who(session)} was asked an ignored statement {duration_text(age)} ago"
                ends = f"in {duration_text(JUST_ASKED - age)}"
                yield (
                    now + JUST_ASKED - age,
                    Reason(ReasonKind.CLOCK, Signal.IGNORED_STATEMENT, text, ends, client_text(session)),
                )


def _clocks(settings: Settings, memory: Memory, now: float, backoff: Backoff) -> Iterator[Reason]:
    """Never empty."""
    kind = ReasonKind.CLOCK
    if settings.idle_timeout is None:
        yield Reason(
            kind, Signal.IDLE_TIMEOUT, "never sleeps: idle-timeout is off", "when idle-timeout is set"
        )
        return
    wait = settings.idle_timeout + backoff.extra
    waits_until = memory.last_activity + wait
    stays_until = memory.awake_since + settings.min_awake
    unused = duration_text(now - memory.last_activity)
    timeout = duration_text(settings.idle_timeout)
    extended = f", extended by {duration_text(backoff.extra)}" if backoff.extra else ""
    last = f"last use: {memory.last_use}"
    if now >= waits_until:
        yield Reason(kind, Signal.IDLE_TIMEOUT, f"idle {unused} (idle-timeout {timeout}{extended}); {last}")
    else:
        text = f"idle {unused} of {duration_text(wait)} (idle-timeout{extended}); {last}"
        yield Reason(kind, Signal.IDLE_TIMEOUT, text, f"in {duration_text(waits_until - now)}")
    if now < waits_until and backoff.extra:
        longer = f"idle-timeout extended by {duration_text(backoff.extra)}"
        text = f"{longer}: {backoff.culprit} reconnects as soon as it is cut"
        yield Reason(kind, Signal.FLAPPING, text, f"when a sleep lasts {duration_text(SOON)}")
    if now < stays_until:
        spent, least = duration_text(now - memory.awake_since), duration_text(settings.min_awake)
        text = f"awake {spent} of {least} (min-awake)"
        yield Reason(kind, Signal.MIN_AWAKE, text, f"in {duration_text(stays_until - now)}")


def _notes(look: Snapshot, start: StartResult | None) -> Iterator[Reason]:
    if look.refusal is not None:
        text = f"watching as {look.watched_as}: the role made for watching cannot connect: {look.refusal}"
        yield Reason(ReasonKind.NOTE, Signal.LOOK, one_line(text))
    if start is not None and start.startable is Startable.UNKNOWN:
        text = f"cannot tell whether Postgres would start again: {start.reason}"
        yield Reason(ReasonKind.NOTE, Signal.CONFIGURATION, one_line(text))
    if count := look.prepared_transactions:
        text = f"{count} prepared transaction{'s' * (count > 1)} (kept through sleep)"
        yield Reason(ReasonKind.NOTE, Signal.PREPARED_TRANSACTIONS, text)
    for slot in look.slots:
        yield Reason(ReasonKind.NOTE, Signal.REPLICATION_SLOT, slot_text(slot), SLOT_ENDS)


def _grouped(reasons: Iterable[Reason]) -> Iterator[Reason]:
    """The first few reasons of each signal, and a count of the rest."""
    more: dict[Signal, list[Reason]] = {}
    for reason in reasons:
        of_signal = more.setdefault(reason.signal, [])
        of_signal.append(reason)
        if len(of_signal) <= NAMED_PER_SIGNAL:
            yield reason
    for of_signal in more.values():
        if (rest := len(of_signal) - NAMED_PER_SIGNAL) > 0:
            yield replace(of_signal[-1], text=f"and {rest} more like these")


def is_near(verdict: Verdict, now: float) -> bool:
    """Whether a sleep may come so soon that the watching connection is kept open for it."""
    return verdict.sleeps_at is not None and verdict.sleeps_at - now <= NEAR


def _far(settings: Settings, every: float, least: float = LOOK_FINEST) -> float:
    """Seconds between two looks while no sleep is near: a fifth of the idle timeout, but at most `every`."""
    return max(least, every if settings.idle_timeout is None else min(every, settings.idle_timeout / 5))


def _next_look(far: float, sleeps_at: float | None, now: float, least: float = LOOK_FINEST) -> float:
    """Seconds to the next look: halving towards the deadline."""
    left = None if sleeps_at is None else sleeps_at - now
    if left is None or left <= 0:
        return far
    return max(min(far, left, max(left / 2, LOOK_NEAR)), least)

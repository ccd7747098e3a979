"""Polls: statements that come in a rhythm, recognised from what looks see of sessions' last use. Pure.

    polls = Polls(now)                                     # when Postgres became ready
    polls.see(look, reasons, settings, passed_over)        # after every complete look; after a failed one: polls.doubt
    polls.findings(now)                                    # what is sure by then

A look shows when each session was last used, to the microsecond, but not its uses before. `rhythm` finds a period in
that, but cannot tell it from a multiple of the true one. Were the true period only half as long, or less, the last use
would never be older than that; so a look that finds it older settles the question. Where no look happens to,
`next_look` asks for one at three quarters of the period after the last use.

Each session is watched by itself, as in a pool every connection may have a rhythm of its own, and all sessions of a
client that asked the same are watched together, as a pool may use them in turn, and a client may connect anew each
time. Sessions too short for any look only move pg_stat_database.sessions: a rhythm of theirs is found by their number.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgidle.idle import rhythm
from pgidle.idle.between_looks import counts
from pgidle.idle.reasons import ReasonKind, Signal, client_text, duration_text
from pgidle.idle.statement_text import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from pgidle.idle.reasons import Reason
    from pgidle.idle.snapshot import Key, Session, Snapshot
    from pgidle.settings.resolve import Settings

MOMENTS = 24
"""Uses of each stream that are remembered."""

ARRIVALS = 128
"""Looks whose number of sessions is remembered."""

STREAMS, LABELS = 128, 32
"""Streams, and clients with a statement, that are remembered."""

ENOUGH = 6
"""Uses that are enough to look more closely."""

SOONEST = 0.2
"""Seconds after a look at the soonest that another may be asked for."""

PROOFS = 2
"""Looks that show the last use older than half of the period, before that is believed to be no multiple."""

EXTRA_LOOKS, EXTRA_LOOK_EVERY = 24.0, 120.0
"""Looks that may be asked for at once, and seconds after which there may be one more."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, without their whole part, are spread evenly, whatever the period."""

ENDED = 60.0
"""Seconds, besides three periods, after which a rhythm without a further use has ended."""

SECOND = 1_000_000
"""Microseconds."""

Label = tuple[str, str]
"""A client, and its statement as it may be shown; empty where that is not known."""

UNSEEN: Label = ("", "")
"""Whoever connects for too short a time to be seen."""


@dataclass(frozen=True, slots=True)
class Poll:
    """A statement that comes in a rhythm: `every` so many seconds in each of `sessions`, since a moment (monotonic).
    `client` is empty where sessions were only counted, `statement` where none is known."""

    client: str
    statement: str
    every: float
    since: float
    sessions: int = 1

    @property
    def label(self) -> Label:
        return self.client, self.statement

    @property
    def text(self) -> str:
        """Without the statement: `app "web", user app, 10.0.0.3 is used every 30s`."""
        return self._text("is used")

    @property
    def full_text(self) -> str:
        """With the statement: `app "web", user app, 10.0.0.3 asks SELECT 1 every 30s`."""
        return self._text(f"asks {self.statement}" if self.statement else "is used")

    def _text(self, does: str) -> str:
        often = f"every {duration_text(self.every)}"
        if not self.client:
            return f"somebody connects {often}, for too short a time to be seen"
        each = f" in each of {self.sessions} sessions" if self.sessions > 1 else ""
        return f"{self.client} {does} {often}{each}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What is sure. Without all of these polls Postgres would have slept for `slept` of the last `of` seconds: the time
    by which the spans without any other use exceed the idle timeout. `of` is the time in which all other uses are
    known; it begins when the poll was first seen or, where there are several, when they were last recognised."""

    polls: tuple[Poll, ...] = ()
    slept: float = 0.0
    of: float = 0.0

    @property
    def consequence(self) -> str:
        """What would be without the polls; empty where that would make no difference."""
        if self.slept < 1.0:
            return ""
        them = "it" if len(self.polls) == 1 else "these polls"
        slept, of = duration_text(self.slept), duration_text(self.of)
        return f"without {them} this database would have slept {slept} of the last {of}"


NO_FINDINGS = Findings()


@dataclass(slots=True)
class _Stream:
    """Uses of one session, or of all sessions with a label.

    `moments`: by the server's clock, in seconds, each with the look that saw it (monotonic); `used_at`: the last of
    them (monotonic). `period` may be a multiple until `is_sure`. `proofs`: looks that have shown that it is none;
    `missed`: looks that have shown no use for longer than the period.
    """

    moments: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOMENTS))
    used_at: float = 0.0
    period: float | None = None
    is_sure: bool = False
    proofs: int = 0
    missed: int = 0
    since: float = 0.0

    def use(self, moment: float, used_at: float, seen_at: float) -> None:
        """It was used once more."""
        if self.moments and abs(moment - self.moments[-1][0]) < rhythm.LEAST / 2:
            return  # Several sessions of a client that are used at once.
        if self.moments and moment < self.moments[-1][0]:
            self.forget()  # The server's clock was set back.
        self.moments.append((moment, seen_at))
        self.used_at = used_at
        gaps = rhythm.gaps(self.moments)
        period = rhythm.find(gaps, self.period) if self.period else None
        if period is None:
            self.is_sure, self.proofs, self.missed = False, 0, 0
            period = rhythm.find(gaps)
        self.period = period

    def unused(self, age: float) -> None:
        """A look has shown that its last use is so many seconds old."""
        if self.period is None:
            return
        if age > self.period + 2 * rhythm.tolerance(self.period):
            self.missed += 1
        elif age > self.period / 2 + rhythm.tolerance(self.period):
            self.proofs += 1
        if not self.is_sure:
            looks = self.proofs + self.missed
            self.is_sure = self.proofs >= PROOFS and self.missed * rhythm.MISFITS <= looks
            self.since = self.used_at - (self.moments[-1][0] - self.moments[0][0])

    def has_ended(self, at: float) -> bool:
        """Whether the rhythm has ended, `at` (monotonic)."""
        return self.period is not None and at - self.used_at > 3 * self.period + ENDED

    def forget(self) -> None:
        """Begin anew."""
        self.moments.clear()
        self.period, self.is_sure, self.proofs, self.missed = None, False, 0, 0


@dataclass(slots=True)
class _Others:
    """Everybody's use but that of some polls, from `begin` on (monotonic). `last`: the last such use, perhaps before;
    `slept`: how long Postgres would have slept up to then."""

    begin: float
    last: float
    slept: float = 0.0

    def use(self, moment: float, wait: float) -> None:
        """One more use; Postgres would sleep after `wait` seconds without any."""
        self.slept = self.slept_until(moment, wait)
        self.last = max(self.last, moment)

    def slept_until(self, now: float, wait: float) -> float:
        return self.slept + max(0.0, now - max(self.last + wait, self.begin))


class Polls:
    """What looks have shown of one Postgres since it became ready, `now` (monotonic)."""

    def __init__(self, now: float) -> None:
        self._sessions: dict[Key, tuple[int, Label]] = {}
        """The state_change of each session at the last look, 0 for one that was not idle, and its label."""
        self._streams: dict[tuple[Label, Key | None], _Stream] = {}
        self._others: dict[Label, _Others] = {}
        """For each label, everybody else's use."""
        self._rest = _Others(now, now)
        """Everybody's use but that of all polls."""
        self._polling: frozenset[Label] = frozenset()
        self._last_use = now
        self._extra_looks = EXTRA_LOOKS
        """How many looks may be asked for, `_refilled` (monotonic)."""
        self._refilled = now
        self._asked = 0
        self._counters: tuple[int, int, int | None] | None = None
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=ARRIVALS)
        """The moments of looks, and how many sessions had begun by each of them."""
        self._arrive_every: float | None = None
        self._newcomers: frozenset[Key] = frozenset()
        self._wait: float | None = None

    def doubt(self, now: float) -> None:
        """A look has failed: anybody may have used Postgres since the last one."""
        self._use(None, now)
        self._arrivals.clear()
        self._counters = None

    def see(
        self, look: Snapshot, reasons: Iterable[Reason], settings: Settings, passed_over: Collection[Key] = ()
    ) -> None:
        """Take in a complete look and the reasons of its verdict. `passed_over`: sessions whose use since the look
        before does not count."""
        if settings.idle_timeout is None:
            self._wait = None
            return
        self._wait = max(settings.idle_timeout, settings.min_awake)
        sessions = [one for one in look.clients if counts(one, settings)]
        begun = self._begun(look)
        newcomers = frozenset(one.key for one in sessions if one.key not in self._sessions)
        self._count(look.at, None if settings.ignore else begun, newcomers, sessions)
        uses = [*self._uses(sessions, look.at, passed_over), *_other_uses(reasons, look.at)]
        for label, moment in sorted(uses, key=lambda use: use[1]):
            self._use(label, moment)
        self._note_ages(sessions, look.at, is_complete=begun is not None and begun <= len(newcomers))
        self._bound(look.at)
        polling = frozenset(poll.label for poll in self._polls())
        if polling != self._polling:
            self._rest = _Others(look.at, look.at)
            self._polling = polling

    def findings(self, now: float) -> Findings:
        """What is sure."""
        polls = tuple(sorted(self._polls(), key=lambda poll: poll.since))
        if not polls or self._wait is None:
            return NO_FINDINGS
        others = self._others.get(polls[0].label, self._rest) if len(polls) == 1 else self._rest
        return Findings(polls, others.slept_until(now, self._wait), now - others.begin)

    def next_look(self, now: float, otherwise: float) -> float:
        """Seconds until the next look: those until `otherwise`, or fewer, if a look before that may settle a period."""
        more = (now - self._refilled) / EXTRA_LOOK_EVERY
        self._extra_looks, self._refilled = min(self._extra_looks + more, EXTRA_LOOKS), now
        if self._extra_looks < 1:
            return otherwise
        soonest = otherwise
        for stream in self._streams.values():
            if stream.period is not None and not stream.is_sure:
                soonest = min(soonest, (0.75 * stream.period - (now - stream.used_at)) % stream.period)
            elif (
                stream.period is None
                and len(stream.moments) >= ENOUGH
                and self._extra_looks > EXTRA_LOOKS / 2
                and soonest == otherwise
            ):
                # Looks in step with the uses see the same again and again: be out of step.
                soonest = otherwise * (self._asked * GOLDEN % 1)
        if soonest < otherwise:
            self._extra_looks -= 1
            self._asked += 1
        return max(soonest, min(otherwise, SOONEST))

    def _uses(
        self, sessions: Sequence[Session], at: float, passed_over: Collection[Key]
    ) -> Iterator[tuple[Label, float]]:
        """The uses that this look has news of, and when each was (monotonic)."""
        before, self._sessions = self._sessions, {}
        present = {one.key for one in sessions}
        yield from ((label, at) for key, (_, label) in before.items() if key not in present)
        for session in sorted(sessions, key=lambda one: one.state_change or 0):
            label = client_text(session), shown(session.statement)
            changed, last_label = before.get(session.key, (None, label))
            if session.state != "idle" or session.state_change is None:
                self._sessions[session.key] = 0, label
                yield label, at
            elif changed == session.state_change:
                self._sessions[session.key] = changed, last_label
            else:
                self._sessions[session.key] = session.state_change, label
                if session.key not in passed_over:
                    used_at = at - max(session.state_age or 0.0, 0.0)
                    yield label, at if changed is None else used_at
                    for key in (session.key, None):
                        stream = self._streams.setdefault((label, key), _Stream())
                        stream.use(session.state_change / SECOND, used_at, at)

    def _use(self, label: Label | None, moment: float) -> None:
        """A use with a label, or by somebody else: everybody else's use but that of each other label."""
        wait = self._wait or 0.0
        if label is not None:
            # The one used last comes last.
            others = self._others.pop(label) if label in self._others else _Others(moment, self._last_use)
            self._others[label] = others
        for its, others in self._others.items():
            if its != label:
                others.use(moment, wait)
        if label not in self._polling:
            self._rest.use(moment, wait)
        self._last_use = max(self._last_use, moment)

    def _note_ages(self, sessions: Sequence[Session], at: float, *, is_complete: bool) -> None:
        """Show each stream how old its last use is, where this look would have shown a newer one. `is_complete`: no
        session has come and gone unseen."""
        quiet = {one.key for one in sessions if one.state == "idle" and not one.unread}
        busy = {client_text(one) for one in sessions if one.key not in quiet}
        for (label, key), stream in self._streams.items():
            if key in quiet if key is not None else is_complete and label[0] not in busy:
                stream.unused(at - stream.used_at)

    def _begun(self, look: Snapshot) -> int | None:
        """How many sessions have begun since the look before; None if that is not known."""
        now = look.counters
        before, self._counters = self._counters, (now.sessions, now.datids, now.reset) if now else None
        if before is None or self._counters is None or before[1:] != self._counters[1:]:
            return None
        return self._counters[0] - before[0] if self._counters[0] >= before[0] else None

    def _count(
        self, at: float, begun: int | None, newcomers: frozenset[Key], sessions: Sequence[Session]
    ) -> None:
        """Count the sessions that begin. One that lasts until the next look spoils the count."""
        lasts = any(one.key in self._newcomers for one in sessions)
        self._newcomers = newcomers
        if begun is None or lasts:
            self._arrivals.clear()
            begun = 0
        self._arrivals.append((at, begun + (self._arrivals[-1][1] if self._arrivals else 0)))
        self._arrive_every = rhythm.find_counted(self._arrivals)

    def _bound(self, at: float) -> None:
        """Forget sessions that have gone, rhythms that have ended, and what was used longest ago."""
        streams = [
            (name, stream)
            for name, stream in self._streams.items()
            if (name[1] is None or name[1] in self._sessions) and not stream.has_ended(at)
        ]
        streams.sort(key=lambda one: one[1].used_at)
        self._streams = dict(streams[-STREAMS:])
        for label in list(self._others)[:-LABELS]:
            del self._others[label]

    def _polls(self) -> list[Poll]:
        found: dict[Label, dict[Key | None, _Stream]] = {}
        for (label, key), stream in self._streams.items():
            if stream.is_sure:
                found.setdefault(label, {})[key] = stream
        polls = []
        for label, streams in found.items():
            together = streams.pop(None, None)
            alone = list(streams.values())
            if together and (len(alone) < 2 or _agrees(together, alone)):
                alone = [together]
            every, since = min(one.period or 0.0 for one in alone), min(one.since for one in alone)
            polls.append(Poll(*label, every, since, len(alone)))
        arrive = self._arrive_every
        # Sessions that a look sees are counted, too.
        if arrive is not None and not any(0.9 < one.every / arrive < 1.1 for one in polls):
            polls.append(Poll(*UNSEEN, arrive, self._arrivals[0][0]))
        return polls


def _other_uses(reasons: Iterable[Reason], at: float) -> Iterator[tuple[Label | None, float]]:
    """What keeps Postgres awake at this look besides its sessions' use."""
    sessions = (Signal.NEW_SESSION, Signal.VANISHED_SESSION, Signal.SESSION_STATE)
    for reason in reasons:
        if reason.kind in (ReasonKind.ACTIVITY, ReasonKind.BLOCKER, ReasonKind.UNKNOWN):
            if reason.signal is Signal.COUNTERS:
                yield UNSEEN, at
            elif reason.signal not in sessions:
                yield None, at


def _agrees(together: _Stream, alone: Sequence[_Stream]) -> bool:
    """Whether sessions that are used in turn make up the rhythm of all of them."""
    rate = sum(1 / one.period for one in alone if one.period)
    return together.period is not None and abs(together.period * rate - 1) < 0.2

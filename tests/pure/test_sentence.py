"""The status in a sentence, in every state."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.answering import make_report
from pgidle.control.sentence import sentence
from pgidle.control.status import Memory, as_dict
from pgidle.idle.flapping import LastSleep
from pgidle.idle.polls import Findings, Poll
from pgidle.idle.reasons import Reason, ReasonKind, Signal
from pgidle.lifecycle.restarts import FailedStart
from pgidle.lifecycle.transitions import State

NOW, WALL = 1000.0, 1_795_390_801.5
WEB = 'app "web", user app, 10.0.0.3'
LAST = LastSleep(f"idle 5min (idle-timeout 5min); last use: {WEB}", WALL - 3600, 0.1)
IN_TRANSACTION = Reason(
    ReasonKind.ACTIVITY,
    Signal.SESSION_STATE,
    f"session 7 ({WEB}) has been idle in transaction for 9.5s",
    "when it commits, rolls back or disconnects",
)
CLOCK = Reason(ReasonKind.CLOCK, Signal.IDLE_TIMEOUT, "idle 12s of 5min (idle-timeout)", "in 4min 48s")
NEVER = Reason(
    ReasonKind.CLOCK, Signal.IDLE_TIMEOUT, "never sleeps: idle-timeout is off", "when idle-timeout is set"
)
GONE = Reason(ReasonKind.ACTIVITY, Signal.VANISHED_SESSION, f"session 7 ({WEB}) has disconnected")
HELD = Reason(
    ReasonKind.BLOCKER, Signal.LEASE, "held awake: migration", "in 1h 20min, or with pgidle release 3"
)
LISTENS = Reason(
    ReasonKind.BLOCKER,
    Signal.LISTENER,
    "session 8 is idle and listening for notifications, seen for 3min",
    "with UNLISTEN *, or when it disconnects",
)
BLIND = Reason(ReasonKind.UNKNOWN, Signal.LOOK, "no answer within 5 s", "with the next complete look")
FLAPPING = Reason(
    ReasonKind.CLOCK,
    Signal.FLAPPING,
    f"idle-timeout extended by 5min: {WEB} reconnects as soon as it is cut",
    "when a sleep lasts 10s",
)
POLL = Poll(WEB, "SELECT 1", 30.0, NOW - 3600)
FATAL = 'FATAL:  could not open file "pg_wal/0001": Permission denied'


def status(**changes: Any) -> dict[str, Any]:
    report = make_report(**{"since": NOW - 90, "started": NOW - 100} | changes)
    said: dict[str, Any] = json.loads(json.dumps(as_dict(report, NOW, WALL, Memory(1, 1, None))))
    return said


def failing(count: int = 1, again: float = 5) -> FailedStart:
    return FailedStart(FATAL, count, NOW - 60, NOW + again)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "Awake for 1min 30s: Postgres accepts connections. Nobody has looked yet who uses Postgres."),
        (
            {"reasons": (IN_TRANSACTION, CLOCK)},
            f"Awake: session 7 ({WEB}) has been idle in transaction for 9.5s; cannot sleep before it commits, rolls "
            "back or disconnects.",
        ),
        (
            {"reasons": (IN_TRANSACTION, LISTENS, CLOCK)},
            f"Awake: session 7 ({WEB}) has been idle in transaction for 9.5s; cannot sleep before it commits, rolls "
            "back or disconnects; 1 more reason keeps it awake, too.",
        ),
        (
            {
                "reasons": (
                    IN_TRANSACTION,
                    Reason(
                        ReasonKind.ACTIVITY, Signal.SESSION_STATE, "and 31 more like these", "when it ends"
                    ),
                    CLOCK,
                )
            },
            f"Awake: session 7 ({WEB}) has been idle in transaction for 9.5s; cannot sleep before it commits, rolls "
            "back or disconnects; 31 more reasons keep it awake, too.",
        ),
        (
            {"reasons": (LISTENS, CLOCK)},
            "Awake: session 8 is idle and listening for notifications, seen for 3min; cannot sleep before that ends, "
            "with UNLISTEN *, or when it disconnects.",
        ),
        (
            {"reasons": (HELD, CLOCK), "sleeps_at": NOW + 4800},
            "Awake: migration (pgidle hold); ends in 1h 20min, or with pgidle release 3; sleeps in 1h 20min if nobody "
            "comes.",
        ),
        (
            {"reasons": (GONE, CLOCK), "sleeps_at": NOW + 288, "last_use": (WEB, NOW - 12)},
            f"Awake: idle for 12s, last used by {WEB}; sleeps in 4min 48s if nobody comes.",
        ),
        (
            {"reasons": (CLOCK,), "sleeps_at": NOW + 288},
            "Awake: not used since it woke; sleeps in 4min 48s if nobody comes.",
        ),
        (
            {"reasons": (CLOCK, FLAPPING), "sleeps_at": NOW + 600, "last_use": (WEB, NOW - 12)},
            f"Awake: idle for 12s, last used by {WEB}; idle-timeout extended by 5min: {WEB} reconnects as soon as it "
            "is cut; sleeps in 10min if nobody comes.",
        ),
        (
            {"reasons": (CLOCK,), "sleeps_at": NOW + 288, "polls": Findings((POLL,), 3600.0, 7200.0)},
            f"Awake: {WEB} is used every 30s, which keeps it awake; turn it off in the client, or let it not count "
            "with the setting ignore (pgidle status shows how).",
        ),
        (
            {"reasons": (CLOCK,), "polls": Findings((POLL, POLL), 3600.0, 7200.0)},
            f"Awake: {WEB} is used every 30s (and 1 more poll), which keep it awake; turn it off in the client, or "
            "let it not count with the setting ignore (pgidle status shows how).",
        ),
        (
            {"reasons": (CLOCK,), "sleeps_at": NOW + 288, "polls": Findings((POLL,), 0.0, 7200.0)},
            "Awake: not used since it woke; sleeps in 4min 48s if nobody comes.",
        ),
        ({"reasons": (NEVER,)}, "Awake for 1min 30s: never sleeps: idle-timeout is off."),
        (
            {"reasons": (BLIND, HELD)},
            "Awake, as it cannot be seen whether Postgres is in use: no answer within 5 s.",
        ),
        (
            {"state": State.STARTING, "why": "1 client parked at the gate", "parked": 1},
            "Starting for 1min 30s: 1 client parked at the gate. 1 client waits meanwhile.",
        ),
        (
            {"state": State.STARTING, "initialising": True},
            "Makes the data directory (initdb), for 1min 30s so far.",
        ),
        (
            {"state": State.STARTING, "failed_start": failing(3), "parked": 3},
            f"Does not start (3 times): {FATAL}; tried again in 5s. 3 clients wait meanwhile.",
        ),
        (
            {"state": State.STARTING, "failed_start": failing(again=-1)},
            f"Does not start: {FATAL}; tried again now.",
        ),
        ({"state": State.DROWSY, "why": "idle 5min"}, "About to sleep: idle 5min."),
        (
            {"state": State.STOPPING, "since": NOW - 0.5, "parked": 2},
            "Going to sleep: Postgres has been shutting down for 0.5s. 2 clients wait meanwhile.",
        ),
        (
            {"state": State.ASLEEP, "since": NOW - 10800, "last_sleep": LAST},
            f"Asleep for 3h; it was idle 5min (idle-timeout 5min); last use: {WEB}. The next client wakes it.",
        ),
        ({"state": State.ASLEEP}, "Asleep for 1min 30s. The next client wakes it."),
        (
            {"state": State.LEAVING, "last_sleep": LastSleep("asked to sleep", WALL, None)},
            "Asleep; it was asked to sleep. pgidle is about to exit; the platform starts it for the next client.",
        ),
        (
            {"state": State.TERMINATING, "why": "received SIGTERM", "failed_start": failing()},
            "Stopping for 1min 30s: received SIGTERM.",
        ),
        (
            {"state": State.FAILED, "why": "failed too often", "failed_start": failing()},
            "Failed, and exits: failed too often.",
        ),
    ],
)
def test_a_sentence(changes: dict[str, Any], says: str) -> None:
    said = status(**changes)
    assert sentence(said, WALL) == says
    assert said["summary"] == says


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_one(state: State) -> None:
    assert sentence(status(state=state), WALL).endswith(".")


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ({}, "Not running, and no sleep is on record."),
        (
            {"last_sleep": {"why": "idle 5min", "at": WALL - 10800, "seconds": None}},
            "Not running; Postgres was last put to sleep 3h ago: it was idle 5min.",
        ),
        (
            {
                "last_sleep": {"why": "idle 5min", "at": WALL - 10800, "seconds": None},
                "failure": {"why": FATAL, "at": WALL - 60},
            },
            f"Not running, as pgidle failed 1min ago: {FATAL}.",
        ),
        (
            {
                "last_sleep": {"why": "idle 5min", "at": WALL - 10800, "seconds": None},
                "ended": {"at": WALL - 10800, "state": "leaving", "why": "nobody parked"},
            },
            "Asleep for 3h; it was idle 5min. pgidle has exited; the platform starts it for the next client.",
        ),
        (
            {
                "last_sleep": {"why": "idle 5min", "at": WALL - 10800, "seconds": None},
                "ended": {"at": WALL - 60, "state": "terminating", "why": "SIGTERM received"},
            },
            "Not running; it ended 1min ago: SIGTERM received.",
        ),
        (
            {"ended": {"at": WALL - 60, "state": "lost", "why": ""}},
            "Not running: pgidle was killed, or its machine was lost, at most 1min ago.",
        ),
    ],
)
def test_where_nothing_runs_it_says_what_was_left_behind(left: dict[str, Any], says: str) -> None:
    assert (
        sentence({"state": "not running", "last_sleep": None, "failure": None, "ended": None} | left, WALL)
        == says
    )


@pytest.mark.parametrize("nonsense", [{}, {"state": None}, {"state": "awake"}, {"state": "dreaming"}])
def test_what_is_no_status_is_an_error(nonsense: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        sentence(nonsense, WALL)

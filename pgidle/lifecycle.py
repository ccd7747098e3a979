"""The life of a Postgres that sleeps: one table, and nothing else may hold state.

Time runs downwards; `gate` says what happens to a client that connects::

    state         Postgres                        gate
    ------------  ------------------------------  --------------------------------------------
    starting      initdb, recovery, start-up      parks
    awake         owns the port                   steered away; catches all if Postgres dies
    drowsy        running, checkpoint done        parks: nobody new reaches Postgres
    stopping      fast shutdown, going to sleep   parks
    asleep        none                            parks; a client who parks wakes
    leaving       none                            plugged: SYNs are dropped, one last look
    terminating   fast, then immediate shutdown   plugged: asked to stop, nobody is let in
    failed        none                            closed

The supervisor turns what it sees into events (past tense), asks `advance` for the next state, and carries out the
effects (imperative) in order. The table names every pair that changes something. A pair that is not in it changes
nothing if the event is one that `MAY_COME_LATE`, and is a bug otherwise, raised as `LookupError`. Invariants, checked
in tests over every reachable path:

- Postgres is started only where none runs, so there are never two postmasters.
- Going to sleep passes through `drowsy`: newcomers park *before* the last judgement, and a client who parked in
  `drowsy` brings Postgres's port back before anything is stopped.
- The program leaves with status 0 only when Postgres was reaped with status 0 (or never ran since) and the queue was
  plugged, looked at, and found empty, or somebody asked it to stop.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where Postgres is in its life. The numbers are stable: they are published as a metric."""

    STARTING = 1
    AWAKE = 2
    DROWSY = 3
    STOPPING = 4
    ASLEEP = 5
    FAILED = 6
    LEAVING = 7
    TERMINATING = 8

    @property
    def noun(self) -> str:
        return self.name.lower()


class Event(enum.Enum):
    """What has happened."""

    POSTMASTER_READY = enum.auto()
    POSTMASTER_FAILING = enum.auto()
    POSTMASTER_EXITED_CLEANLY = enum.auto()
    POSTMASTER_CRASHED = enum.auto()
    RESTARTS_EXHAUSTED = enum.auto()
    IDLE_JUDGED = enum.auto()
    IDLE_CONFIRMED = enum.auto()
    ACTIVITY_SEEN = enum.auto()
    CLIENT_PARKED = enum.auto()
    NOBODY_PARKED = enum.auto()
    EXIT_CHOSEN = enum.auto()
    WAKE_REQUESTED = enum.auto()
    STOP_REQUESTED = enum.auto()
    STOP_TIMED_OUT = enum.auto()


class Effect(enum.Enum):
    """What to do, in order."""

    START_POSTMASTER = enum.auto()
    OPEN_GATE = enum.auto()
    CLOSE_GATE = enum.auto()
    PLUG_GATE = enum.auto()
    UNPLUG_GATE = enum.auto()
    CONFIRM_IDLE = enum.auto()
    STOP_FAST = enum.auto()
    STOP_DRAINED = enum.auto()
    LIMIT_STOP = enum.auto()
    KEEP_WISH = enum.auto()
    STOP_IMMEDIATE = enum.auto()
    RECORD_SLEEP = enum.auto()
    LOOK_AT_QUEUE = enum.auto()
    LAST_LOOK = enum.auto()
    EXIT_CLEAN = enum.auto()
    EXIT_FAILED = enum.auto()


URGENT = frozenset({Effect.CLOSE_GATE})
"""Carried out before the change is told, which may take a while: until then newcomers meet a Postgres that refuses."""

S, E, F = State, Event, Effect

TABLE: dict[tuple[State, Event], tuple[State, tuple[Effect, ...]]] = {
    (S.STARTING, E.POSTMASTER_READY): (S.AWAKE, (F.OPEN_GATE,)),
    (S.STARTING, E.POSTMASTER_CRASHED): (S.STARTING, (F.CLOSE_GATE, F.START_POSTMASTER)),
    # Somebody else stopped it before it was ready (pg_ctl stop): that is no wish of ours, and clients may wait.
    (S.STARTING, E.POSTMASTER_EXITED_CLEANLY): (S.STARTING, (F.CLOSE_GATE, F.START_POSTMASTER)),
    (S.STARTING, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.STARTING, E.STOP_REQUESTED): (S.TERMINATING, (F.PLUG_GATE, F.LIMIT_STOP, F.STOP_DRAINED)),
    (S.AWAKE, E.IDLE_JUDGED): (S.DROWSY, (F.CLOSE_GATE, F.CONFIRM_IDLE)),
    # It refuses clients until it has ended, which a process that does not die can put off for seconds.
    (S.AWAKE, E.POSTMASTER_FAILING): (S.STARTING, (F.CLOSE_GATE,)),
    (S.AWAKE, E.POSTMASTER_CRASHED): (S.STARTING, (F.CLOSE_GATE, F.START_POSTMASTER)),
    (S.AWAKE, E.POSTMASTER_EXITED_CLEANLY): (S.STARTING, (F.CLOSE_GATE, F.START_POSTMASTER)),
    (S.AWAKE, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    # A handshake that was under way at the hand-off ended up in the gate's queue: pass it on.
    (S.AWAKE, E.CLIENT_PARKED): (S.AWAKE, (F.OPEN_GATE,)),
    (S.AWAKE, E.STOP_REQUESTED): (S.TERMINATING, (F.PLUG_GATE, F.LIMIT_STOP, F.STOP_DRAINED)),
    (S.DROWSY, E.CLIENT_PARKED): (S.AWAKE, (F.OPEN_GATE,)),
    (S.DROWSY, E.ACTIVITY_SEEN): (S.AWAKE, (F.OPEN_GATE,)),
    (S.DROWSY, E.WAKE_REQUESTED): (S.AWAKE, (F.OPEN_GATE,)),
    (S.DROWSY, E.IDLE_CONFIRMED): (S.STOPPING, (F.STOP_FAST,)),
    (S.DROWSY, E.POSTMASTER_FAILING): (S.STARTING, (F.CLOSE_GATE,)),
    (S.DROWSY, E.POSTMASTER_CRASHED): (S.STARTING, (F.CLOSE_GATE, F.START_POSTMASTER)),
    (S.DROWSY, E.POSTMASTER_EXITED_CLEANLY): (S.STARTING, (F.CLOSE_GATE, F.START_POSTMASTER)),
    (S.DROWSY, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.DROWSY, E.STOP_REQUESTED): (S.TERMINATING, (F.PLUG_GATE, F.LIMIT_STOP, F.STOP_DRAINED)),
    (S.STOPPING, E.POSTMASTER_EXITED_CLEANLY): (S.ASLEEP, (F.RECORD_SLEEP, F.LOOK_AT_QUEUE)),
    # Not a sleep: the next start recovers, and only a shutdown that was clean may end in one.
    (S.STOPPING, E.POSTMASTER_CRASHED): (S.STARTING, (F.CLOSE_GATE, F.START_POSTMASTER)),
    (S.STOPPING, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.STOPPING, E.STOP_TIMED_OUT): (S.STOPPING, (F.STOP_IMMEDIATE,)),
    # While nobody waits a slow shutdown may take its time.
    (S.STOPPING, E.CLIENT_PARKED): (S.STOPPING, (F.LIMIT_STOP,)),
    (S.STOPPING, E.WAKE_REQUESTED): (S.STOPPING, (F.LIMIT_STOP, F.KEEP_WISH)),
    (S.STOPPING, E.STOP_REQUESTED): (S.TERMINATING, (F.PLUG_GATE, F.LIMIT_STOP)),
    (S.ASLEEP, E.CLIENT_PARKED): (S.STARTING, (F.START_POSTMASTER,)),
    (S.ASLEEP, E.WAKE_REQUESTED): (S.STARTING, (F.START_POSTMASTER,)),
    (S.ASLEEP, E.EXIT_CHOSEN): (S.LEAVING, (F.PLUG_GATE, F.LAST_LOOK)),
    (S.ASLEEP, E.STOP_REQUESTED): (S.TERMINATING, (F.PLUG_GATE, F.EXIT_CLEAN)),
    (S.LEAVING, E.CLIENT_PARKED): (S.STARTING, (F.UNPLUG_GATE, F.START_POSTMASTER)),
    (S.LEAVING, E.WAKE_REQUESTED): (S.STARTING, (F.UNPLUG_GATE, F.START_POSTMASTER)),
    (S.LEAVING, E.NOBODY_PARKED): (S.LEAVING, (F.EXIT_CLEAN,)),
    (S.LEAVING, E.STOP_REQUESTED): (S.TERMINATING, (F.EXIT_CLEAN,)),
    # It became ready in the same instant in which it was told to stop.
    (S.TERMINATING, E.POSTMASTER_READY): (S.TERMINATING, ()),
    (S.TERMINATING, E.POSTMASTER_EXITED_CLEANLY): (S.TERMINATING, (F.EXIT_CLEAN,)),
    (S.TERMINATING, E.POSTMASTER_CRASHED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.TERMINATING, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.TERMINATING, E.STOP_TIMED_OUT): (S.TERMINATING, (F.STOP_IMMEDIATE,)),
}

# What is noticed may have changed by the time that it is dealt with: a verdict, a wish or a client in the queue that
# comes too late changes nothing. Where it matters, the queue is looked at again by an effect.
MAY_COME_LATE = frozenset(Event) - {
    E.POSTMASTER_READY,
    E.POSTMASTER_EXITED_CLEANLY,
    E.POSTMASTER_CRASHED,
    E.RESTARTS_EXHAUSTED,
}


def advance(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """The next state, and what to do to get there.

    Raises LookupError for what must never happen: Postgres's end or readiness where none runs.
    """
    if (found := TABLE.get((state, event))) is not None:
        return found
    if event in MAY_COME_LATE:
        return state, ()
    raise LookupError(f"{event.name} cannot happen while {state.noun}")

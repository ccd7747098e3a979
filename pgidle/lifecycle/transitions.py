"""The life cycle of a Postgres that sleeps, as one table. No other module decides on the state.

Time runs downwards; `gate` tells what happens to a client that connects::

    state         Postgres                        gate
    ------------  ------------------------------  --------------------------------------------
    starting      initdb, recovery, start-up      shut: clients park
    awake         serves                          open; shuts by itself if Postgres begins to exit
    drowsy        running, checkpoint done        shut, once Postgres has answered; the last look
    stopping      fast shutdown, going to sleep   shut
    asleep        none                            shut; a client that parks wakes it
    leaving       none                            plugged: SYNs are dropped, one last look
    terminating   fast, then immediate shutdown   plugged, then shut; pgidle was asked to stop
    failed        none                            closed

The supervisor turns what it sees into events (past tense), asks `advance` for the next state, and carries out the
effects (imperative) in order. The table names every pair that changes something. A pair that is not in it changes
nothing if the event is one of `MAY_COME_LATE`; otherwise it is a bug, raised as `LookupError`. Invariants, checked in
tests over every reachable path:

- Postgres is started only where none runs, so there are never two postmasters.
- Going to sleep passes through `drowsy`: new clients park *before* the last judgement, which waits until Postgres has
  confirmed that it accepts nobody, and a client that parks in `drowsy` has the gate opened again before anything stops.
- The program exits with status 0 only when Postgres was reaped with status 0 (or has not run since), and either the
  queue was plugged, looked at and found empty, or pgidle was asked to stop.
"""

from __future__ import annotations

from pgidle.base.record import Enum, record


class State(Enum):
    """Where Postgres is in its life cycle. The numbers are stable: they are published as a metric."""

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


@record
class Moment:
    """The state, since when (monotonic), and why. Replaced as a whole."""

    state: State
    since: float
    why: str


class Event(Enum):
    """What has happened."""

    POSTMASTER_READY = 1
    POSTMASTER_FAILING = 2
    POSTMASTER_EXITED_CLEANLY = 3
    POSTMASTER_CRASHED = 4
    RESTARTS_EXHAUSTED = 5
    IDLE_JUDGED = 6
    IDLE_CONFIRMED = 7
    ACTIVITY_SEEN = 8
    GATE_SHUT = 9
    GATE_SILENT = 10
    CLIENT_PARKED = 11
    NOBODY_PARKED = 12
    EXIT_CHOSEN = 13
    LEAVING_PUT_OFF = 14
    WAKE_REQUESTED = 15
    STOP_REQUESTED = 16
    STOP_TIMED_OUT = 17


class Effect(Enum):
    """What to do, in order."""

    START_POSTMASTER = 1
    OPEN_GATE = 2
    SHUT_GATE = 3
    CONFIRM_IDLE = 4
    STOP_FAST = 5
    STOP_DRAINED = 6
    STOP_SETTLED = 7
    LIMIT_STOP = 8
    REMEMBER_WAKE = 9
    STOP_IMMEDIATE = 10
    RECORD_SLEEP = 11
    LOOK_AT_QUEUE = 12
    BEGIN_LEAVING = 13
    CALL_OFF_LEAVING = 14
    LEAVE_AGAIN_LATER = 15
    EXIT_CLEAN = 16
    EXIT_FAILED = 17


S, E, F = State, Event, Effect

TABLE: dict[tuple[State, Event], tuple[State, tuple[Effect, ...]]] = {
    (S.STARTING, E.POSTMASTER_READY): (S.AWAKE, (F.OPEN_GATE,)),
    (S.STARTING, E.POSTMASTER_CRASHED): (S.STARTING, (F.START_POSTMASTER,)),
    # Stopped from outside before it was ready (pg_ctl stop): pgidle was not asked to stop, and clients may be waiting.
    (S.STARTING, E.POSTMASTER_EXITED_CLEANLY): (S.STARTING, (F.START_POSTMASTER,)),
    (S.STARTING, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.STARTING, E.STOP_REQUESTED): (S.TERMINATING, (F.LIMIT_STOP, F.STOP_DRAINED)),
    (S.AWAKE, E.IDLE_JUDGED): (S.DROWSY, (F.SHUT_GATE,)),
    # The gate has shut by itself: Postgres would refuse clients until it has exited, which may take long.
    (S.AWAKE, E.POSTMASTER_FAILING): (S.STARTING, ()),
    (S.AWAKE, E.POSTMASTER_CRASHED): (S.STARTING, (F.START_POSTMASTER,)),
    (S.AWAKE, E.POSTMASTER_EXITED_CLEANLY): (S.STARTING, (F.START_POSTMASTER,)),
    (S.AWAKE, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.AWAKE, E.STOP_REQUESTED): (S.TERMINATING, (F.LIMIT_STOP, F.STOP_DRAINED)),
    (S.DROWSY, E.GATE_SHUT): (S.DROWSY, (F.CONFIRM_IDLE,)),
    (S.DROWSY, E.GATE_SILENT): (S.AWAKE, (F.OPEN_GATE,)),
    (S.DROWSY, E.CLIENT_PARKED): (S.AWAKE, (F.OPEN_GATE,)),
    (S.DROWSY, E.ACTIVITY_SEEN): (S.AWAKE, (F.OPEN_GATE,)),
    (S.DROWSY, E.WAKE_REQUESTED): (S.AWAKE, (F.OPEN_GATE,)),
    (S.DROWSY, E.IDLE_CONFIRMED): (S.STOPPING, (F.STOP_FAST,)),
    (S.DROWSY, E.POSTMASTER_FAILING): (S.STARTING, ()),
    (S.DROWSY, E.POSTMASTER_CRASHED): (S.STARTING, (F.START_POSTMASTER,)),
    (S.DROWSY, E.POSTMASTER_EXITED_CLEANLY): (S.STARTING, (F.START_POSTMASTER,)),
    (S.DROWSY, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.DROWSY, E.STOP_REQUESTED): (S.TERMINATING, (F.LIMIT_STOP, F.STOP_DRAINED)),
    (S.STOPPING, E.POSTMASTER_EXITED_CLEANLY): (S.ASLEEP, (F.RECORD_SLEEP, F.LOOK_AT_QUEUE)),
    # Not a sleep: only a clean shutdown counts as one, and after this the next start has to recover.
    (S.STOPPING, E.POSTMASTER_CRASHED): (S.STARTING, (F.START_POSTMASTER,)),
    (S.STOPPING, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.STOPPING, E.STOP_TIMED_OUT): (S.STOPPING, (F.STOP_IMMEDIATE,)),
    # A slow shutdown may take its time until a client waits.
    (S.STOPPING, E.CLIENT_PARKED): (S.STOPPING, (F.LIMIT_STOP,)),
    (S.STOPPING, E.WAKE_REQUESTED): (S.STOPPING, (F.LIMIT_STOP, F.REMEMBER_WAKE)),
    (S.STOPPING, E.STOP_REQUESTED): (S.TERMINATING, (F.LIMIT_STOP,)),
    (S.ASLEEP, E.CLIENT_PARKED): (S.STARTING, (F.START_POSTMASTER,)),
    (S.ASLEEP, E.WAKE_REQUESTED): (S.STARTING, (F.START_POSTMASTER,)),
    (S.ASLEEP, E.EXIT_CHOSEN): (S.LEAVING, (F.BEGIN_LEAVING,)),
    (S.ASLEEP, E.STOP_REQUESTED): (S.TERMINATING, (F.EXIT_CLEAN,)),
    (S.LEAVING, E.CLIENT_PARKED): (S.STARTING, (F.CALL_OFF_LEAVING, F.START_POSTMASTER)),
    (S.LEAVING, E.WAKE_REQUESTED): (S.STARTING, (F.CALL_OFF_LEAVING, F.START_POSTMASTER)),
    # A port scan is not a client: it does not wake Postgres, but clients that come meanwhile must get an answer.
    (S.LEAVING, E.LEAVING_PUT_OFF): (S.ASLEEP, (F.CALL_OFF_LEAVING, F.LEAVE_AGAIN_LATER)),
    (S.LEAVING, E.NOBODY_PARKED): (S.LEAVING, (F.EXIT_CLEAN,)),
    (S.LEAVING, E.STOP_REQUESTED): (S.TERMINATING, (F.EXIT_CLEAN,)),
    # It became ready at the very moment it was told to stop.
    (S.TERMINATING, E.POSTMASTER_READY): (S.TERMINATING, ()),
    (S.TERMINATING, E.GATE_SHUT): (S.TERMINATING, (F.STOP_SETTLED,)),
    (S.TERMINATING, E.GATE_SILENT): (S.TERMINATING, (F.STOP_FAST,)),
    (S.TERMINATING, E.POSTMASTER_EXITED_CLEANLY): (S.TERMINATING, (F.EXIT_CLEAN,)),
    (S.TERMINATING, E.POSTMASTER_CRASHED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.TERMINATING, E.RESTARTS_EXHAUSTED): (S.FAILED, (F.EXIT_FAILED,)),
    (S.TERMINATING, E.STOP_TIMED_OUT): (S.TERMINATING, (F.STOP_IMMEDIATE,)),
}

# The state may have moved on by the time an event is handled: a verdict, an order or a client in the queue that comes
# too late changes nothing. Where it matters, an effect looks at the queue again.
MAY_COME_LATE = frozenset(Event) - {
    E.POSTMASTER_READY,
    E.POSTMASTER_EXITED_CLEANLY,
    E.POSTMASTER_CRASHED,
    E.RESTARTS_EXHAUSTED,
}


def advance(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """The next state, and what to do to get there.

    Raises LookupError for what must never happen: Postgres exiting or becoming ready where none runs.
    """
    if (found := TABLE.get((state, event))) is not None:
        return found
    if event in MAY_COME_LATE:
        return state, ()
    raise LookupError(f"{event.name} cannot happen while {state.noun}")

"""The table, walked over every path that events can make: what must never happen does not."""

from __future__ import annotations

from copy import copy

import pytest

from pgidle.lifecycle.transitions import MAY_COME_LATE, TABLE, Effect, Event, State, advance

RUNNING = {State.AWAKE, State.DROWSY, State.STOPPING}
"""A postmaster runs for certain. In STARTING and TERMINATING one may."""

GONE = (Event.POSTMASTER_EXITED_CLEANLY, Event.POSTMASTER_CRASHED, Event.RESTARTS_EXHAUSTED)
MOST_PARKED = 2
GATES = {Effect.OPEN_GATE: "open", Effect.BEGIN_LEAVING: "plugged", Effect.CALL_OFF_LEAVING: "shut"}
POSTMASTERS = frozenset(Event) - MAY_COME_LATE


class World:
    """What the table's effects do to one Postgres and one gate, as simply as can be."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.postmasters = 1
        self.is_ready = False
        self.clean = False
        self.gate = "shut"
        self.is_answer_due = False
        self.parked = 0
        self.exit: int | None = None
        self.asked_to_stop = False

    def can(self, event: Event) -> bool:
        """Whether the world lets this event happen now."""
        if event in POSTMASTERS and self.postmasters == 0:
            return False
        match event:
            case Event.POSTMASTER_READY:
                return not self.is_ready and self.state in (State.STARTING, State.TERMINATING)
            case Event.POSTMASTER_FAILING:
                return self.is_ready and self.postmasters == 1
            case Event.GATE_SHUT | Event.GATE_SILENT:
                return self.is_answer_due
            case Event.CLIENT_PARKED:
                return self.gate == "shut" or self.state is State.LEAVING
            case Event.NOBODY_PARKED:
                return self.parked == 0 and self.gate == "plugged"
            case Event.EXIT_CHOSEN:
                return self.parked == 0
            case Event.IDLE_CONFIRMED:
                return self.parked == 0 and not self.is_answer_due
        return True

    def key(self) -> tuple[object, ...]:
        return (self.state, *vars(self).values())

    def happen(self, event: Event) -> None:
        if event in GONE:
            self.postmasters -= 1
            self.is_ready = self.is_answer_due = False
            self.clean = event is Event.POSTMASTER_EXITED_CLEANLY
        if event in (*GONE, Event.POSTMASTER_FAILING) and self.gate == "open":
            self.gate = "shut"
        if event in (Event.GATE_SHUT, Event.GATE_SILENT):
            self.is_answer_due = False
        if event is Event.GATE_SHUT and self.gate == "open":
            self.gate = "shut"
        self.is_ready |= event is Event.POSTMASTER_READY
        if event is Event.CLIENT_PARKED:
            self.parked += 1
        self.asked_to_stop |= event is Event.STOP_REQUESTED
        self.state, effects = advance(self.state, event)
        for effect in effects:
            self.carry_out(effect)

    def carry_out(self, effect: Effect) -> None:
        self.gate = GATES.get(effect, self.gate)
        match effect:
            case Effect.START_POSTMASTER:
                assert self.postmasters == 0, "two postmasters"
                assert self.gate == "shut", "who comes from now on cannot wait"
                self.postmasters = 1
            case Effect.OPEN_GATE:
                assert self.is_ready, "opened before it was ready"
                self.parked, self.is_answer_due = 0, False
            case Effect.SHUT_GATE:
                self.is_answer_due = True
            case Effect.CONFIRM_IDLE:
                assert self.gate == "shut", "judged while somebody could still be accepted"
            case Effect.STOP_FAST:
                assert self.asked_to_stop or self.gate == "shut", "stopped while it accepted"
                assert self.asked_to_stop or self.parked == 0, "stopped while somebody was parked"
            case Effect.STOP_DRAINED:
                self.is_answer_due = self.is_ready
                self.gate = "open" if self.is_ready else "plugged"
            case Effect.STOP_SETTLED:
                assert self.gate == "shut", "told to stop while it accepted"
            case Effect.EXIT_CLEAN:
                assert self.exit is None
                assert self.postmasters == 0, "left a postmaster behind"
                assert self.asked_to_stop or (self.gate == "plugged" and self.parked == 0), (
                    "left somebody behind"
                )
                self.exit = 0
            case Effect.EXIT_FAILED:
                self.exit = 1


def test_no_path_breaks_a_promise() -> None:
    """All of them: there are few worlds."""
    begin = World()
    seen, todo = {begin.key()}, [begin]
    while todo:
        before = todo.pop()
        for event in Event:
            if not before.can(event):
                continue
            world = copy(before)
            world.happen(event)
            check(world, event)
            if world.exit is None and world.parked <= MOST_PARKED and world.key() not in seen:
                seen.add(world.key())
                todo.append(world)
    assert {key[0] for key in seen} == set(State) - {State.FAILED}


def check(world: World, event: Event) -> None:
    if world.exit == 0:
        assert world.clean, "exit 0 after a shutdown that was not clean"
    if world.exit is not None:
        return
    assert world.postmasters == 1 or world.state not in RUNNING
    if world.state is State.AWAKE:
        assert world.gate == "open"
    elif world.state not in (State.DROWSY, State.TERMINATING):
        assert world.gate != "open"
    if event is Event.CLIENT_PARKED:
        assert world.state not in (State.DROWSY, State.ASLEEP, State.LEAVING), (
            "somebody came, and waits for ever"
        )


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_every_pair_is_decided(state: State, event: Event) -> None:
    if (state, event) in TABLE or event in MAY_COME_LATE:
        after, effects = advance(state, event)
        assert isinstance(after, State)
        assert all(isinstance(effect, Effect) for effect in effects)
    else:
        with pytest.raises(LookupError, match=state.noun):
            advance(state, event)


@pytest.mark.parametrize("state", [State.STARTING, State.AWAKE, State.DROWSY, State.STOPPING])
@pytest.mark.parametrize("event", GONE)
def test_the_end_of_postgres_is_an_answer_wherever_one_may_run(state: State, event: Event) -> None:
    assert (state, event) in TABLE


def test_a_stop_is_obeyed_in_every_state_that_is_left_to_leave() -> None:
    for state in set(State) - {State.TERMINATING, State.FAILED}:
        assert advance(state, Event.STOP_REQUESTED)[0] is State.TERMINATING


def test_numbers_are_stable() -> None:
    assert {state.noun: state.value for state in State} == {
        "starting": 1,
        "awake": 2,
        "drowsy": 3,
        "stopping": 4,
        "asleep": 5,
        "failed": 6,
        "leaving": 7,
        "terminating": 8,
    }

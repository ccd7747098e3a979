"""The table, walked over every path that events can make: what must never happen does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgidle.lifecycle import MAY_COME_LATE, TABLE, Effect, Event, State, advance

RUNNING = {State.AWAKE, State.DROWSY, State.STOPPING}
"""A postmaster runs for certain. In STARTING and TERMINATING one may."""

GONE = (Event.POSTMASTER_EXITED_CLEANLY, Event.POSTMASTER_CRASHED, Event.RESTARTS_EXHAUSTED)
POSTMASTERS = frozenset(Event) - MAY_COME_LATE


class World:
    """What the table's effects do to one Postgres and one gate, as simply as can be."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.postmasters = 1
        self.clean = False
        self.gate = "parks"
        self.parked = 0
        self.exit: int | None = None
        self.asked_to_stop = False

    def can(self, event: Event) -> bool:
        """Whether the world lets this event happen now."""
        if event in POSTMASTERS and self.postmasters == 0:
            return False
        if event is Event.POSTMASTER_READY:
            return self.state in (State.STARTING, State.TERMINATING)
        if event is Event.CLIENT_PARKED:
            return self.gate in ("parks", "steered") and not (
                self.gate == "steered" and self.state is not State.AWAKE
            )
        if event is Event.NOBODY_PARKED:
            return self.parked == 0 and self.gate == "plugged"
        if event is Event.EXIT_CHOSEN:
            return self.parked == 0
        return not (event is Event.IDLE_CONFIRMED and self.parked)

    def happen(self, event: Event) -> None:
        if event in GONE:
            self.postmasters -= 1
            self.clean = event is Event.POSTMASTER_EXITED_CLEANLY
        if event is Event.CLIENT_PARKED:
            self.parked += 1
        self.asked_to_stop |= event is Event.STOP_REQUESTED
        self.state, effects = advance(self.state, event)
        for effect in effects:
            self.carry_out(effect)

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case Effect.START_POSTMASTER:
                assert self.postmasters == 0, "two postmasters"
                self.postmasters = 1
            case Effect.OPEN_GATE:
                assert self.postmasters == 1
                self.gate, self.parked = "steered", 0
            case Effect.CLOSE_GATE | Effect.UNPLUG_GATE:
                self.gate = "parks"
            case Effect.PLUG_GATE:
                self.gate = "plugged"
            case Effect.STOP_FAST:
                assert self.gate == "parks"
                assert self.parked == 0, "stopped while somebody was parked"
            case Effect.STOP_DRAINED:
                assert self.gate == "plugged"
            case Effect.EXIT_CLEAN:
                assert self.exit is None
                assert self.postmasters == 0, "left a postmaster behind"
                assert self.asked_to_stop or (self.gate == "plugged" and self.parked == 0), (
                    "left somebody behind"
                )
                self.exit = 0
            case Effect.EXIT_FAILED:
                self.exit = 1


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_no_path_breaks_a_promise(events: list[Event]) -> None:
    world = World()
    for event in events:
        if world.exit is None and world.can(event):
            world.happen(event)
            if world.exit is None:
                assert (world.postmasters == 1) or world.state not in RUNNING
                assert (world.gate == "steered") == (world.state is State.AWAKE)
    if world.exit == 0:
        assert world.clean, "exit 0 after a shutdown that was not clean"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
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

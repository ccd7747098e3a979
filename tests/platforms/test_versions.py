"""The whole, short enough for every major version: sleeps and wakes with clients at random instants."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.clients import Habits, Ledger, run_clients

if TYPE_CHECKING:
    from harness.installations import Installation
    from harness.supervised import Launch

HABITS = Habits(short=0.2, long=0.9, dozes=0.5, statements=2, cut_after=0.25)


def test_clients_at_random_instants_of_some_sleeps(installation: Installation, launch: Launch) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="250ms")
    one.wait_for_state("awake")
    ledger = Ledger()
    ledger.create(one.conninfo())
    # With longer pauses each time until it has slept: on a busy machine a sleep takes its time.
    for round_ in range(5):
        habits = replace(HABITS, long=HABITS.long * 2**round_)
        seed = installation.major + round_
        load = asyncio.run(
            run_clients(one.conninfo(), ledger, workers=3, sessions=8, seed=seed, habits=habits)
        )
        assert load.failures == []
        assert load.commits > 0
        if one.states.count("asleep") >= 1 and one.states.count("awake") >= 2:
            break
    assert ledger.missing(one.conninfo()) == []
    assert one.states.count("asleep") >= 1
    assert one.states.count("awake") >= 2
    assert one.stop() == 0

"""What is idle and what is not: the examples that people will ask about, and when to look again."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import pytest

from harness.looks import BUSY, SETTINGS, client, idle_after, ignoring, quiet, signals
from pgidle.base.record import replace as changed
from pgidle.idle.policy import AskedToSleep, Lease, begin, evaluate, is_near
from pgidle.idle.reasons import ReasonKind, Signal
from pgidle.idle.snapshot import Connecting, Counters, LookFailed, Peer
from pgidle.settings.options import Ignore, IgnoreField

if TYPE_CHECKING:
    from pgidle.settings.resolve import Settings


def test_a_quiet_server_sleeps_when_its_time_has_come_and_says_since_when() -> None:
    memory = begin(100.0)
    assert not idle_after(memory, quiet(399.9)).idle
    verdict = idle_after(memory, quiet(400.0))
    assert verdict.idle
    assert [str(reason) for reason in verdict.reasons] == [
        "idle 5min (idle-timeout 5min); last use: none since waking"
    ]


def test_it_is_never_idle_sooner_than_min_awake() -> None:
    by = changed(SETTINGS, idle_timeout=1.0, min_awake=60.0)
    memory = begin(0.0)
    verdict = idle_after(memory, quiet(59.0), by)
    assert not verdict.idle
    assert verdict.sleeps_at == 60.0
    assert "awake 59s of 1min (min-awake); ends in 1s" in map(str, verdict.reasons)
    assert idle_after(memory, quiet(60.0), by).idle


def test_switched_off_it_never_sleeps_and_says_so() -> None:
    verdict = idle_after(begin(0.0), quiet(1e9), changed(SETTINGS, idle_timeout=None))
    assert not verdict.idle
    assert verdict.sleeps_at is None
    assert "idle-timeout is off" in verdict.reasons[0].text


@pytest.mark.parametrize("state", [*BUSY, "starting", None])
def test_a_client_in_any_state_but_idle_is_active(state: str | None) -> None:
    verdict = idle_after(begin(0.0), quiet(1e6, client(state=state)))
    assert not verdict.idle
    assert signals(verdict, ReasonKind.ACTIVITY) == {Signal.SESSION_STATE}


def test_a_session_whose_kind_is_hidden_is_taken_for_a_client() -> None:
    assert not idle_after(begin(0.0), quiet(1e6, client(backend_type=None, state=None))).idle


def test_an_idle_session_counts_when_it_was_last_used() -> None:
    verdict, memory = evaluate(quiet(1000.0, client(state_age=100.0)), SETTINGS, begin(0.0), 1000.0)
    assert not verdict.idle
    assert memory.last_activity == 900.0
    assert verdict.sleeps_at == 1200.0
    assert idle_after(memory, quiet(1200.0, client(state_age=300.0))).idle


def test_a_step_of_the_servers_clock_neither_hides_nor_invents_a_use() -> None:
    _, memory = evaluate(quiet(1000.0, client(state_age=500.0)), SETTINGS, begin(0.0), 1000.0)
    assert memory.last_activity == 500.0
    ahead = client(state_change=2, state_age=5000.0)
    _, memory = evaluate(quiet(1100.0, ahead), SETTINGS, memory, 1100.0)
    assert memory.last_activity == 1000.0, "used since the look at 1000, whatever its age says"
    back = client(state_change=2, state_age=-5000.0)
    assert evaluate(quiet(1200.0, back), SETTINGS, memory, 1200.0)[1].last_activity == 1000.0


def test_sessions_that_come_and_go_are_uses_but_not_in_the_first_look() -> None:
    old = client(1)
    verdict, memory = evaluate(quiet(1000.0, old), SETTINGS, begin(0.0), 1000.0)
    assert verdict.idle
    verdict, memory = evaluate(quiet(1001.0, old, client(2)), SETTINGS, memory, 1001.0)
    assert signals(verdict, ReasonKind.ACTIVITY) == {Signal.NEW_SESSION}
    assert memory.last_activity == 1001.0
    verdict, memory = evaluate(quiet(1002.0, old), SETTINGS, memory, 1002.0)
    assert signals(verdict, ReasonKind.ACTIVITY) == {Signal.VANISHED_SESSION}
    reused = replace(old, backend_start=5)
    verdict, memory = evaluate(quiet(1003.0, reused), SETTINGS, memory, 1003.0)
    assert signals(verdict, ReasonKind.ACTIVITY) == {Signal.NEW_SESSION, Signal.VANISHED_SESSION}


@pytest.mark.parametrize(
    "moved",
    [
        Counters(11, 5),
        Counters(9, 5),
        Counters(10, 6),
        Counters(10, 4),
        # As many as before, but others: reset and counted anew, or a database gone and others used.
        Counters(10, 5, reset=7),
        Counters(10, 5, databases=1),
        Counters(10, 5, datids=16384),
    ],
    ids=str,
)
def test_counters_that_move_either_way_are_a_use(moved: Counters) -> None:
    _, memory = evaluate(quiet(1000.0, counters=Counters(10, 5)), SETTINGS, begin(0.0), 1000.0)
    assert idle_after(memory, quiet(1001.0, counters=Counters(10, 5))).idle
    verdict = idle_after(memory, quiet(1001.0, counters=moved))
    assert not verdict.idle
    assert signals(verdict, ReasonKind.ACTIVITY) == {Signal.COUNTERS}


def test_what_was_counted_before_a_failed_look_is_forgotten() -> None:
    _, memory = evaluate(quiet(1000.0, counters=Counters(10, 5)), SETTINGS, begin(0.0), 1000.0)
    _, memory = evaluate(LookFailed("x"), SETTINGS, memory, 1001.0)
    assert idle_after(memory, quiet(2000.0, counters=Counters(11, 5))).idle


@pytest.mark.parametrize(
    "by",
    [
        ignoring(IgnoreField.APPLICATION_NAME, "exporter"),
        ignoring(IgnoreField.USER, "app"),
        ignoring(IgnoreField.ADDRESS, "10.0.0.0/8"),
        ignoring(IgnoreField.ADDRESS, "10.0.0.3"),
    ],
    ids=lambda by: str(by.ignore[0]),
)
def test_an_ignored_session_explains_its_own_step_of_the_counter(by: Settings) -> None:
    """Also a look late. But one that is not accounted for counts."""
    exporter = client(1, application_name="exporter", client_addr="10.0.0.3", state="active")
    _, memory = evaluate(quiet(1000.0, counters=Counters(10, 5)), by, begin(0.0), 1000.0)
    verdict, seen = evaluate(quiet(1001.0, exporter, counters=Counters(11, 6)), by, memory, 1001.0)
    assert verdict.idle
    assert not idle_after(seen, quiet(1002.0, exporter, counters=Counters(12, 6)), by).idle
    assert not idle_after(memory, quiet(1001.0, exporter, counters=Counters(12, 6)), by).idle

    verdict, seen = evaluate(quiet(1001.0, exporter, counters=Counters(10, 5)), by, memory, 1001.0)
    assert idle_after(seen, quiet(1002.0, counters=Counters(11, 6)), by).idle
    late = evaluate(quiet(1020.0, exporter, counters=Counters(10, 5)), by, seen, 1020.0)[1]
    assert not idle_after(late, quiet(1021.0, exporter, counters=Counters(11, 5)), by).idle


def test_an_exporter_that_reconnects_for_ever_does_not_keep_it_awake() -> None:
    by = ignoring(IgnoreField.APPLICATION_NAME, "exporter")
    memory = begin(0.0)
    for step in range(100):
        exporter = client(step + 1, application_name="exporter")
        look = quiet(step * 5.0, exporter, counters=Counters(step, step))
        verdict, memory = evaluate(look, by, memory, look.at)
    assert verdict.idle


def test_a_promotion_restarts_the_clock() -> None:
    _, memory = evaluate(quiet(1e6, in_recovery=True), SETTINGS, begin(0.0), 1e6)
    verdict, memory = evaluate(quiet(1e6 + 1), SETTINGS, memory, 1e6 + 1)
    assert signals(verdict, ReasonKind.ACTIVITY) == {Signal.PROMOTION}
    assert memory.last_activity == 1e6 + 1
    verdict, _ = evaluate(quiet(1e6 + 2), SETTINGS, memory, 1e6 + 2)
    assert not signals(verdict, ReasonKind.ACTIVITY)


def test_a_lease_holds_until_it_ends() -> None:
    lease = Lease(2000.0, "nightly import")
    verdict = idle_after(begin(0.0), quiet(800.0), leases=(lease,))
    assert not verdict.idle
    assert verdict.sleeps_at == 2000.0
    assert str(verdict.reasons[0]) == "held awake: nightly import; ends in 20min, or with pgidle release"
    assert idle_after(begin(0.0), quiet(2000.0), leases=(lease,)).idle


def test_asked_to_sleep_what_was_used_since_counts() -> None:
    memory = begin(1000.0)
    assert not idle_after(memory, quiet(1002.0), asked=AskedToSleep(unused=3.0)).idle
    assert idle_after(memory, quiet(1004.0), asked=AskedToSleep(unused=3.0)).idle


def test_a_lease_without_a_time_ends_with_its_program() -> None:
    verdict = idle_after(begin(0.0), quiet(800.0), leases=(Lease(inf, "", "3", "pg_dump (pid 7)"),))
    assert not verdict.idle
    assert verdict.sleeps_at is None
    assert str(verdict.reasons[0]) == "held awake; ends when pg_dump (pid 7) ends, or with pgidle release 3"
    both = idle_after(begin(0.0), quiet(800.0), leases=(Lease(860.0, "", "3", "pg_dump (pid 7)"),))
    assert "ends in 1min, when pg_dump (pid 7) ends, or with pgidle release 3" in str(both.reasons[0])


@pytest.mark.parametrize("connecting", [Connecting((Peer("10.0.0.3", 4000),), 1), Connecting((), 1)])
def test_clients_that_are_connecting_are_active(connecting: Connecting) -> None:
    assert not idle_after(begin(0.0), quiet(1e6, connecting=connecting)).idle


def test_looks_come_closer_near_the_deadline_only() -> None:
    memory = begin(0.0)
    at, gaps = 31.0, []
    while not (verdict := idle_after(memory, quiet(at))).idle:
        gaps.append(verdict.next_look)
        at += verdict.next_look
    assert at == pytest.approx(300.0, abs=0.06)
    assert gaps[0] == 5.0
    assert gaps == sorted(gaps, reverse=True)
    assert len(gaps) < 70


def test_looks_are_far_apart_where_whoever_comes_between_is_counted() -> None:
    at, gaps, memory = 0.0, [], begin(0.0)
    while at < 200.0:
        verdict, memory = evaluate(quiet(at, counters=Counters(0, 0)), SETTINGS, memory, at)
        gaps.append(verdict.next_look)
        at += verdict.next_look
    assert gaps[:6] == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0], "who woke it is still there soon after"
    assert set(gaps[6:]) == {30.0}


def test_who_is_ignored_is_looked_for_more_often_as_a_counter_does_not_say_whose_it_was() -> None:
    ignoring = changed(SETTINGS, ignore=(Ignore(IgnoreField.APPLICATION_NAME, "mon"),))
    verdict, _ = evaluate(quiet(100.0, counters=Counters(0, 0)), ignoring, begin(0.0), 100.0)
    assert verdict.next_look == 5.0


def test_a_look_that_failed_is_soon_made_again() -> None:
    verdict, _ = evaluate(LookFailed("x"), changed(SETTINGS, idle_timeout=None), begin(0.0), 1e6)
    assert verdict.next_look == 5.0


def test_the_connection_is_kept_only_when_a_sleep_is_near() -> None:
    verdict = idle_after(begin(0.0), quiet(296.0))
    assert not is_near(verdict, 296.0)
    verdict = idle_after(begin(0.0), quiet(298.0))
    assert is_near(verdict, 298.0)
    busy = idle_after(begin(0.0), quiet(298.0, client(state="active")))
    assert not is_near(busy, 298.0)

"""Sleeps that were soon over: who woke Postgres, and how much longer it stays awake for that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.looks import SETTINGS, client, idle_after, ignoring, quiet
from pgidle.base.record import replace as changed
from pgidle.idle.flapping import LONGEST, application, flapping, ignored_waker
from pgidle.idle.policy import Backoff, Sleep, applications, begin, waker
from pgidle.idle.reasons import ReasonKind, Signal
from pgidle.settings.options import IgnoreField

seconds = st.floats(0, 10_000)


def test_who_may_not_wake_is_no_culprit() -> None:
    follower = client(backend_type="walsender", client_addr="10.77.0.2")
    visitor = replace(client(2, client_addr="10.77.0.3"), backend_start=2.0)
    by = changed(SETTINGS, no_wake=("10.77.0.2/32",))
    assert waker(quiet(0.0, follower, visitor), SETTINGS) == application(follower)
    assert waker(quiet(0.0, follower, visitor), by) == application(visitor)


def test_the_backoff_waits_longer_and_names_the_culprit() -> None:
    backoff = Backoff(600.0, 'app "pool"')
    verdict = idle_after(begin(0.0), quiet(400.0), backoff=backoff)
    assert not verdict.idle
    assert verdict.sleeps_at == 900.0
    flaps = [reason for reason in verdict.reasons if reason.signal is Signal.FLAPPING]
    assert flaps[0].kind is ReasonKind.CLOCK
    assert 'app "pool"' in flaps[0].text
    assert idle_after(begin(0.0), quiet(900.0), backoff=backoff).idle


def nap(at: float, lasted: float, by: str | None, *cut: str) -> Sleep:
    return Sleep(at, at + lasted, frozenset(cut), by)


def test_each_repeat_doubles_the_idle_time_up_to_a_limit() -> None:
    history = [nap(1000.0 * i, 2.0, "pool", "pool") for i in range(8)]
    patience = [300.0 + flapping(history[:n], 300.0).extra for n in range(6)]
    assert patience == [300.0, 600.0, 1200.0, 2400.0, LONGEST, LONGEST]
    assert flapping(history, 300.0).culprit == "pool"
    assert flapping(history, 7200.0).extra == 0.0
    assert flapping(history, None) == Backoff()


@pytest.mark.parametrize(
    ("last", "culprit"),
    [
        (nap(5000.0, 2.0, "pool", "pool", "psql"), "pool"),
        (nap(5000.0, 2.0, "cron"), "cron"),
        (nap(5000.0, 2.0, "somebody", "pool"), ""),
        (nap(5000.0, 60.0, "pool", "pool"), ""),
        (nap(5000.0, -1.0, "pool", "pool"), ""),
    ],
    ids=["cut and back", "the same as before", "somebody else", "it lasted", "the clock went back"],
)
def test_who_flaps(last: Sleep, culprit: str) -> None:
    backoff = flapping([nap(1000.0, 500.0, "cron"), last], 300.0)
    assert backoff == (Backoff(300.0, culprit) if culprit else Backoff())


def test_a_sleep_that_lasted_forgets_what_was_before() -> None:
    flaps = [nap(1000.0 * i, 2.0, "pool", "pool") for i in range(3)]
    assert flapping([*flaps, nap(9000.0, 600.0, "pool", "pool")], 300.0) == Backoff()
    assert flapping([*flaps, nap(9000.0, 600.0, "x"), flaps[0]], 300.0).extra == 300.0


def test_clients_that_nobody_saw_do_not_flap() -> None:
    assert flapping([nap(0.0, 600.0, None), nap(1000.0, 2.0, None)], 300.0) == Backoff()
    assert flapping([nap(1000.0, 2.0, None)], 300.0) == Backoff()


@given(
    st.lists(st.builds(Sleep, seconds, seconds, st.just(frozenset({"a"})), st.sampled_from(["a", "b", None])))
)
def test_the_backoff_is_never_negative_nor_beyond_its_limit(history: list[Sleep]) -> None:
    assert 0 <= flapping(history, 300.0).extra <= LONGEST - 300.0


def test_the_waker_is_the_client_that_came_first_and_counts() -> None:
    by = ignoring(IgnoreField.APPLICATION_NAME, "exporter")
    look = quiet(
        0.0,
        replace(client(1, application_name="late"), backend_start=3.0),
        replace(client(2, application_name="pool", client_addr="10.0.0.3"), backend_start=2.0),
        replace(client(3, application_name="exporter"), backend_start=1.0),
        client(4, backend_type="checkpointer"),
    )
    assert waker(look, by) == 'app "pool", user app, 10.0.0.3'
    assert applications(look, by) == {'app "late", user app', 'app "pool", user app, 10.0.0.3'}
    assert waker(quiet(0.0), by) is None
    assert application(client(usename=None)) == "somebody"


def test_an_ignored_waker_is_the_first_who_could_wake_if_it_never_counts() -> None:
    by = ignoring(IgnoreField.APPLICATION_NAME, "exporter")
    local = replace(client(1, application_name="exporter"), backend_start=1.0, client_addr=None)
    remote = replace(client(2, application_name="exporter"), backend_start=2.0, client_addr="10.0.0.3")
    counts = replace(client(3, application_name="pool"), backend_start=1.5, client_addr="10.0.0.4")
    assert ignored_waker(quiet(0.0, local, remote, counts), by) == 'app "exporter", user app'
    assert ignored_waker(quiet(0.0, remote), by) == 'app "exporter", user app, 10.0.0.3'
    assert ignored_waker(quiet(0.0, remote, counts), by) is None
    assert ignored_waker(quiet(0.0, remote), changed(by, no_wake=("10.0.0.3/32",))) is None
    assert ignored_waker(quiet(0.0), by) is None

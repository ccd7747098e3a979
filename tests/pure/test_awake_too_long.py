"""Who has kept Postgres awake for an idle timeout on end is named, once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from harness.looks import SETTINGS, client, quiet
from pgidle.base.record import replace
from pgidle.idle import awake_too_long, policy
from pgidle.idle.policy import Lease
from pgidle.idle.snapshot import Counters, Session, Snapshot
from pgidle.settings.options import Ignore, IgnoreField

if TYPE_CHECKING:
    from pgidle.settings.resolve import Settings

TIMEOUT = SETTINGS.idle_timeout or 0.0
WEB = {"application_name": "web", "client_addr": "10.0.0.3"}


def used(now: float, at: float, pid: int = 1, **more: Any) -> Session:
    """An idle session that was last used at a time."""
    return client(pid, state_change=at, state_age=now - at, **WEB | more)


class Watch:
    """Looks, judged as the judge does, and the lines that came of it."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.memory = policy.begin(0.0)
        self.keepers = awake_too_long.begin(0.0)
        self.lines: list[str] = []

    def look(self, look: Snapshot, leases: tuple[Lease, ...] = ()) -> None:
        verdict, self.memory = policy.evaluate(look, self.settings, self.memory, look.at, leases)
        self.keepers, line = awake_too_long.note(self.keepers, look, verdict.reasons, self.settings, look.at)
        self.lines += [line] if line else []


def test_a_session_that_is_never_caught_busy_is_named_once() -> None:
    watch = Watch()
    for now in range(60, 1200, 60):
        watch.look(quiet(now, used(now, now - 1.5)))
    assert len(watch.lines) == 1
    assert re.fullmatch(
        r'kept awake for 5min \ds: repeated use by app "web", user app, 10.0.0.3', *watch.lines
    )


def test_a_client_that_comes_anew_each_time_is_the_same() -> None:
    watch = Watch()
    for now in range(60, 1200, 60):
        watch.look(quiet(now, used(now, now - 2.0, pid=now)))
    assert len(watch.lines) == 1
    assert re.fullmatch(
        r'kept awake for 5min \ds: repeated use by app "web", user app, 10.0.0.3', *watch.lines
    )


def test_sessions_that_no_look_sees_are_named_as_such() -> None:
    watch = Watch()
    for now in range(60, 720, 60):
        watch.look(quiet(now, counters=Counters(now, 0.0)))
    assert watch.lines == ["kept awake for 5min: repeated use by sessions too short to be seen"]


def test_a_receiver_that_comes_anew_each_time_is_named() -> None:
    """A walsender counts, too: from the moment it comes to the one it goes."""
    watch = Watch()
    for now in range(60, 1200, 60):
        watch.look(quiet(now, client(now, backend_type="walsender", state=None, state_age=None, **WEB)))
    assert any('repeated use by app "web", user app, 10.0.0.3' in line for line in watch.lines)


def test_rare_looks_are_enough() -> None:
    """One look in each idle timeout, near its end."""
    watch = Watch()
    for number in range(1, 5):
        now = number * TIMEOUT
        watch.look(quiet(now, used(now, now - 1.0)))
    assert len(watch.lines) == 1


def test_a_client_that_happens_to_be_caught_is_named_once_too() -> None:
    watch = Watch()
    for now in range(60, 3000, 60):
        state = "active" if now % 240 else "idle"
        watch.look(quiet(now, used(now, now - 1.5, state=state)))
    assert len(watch.lines) == 1
    assert "repeated use by" in watch.lines[0]


def test_a_pause_of_an_idle_timeout_begins_anew() -> None:
    watch = Watch()
    for now in range(60, 3000, 60):
        last = now - now % 400
        watch.look(quiet(now, used(now, last), client(2, state="active", state_age=0.1, usename="other")))
    assert not any("web" in line for line in watch.lines)


def test_who_stops_and_begins_again_is_named_again() -> None:
    watch = Watch()
    for now in (*range(60, 600, 60), *range(1200, 1800, 60)):
        watch.look(quiet(now, used(now, now - 1.5)))
    assert len(watch.lines) == 2


def test_what_lasts_is_named_once_and_when_it_is_over_the_next_is() -> None:
    watch = Watch()
    for now in range(60, 1200, 60):
        watch.look(quiet(now, client(7, state="idle in transaction", state_age=float(now))))
    assert [line.partition(" for ")[2] for line in watch.lines] == [
        "5min: session 7 (user app) has been idle in transaction for 5min; "
        "ends when it commits, rolls back or disconnects"
    ]
    for now in range(1200, 2400, 60):
        watch.look(quiet(now), leases=(Lease(9999.0, "import", "3"),))
    assert len(watch.lines) == 2
    assert "held awake: import" in watch.lines[1]


def test_a_transaction_that_hangs_is_named_beside_a_client_that_was() -> None:
    watch = Watch()
    for now in range(60, 1200, 60):
        hanging = (
            client(7, state="idle in transaction", state_age=now - 400.0, **WEB)
            if now > 400
            else client(7, **WEB)
        )
        watch.look(quiet(now, used(now, now - 1.5), hanging))
    assert len(watch.lines) == 2
    assert "session 7" in watch.lines[1]


def test_many_who_take_turns_are_named_together() -> None:
    watch = Watch()
    for now in range(60, 900, 60):
        watch.look(quiet(now, used(now, now - 1.0, pid=now, application_name=f"job {now}")))
    assert len(watch.lines) == 1
    assert watch.lines[0].startswith('kept awake for 10min 1s by several in turn: app "job 6')
    assert watch.lines[0].endswith("more")


def test_a_wake_that_is_asked_for_again_and_again_is_named() -> None:
    watch = Watch()
    for now in range(60, 600, 60):
        watch.keepers = awake_too_long.use(watch.keepers, "pgidle wake", now, SETTINGS)
        watch.look(quiet(now))
    assert watch.lines == ["kept awake for 5min: repeated use by pgidle wake"]


def test_nobody_is_named_where_it_never_sleeps_or_is_ignored() -> None:
    ignoring = replace(SETTINGS, ignore=(Ignore(IgnoreField.APPLICATION_NAME, "web"),))
    for settings in (replace(SETTINGS, idle_timeout=None), ignoring):
        watch = Watch(settings)
        for now in range(60, 1200, 60):
            watch.look(quiet(now, used(now, now - 1.5)))
        assert watch.lines == []


@given(st.lists(st.tuples(st.floats(1, 400), st.integers(1, 3), st.floats(0, 400)), max_size=40))
def test_whoever_is_named_was_there_for_an_idle_timeout(steps: list[tuple[float, int, float]]) -> None:
    watch, now = Watch(), 0.0
    for wait, pid, age in steps:
        now += wait
        watch.look(quiet(now, used(now, now - age, pid=pid, application_name=f"app {pid}")))
        assert not watch.lines or now >= TIMEOUT
        assert len(watch.lines) <= now // TIMEOUT * 4

"""Uses that consist in an ignored statement alone do not count; whatever may have been something else does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.looks import SETTINGS, client, ignoring, quiet
from pgidle.idle import awake_too_long, policy
from pgidle.idle.reasons import Signal
from pgidle.idle.snapshot import Received, Session
from pgidle.settings.options import IgnoreField

IGNORING = ignoring(IgnoreField.STATEMENT, "SELECT 1")
SIZE = 14
"""Bytes of SELECT 1 as a simple query."""


class Client:
    """A session that is asked statements, and looks at it, ten seconds apart."""

    def __init__(self, **more: Any) -> None:
        self.now, self.memory = 0.0, policy.begin(0.0)
        self.keepers = awake_too_long.begin(0.0)
        self.lines: list[str] = []
        self.received, self.changed, self.statement = Received(3, 100), 1.0, ""
        self.more = more

    def ask(self, statement: str, *, segments: int = 1, octets: int | None = None) -> None:
        self.now += 5.0
        octets = len(statement) + 6 if octets is None else octets
        self.received = Received(self.received.segments + segments, self.received.octets + octets)
        self.changed, self.statement = self.now, statement

    def look(self, **more: Any) -> bool:
        """Whether this look shows a use."""
        self.now += 5.0
        session: Session = client(1, **(self.seen() | self.more | more))
        before = self.memory.last_activity
        look = quiet(self.now, session)
        verdict, self.memory = policy.evaluate(look, IGNORING, self.memory, self.now)
        over = self.memory.baseline.passed_over if self.memory.baseline else ()
        self.keepers, line = awake_too_long.note(
            self.keepers, look, verdict.reasons, IGNORING, self.now, passed_over=over
        )
        self.lines += [line] if line else []
        return self.memory.last_activity > before

    def seen(self) -> dict[str, Any]:
        """What a look sees of it."""
        return {
            "client_addr": "10.0.0.3",
            "state_change": round(self.changed * 1e6),
            "state_age": self.now - self.changed,
            "statement": self.statement,
            "is_whole": True,
            "received": (self.received, self.received),
        }

    def known(self) -> Client:
        """The same, after its first look, and after the look that shows how it asks the statement."""
        self.look()
        self.ask("SELECT 1")
        assert self.look()
        return self


def test_it_does_not_count_from_the_second_time_on() -> None:
    one = Client().known()
    for _ in range(100):
        one.ask("select  1;", octets=SIZE)
        assert not one.look()
    assert one.now - one.memory.last_activity > (SETTINGS.idle_timeout or 0)
    assert one.lines == []


def test_no_sleep_comes_right_after_it_was_asked() -> None:
    """A pool that was told that its connection is alive uses it now."""
    one = Client().known()
    while one.now - one.memory.last_activity <= (SETTINGS.idle_timeout or 0):
        one.ask("SELECT 1")
        assert not one.look()
    used = one.memory.last_activity
    one.ask("SELECT 1")
    verdicts = []
    for after in (0.001, 0.6, 0.999, 1.0):
        seen = one.seen() | {"state_age": after}
        look = quiet(one.now + after, client(1, **seen))
        verdict, one.memory = policy.evaluate(look, IGNORING, one.memory, one.now + after)
        verdicts.append(verdict)
    assert [verdict.idle for verdict in verdicts] == [False, False, False, True]
    assert [verdict.sleeps_at for verdict in verdicts] == pytest.approx([one.now + 1.0] * 4)
    (reason,) = [one for one in verdicts[1].reasons if one.signal is Signal.IGNORED_STATEMENT]
    assert reason.text.endswith("was asked an ignored statement 0.6s ago")
    assert reason.ends == "in 0.4s"
    assert one.memory.last_activity == used


def test_it_counts_where_it_is_not_ignored() -> None:
    one = Client().known()
    one.ask("SELECT 2")
    assert one.look()


def test_something_else_before_it_counts() -> None:
    """Its own packet shows, whatever the statement that came last."""
    one = Client().known()
    one.ask("DELETE FROM t")
    one.ask("SELECT 1")
    assert one.look()


def test_something_else_in_the_same_packet_counts() -> None:
    one = Client().known()
    one.ask("SELECT 1", octets=SIZE + 7)
    assert one.look()


def test_two_packets_of_the_same_length_in_all_count() -> None:
    one = Client().known()
    one.ask("SELECT 1", segments=2)
    assert one.look()


@pytest.mark.parametrize("more", [{"unread": True}, {"state": "active"}], ids=str)
def test_the_end_of_what_ran_at_the_look_before_counts(more: dict[str, Any]) -> None:
    one = Client().known()
    assert one.look(**more)
    one.ask("SELECT 1")
    assert one.look()


def test_a_use_that_leaves_the_statement_as_it_was_counts() -> None:
    """As a fastpath call does."""
    one = Client().known()
    one.ask("SELECT 1", octets=SIZE + 11)
    assert one.look()


@pytest.mark.parametrize(
    "more",
    [
        {"is_whole": False},
        {"received": None},
        {"state": "active"},
        {"state": "idle in transaction"},
        {"unread": True},
    ],
    ids=str,
)
def test_doubt_counts(more: dict[str, Any]) -> None:
    one = Client().known()
    one.ask("SELECT 1")
    assert one.look(**more)


def test_what_came_during_the_look_before_counts() -> None:
    """Another statement was received after that look had read the session's state, and SELECT 1 since."""
    one = Client().known()
    earlier = one.received
    one.received = Received(earlier.segments + 1, earlier.octets + 19)
    one.look(received=(earlier, one.received))
    one.ask("SELECT 1")
    assert one.look()


def test_after_a_failed_look_it_counts_once() -> None:
    one = Client().known()
    _, one.memory = policy.evaluate(policy.LookFailed("x"), IGNORING, one.memory, one.now)
    one.look()
    one.ask("SELECT 1")
    assert one.look()
    one.ask("SELECT 1")
    assert not one.look()


def test_what_the_session_holds_still_keeps_it_awake() -> None:
    one = Client(advisory_locks=1).known()
    one.ask("SELECT 1")
    assert not one.look()
    verdict, _ = policy.evaluate(
        quiet(one.now + 9999.0, client(1, advisory_locks=1)), IGNORING, one.memory, one.now + 9999.0
    )
    assert not verdict.idle


def test_its_arrival_and_departure_count() -> None:
    one = Client().known()
    look = quiet(one.now + 5.0)
    _, memory = policy.evaluate(look, IGNORING, one.memory, look.at)
    assert memory.last_activity == look.at
    look = quiet(one.now + 10.0, client(2, statement="SELECT 1", is_whole=True))
    _, memory = policy.evaluate(look, IGNORING, memory, look.at)
    assert memory.last_activity == look.at


@given(st.lists(st.sampled_from(["SELECT 1", "DELETE FROM t", "SELECT 2", ""]), max_size=30))
def test_no_real_statement_is_ever_passed_over(steps: list[str]) -> None:
    """Empty: a look."""
    one, real = Client(), False
    one.look()
    for step in steps:
        if step:
            one.ask(step)
            real = real or step != "SELECT 1"
        else:
            assert one.look() or not real
            real = False

"""Which polls are recognised from looks at sessions that are used in known ways, and which never are."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.looks import SETTINGS, quiet
from pgidle.idle import policy
from pgidle.idle.polls import ARRIVALS, LABELS, STREAMS, Findings, Polls
from pgidle.idle.snapshot import Counters, Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgidle.idle.snapshot import Snapshot

HOUR = 3600.0
WEB = 'app "web", user app, 10.0.0.3'


@dataclass
class Used:
    """A session, and what it is asked when."""

    pid: int
    uses: list[tuple[float, str]]
    begin: float = 0.0
    end: float = math.inf
    application: str = "web"
    _at: int = field(default=0, repr=False)

    def at(self, now: float) -> Session:
        while self._at < len(self.uses) and self.uses[self._at][0] <= now:
            self._at += 1
        moment, statement = self.uses[self._at - 1] if self._at else (self.begin, "")
        return Session(
            self.pid,
            round(self.begin * 1e6),
            backend_type="client backend",
            usename="app",
            application_name=self.application,
            client_addr="10.0.0.3",
            state="idle",
            state_change=round(moment * 1e6) + 10**15,
            state_age=now - moment,
            statement=statement,
        )


def look_at(sessions: Iterable[Used], now: float) -> Snapshot:
    there = [one.at(now) for one in sessions if one.begin <= now < one.end]
    begun = sum(one.begin <= now for one in sessions)
    return quiet(now, *there, counters=Counters(begun, 0))


def watch(
    sessions: list[Used], until: float, seed: int = 0, stop_when_sure: bool = False
) -> tuple[Findings, float]:
    """What is found by then, or as soon as anything is, from looks at the moments that the judge would choose."""
    late = random.Random(seed)
    memory, polls, now = policy.begin(0.0), Polls(0.0), 1.0
    while now < until:
        look = look_at(sessions, now)
        verdict, memory = policy.evaluate(look, SETTINGS, memory, now)
        polls.see(look, verdict.reasons, SETTINGS)
        if stop_when_sure and polls.findings(now).polls:
            break
        now += polls.next_look(now, verdict.next_look) + late.uniform(0.001, 0.05)
    return polls.findings(now), now


def asked(
    every: float, until: float = 3 * HOUR, begin: float = 0.4, jitter: float = 0.0, seed: int = 1
) -> list[float]:
    """Moments at a fixed rate."""
    rand = random.Random(seed)
    count = int((until - begin) / every)
    return sorted(begin + number * every + rand.uniform(-jitter, jitter) for number in range(count))


def drifting(every: float, until: float = 3 * HOUR, jitter: float = 0.0, seed: int = 1) -> list[float]:
    """Moments with a pause of about that length between them."""
    rand, now, moments = random.Random(seed), 0.4, []
    while now < until:
        moments.append(now)
        now += every + rand.uniform(0, jitter)
    return moments


def select_1(moments: Iterable[float]) -> list[tuple[float, str]]:
    return [(moment, "SELECT 1") for moment in moments]


PERIODS = st.one_of(st.sampled_from([5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0]), st.floats(5.0, 280.0))
ANY_PERIODS = st.one_of(PERIODS, st.sampled_from([1.0, 2.0, 3.0]), st.floats(0.3, 5.0))


@settings(max_examples=40, deadline=None)
@given(PERIODS, st.integers(0, 1000), st.floats(0, 1))
def test_a_poll_at_a_fixed_rate_is_found_with_its_period(every: float, seed: int, phase: float) -> None:
    moments = asked(every, begin=0.1 + phase * every, jitter=min(0.02 * every, 0.05), seed=seed)
    found, _ = watch([Used(1, select_1(moments))], max(1200.0, 30 * every), seed)
    (poll,) = found.polls
    assert (poll.client, poll.statement, poll.sessions) == (WEB, "SELECT 1", 1)
    assert poll.every == pytest.approx(every, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(PERIODS, st.integers(0, 1000))
def test_one_that_drifts_is_found_too(every: float, seed: int) -> None:
    moments = drifting(every, jitter=min(0.02 * every, 0.1), seed=seed)
    found, _ = watch([Used(1, select_1(moments))], max(1800.0, 30 * every), seed)
    assert [poll.every for poll in found.polls] == [pytest.approx(every, rel=0.03)]


@settings(max_examples=40, deadline=None)
@given(ANY_PERIODS, st.floats(0, 0.3), st.sampled_from([0.4, 301.4]), st.integers(0, 1000))
@example(every=2.0, jitter=0.12277283775729651, begin=301.4, seed=48)
@example(every=1.0, jitter=0.20337882718529396, begin=301.4, seed=143)
def test_what_is_said_to_be_sure_is_true(every: float, jitter: float, begin: float, seed: int) -> None:
    """However fast it is, and however much it jitters, in which cases nothing may be sure. The examples are uses of
    which many gaps are as long as the looks are apart."""
    session = Used(1, select_1(asked(every, begin=begin, jitter=jitter * every, seed=seed)))
    found, _ = watch([session], HOUR, seed, stop_when_sure=True)
    assert all(poll.every == pytest.approx(every, rel=0.05) for poll in found.polls)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 200.0), st.integers(1, 4))
def test_use_at_random_is_no_poll(seed: int, mean: float, sessions: int) -> None:
    rand = random.Random(seed)
    used = []
    for pid in range(sessions):
        now, moments = 0.0, []
        while now < HOUR:
            now += rand.expovariate(1 / mean)
            moments.append(now)
        used.append(Used(pid, select_1(moments)))
    found, _ = watch(used, HOUR, seed, stop_when_sure=True)
    assert found.polls == ()


@pytest.mark.parametrize("every", [1.0, 2.0, 3.0, 5.0, 10.0, 15.0])
def test_looks_in_step_with_the_poll_do_not_mislead(every: float) -> None:
    """Every look, 30 s apart, sees the same of it as of a poll every 30 s."""
    session = Used(1, select_1(asked(every, begin=301.4, jitter=0.01)))
    found, _ = watch([session], HOUR, stop_when_sure=True)
    assert all(poll.every == pytest.approx(every, rel=0.01) for poll in found.polls)
    assert found.polls or every < 5


def test_a_poll_of_30_seconds_is_sure_within_minutes() -> None:
    _, took = watch([Used(1, select_1(asked(30.0)))], HOUR, stop_when_sure=True)
    assert took < 300


def test_a_pool_that_takes_turns_has_the_rhythm_of_all() -> None:
    moments = asked(20.0)
    sessions = [Used(pid, select_1(moments[pid::5])) for pid in range(5)]
    found, _ = watch(sessions, HOUR)
    assert [(poll.every, poll.sessions) for poll in found.polls] == [(pytest.approx(20.0, rel=0.02), 1)]


def test_sessions_each_with_a_rhythm_of_its_own_are_counted() -> None:
    sessions = [Used(pid, select_1(asked(30.0, begin=1.0 + 10.0 * pid))) for pid in range(2)]
    found, _ = watch(sessions, HOUR)
    assert [(poll.every, poll.sessions) for poll in found.polls] == [(pytest.approx(30.0, rel=0.02), 2)]
    assert found.polls[0].full_text == f"{WEB} asks SELECT 1 every 30s in each of 2 sessions"


def test_sessions_asked_at_the_same_moment_are_counted() -> None:
    sessions = [Used(pid, select_1(asked(30.0, begin=1.0 + 0.01 * pid))) for pid in range(3)]
    found, _ = watch(sessions, HOUR)
    assert [(poll.every, poll.sessions) for poll in found.polls] == [(pytest.approx(30.0, rel=0.02), 3)]


def test_a_client_that_connects_anew_and_stays_for_a_while_is_found() -> None:
    sessions = [
        Used(pid, [(moment, "SELECT 1")], begin=moment - 0.01, end=moment + 19.0)
        for pid, moment in enumerate(asked(20.0, HOUR))
    ]
    found, _ = watch(sessions, HOUR)
    assert [(poll.client, poll.every) for poll in found.polls] == [(WEB, pytest.approx(20.0, rel=0.02))]


@pytest.mark.parametrize("every", [2.0, 10.0, 60.0])
def test_sessions_too_short_to_be_seen_are_found_by_their_number(every: float) -> None:
    sessions = [Used(pid, [], moment, moment + 0.001) for pid, moment in enumerate(asked(every))]
    found, _ = watch(sessions, 2 * HOUR)
    (poll,) = found.polls
    assert poll.every == pytest.approx(every, rel=0.06)
    assert poll.full_text == poll.text
    assert poll.text.startswith("somebody connects every ")


def test_sessions_too_short_to_be_seen_that_come_at_random_are_no_poll() -> None:
    for seed in range(20):
        rand, now, sessions = random.Random(seed), 0.0, []
        while now < HOUR:
            now += rand.expovariate(1 / 20.0)
            sessions.append(Used(len(sessions), [], now, now + 0.001))
        assert watch(sessions, HOUR, stop_when_sure=True)[0].polls == ()


def test_other_statements_in_between_do_not_hide_it() -> None:
    others = [(moment, f"UPDATE t SET a = {moment}") for moment in asked(400.0, begin=7.0)]
    found, _ = watch([Used(1, sorted(select_1(asked(30.0)) + others))], HOUR)
    assert [poll.every for poll in found.polls] == [pytest.approx(30.0, rel=0.02)]


def test_a_poll_that_has_ended_is_not_found_any_more() -> None:
    found, _ = watch([Used(1, select_1(asked(30.0, until=HOUR)))], HOUR + 300)
    assert found.polls == ()


def test_what_would_have_been_slept_without_it() -> None:
    """Somebody else comes once an hour, and the idle timeout is five minutes."""
    other = Used(2, [(moment, "INSERT") for moment in asked(HOUR, 9000.0, begin=1000.0)], application="shop")
    found, now = watch([Used(1, select_1(asked(30.0))), other], 2 * HOUR)
    assert found.of == pytest.approx(now, abs=60)
    # Until 1000 s, 4600 s and 7200 s, but for 300 s after the start and after each use; each look may date one later.
    assert found.slept == pytest.approx(700 + 3300 + 2300, abs=60)
    assert found.consequence == "without it this database would have slept 1h 45min of the last 2h"


def test_where_others_use_it_all_the_time_nothing_is_promised() -> None:
    other = Used(
        2, [(moment, f"SELECT {moment}") for moment in drifting(100.0, jitter=90.0)], application="shop"
    )
    found, _ = watch([Used(1, select_1(asked(30.0))), other], HOUR)
    assert found.polls
    assert found.consequence == ""


def test_two_polls_are_both_found_and_blamed_together() -> None:
    other = Used(2, [(moment, "SELECT now()") for moment in asked(15.0)], application="mon")
    found, now = watch([Used(1, select_1(asked(30.0, begin=4.0))), other], HOUR)
    assert {poll.client for poll in found.polls} == {WEB, WEB.replace("web", "mon")}
    assert 0 < found.slept < found.of < now
    assert found.consequence.startswith("without these polls")


def test_a_failed_look_is_a_use_by_anybody() -> None:
    polls = Polls(0.0)
    memory = policy.begin(0.0)
    session = Used(1, select_1(asked(30.0)))
    for number in range(1, 360):
        look = look_at([session], now := 10.0 * number)
        verdict, memory = policy.evaluate(look, SETTINGS, memory, now)
        polls.see(look, verdict.reasons, SETTINGS)
        if number % 20 == 0:
            polls.doubt(now)
    assert polls.findings(now).polls
    assert polls.findings(now).slept == 0


def test_memory_is_bounded() -> None:
    polls, memory = Polls(0.0), policy.begin(0.0)
    for number in range(1, 100):
        now = 10.0 * number
        sessions = [Used(pid, [(now - pid / 100, f"SELECT a{number} FROM t{pid}")]) for pid in range(1, 300)]
        look = look_at(sessions, now)
        verdict, memory = policy.evaluate(look, SETTINGS, memory, now)
        polls.see(look, verdict.reasons, SETTINGS)
    assert len(polls._streams) <= STREAMS
    assert len(polls._others) <= LABELS
    assert len(polls._arrivals) <= ARRIVALS

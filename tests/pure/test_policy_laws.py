"""What is idle and what is not: laws that hold for any look, any settings and any memory."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from hypothesis import assume, given
from hypothesis import strategies as st

from harness.looks import BUSY, SETTINGS
from pgidle.base.record import replace as changed
from pgidle.idle.policy import AskedToSleep, Lease, Memory, begin, evaluate
from pgidle.idle.reasons import ReasonKind
from pgidle.idle.snapshot import Connecting, Counters, LookFailed, Peer, Session, Slot, Snapshot
from pgidle.settings.options import Counts, Ignore, IgnoreField

if TYPE_CHECKING:
    from pgidle.settings.resolve import Settings

seconds = st.floats(0, 10_000)


KINDS = (
    None,
    "client backend",
    "walsender",
    "autovacuum worker",
    "logical replication worker",
    "checkpointer",
)


keeps = st.sampled_from(list(Counts))


def ignores() -> st.SearchStrategy[tuple[Ignore, ...]]:
    fields = st.sampled_from(
        [
            Ignore(IgnoreField.APPLICATION_NAME, "exporter"),
            Ignore(IgnoreField.USER, "monitor"),
            Ignore(IgnoreField.ADDRESS, "10.0.0.0/8"),
        ]
    )
    return st.lists(fields, max_size=2).map(tuple)


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    return changed(
        SETTINGS,
        idle_timeout=draw(st.none() | st.floats(0, 1000)),
        min_awake=draw(st.floats(0, 1000)),
        idle_sessions=draw(keeps),
        replication=draw(keeps),
        advisory_locks=draw(keeps),
        listeners=draw(keeps),
        autovacuum_limit=draw(st.floats(0, 1000)),
        ignore=draw(ignores()),
    )


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    age = draw(st.none() | st.floats(-10, 10_000))
    return Session(
        pid=draw(st.integers(1, 9)),
        backend_start=draw(st.sampled_from([1, 2])),
        backend_type=draw(st.sampled_from(KINDS)),
        usename=draw(st.sampled_from([None, "app", "monitor"])),
        application_name=draw(st.sampled_from(["", "rails", "exporter"])),
        client_addr=draw(st.sampled_from([None, "10.1.2.3", "fdaa::3"])),
        state=draw(st.sampled_from([None, "idle", *BUSY])),
        state_change=None if age is None else draw(st.sampled_from([1, 2])),
        state_age=age,
        listening=draw(st.booleans()),
        advisory_locks=draw(st.integers(0, 1)),
        base_backup=draw(st.booleans()),
        walsender_state=draw(st.sampled_from([None, "startup", "backup", "streaming"])),
    )


@st.composite
def looks(draw: st.DrawFn, at: float) -> Snapshot:
    counters = st.builds(Counters, st.integers(0, 3), st.sampled_from([0, 1]))
    peers = st.lists(
        st.builds(Peer, st.sampled_from(["10.1.2.3", "fdaa::3"]), st.just(4000)), max_size=1
    ).map(tuple)
    return Snapshot(
        at=at,
        server_version=150000,
        sessions=tuple(draw(st.lists(sessions(), max_size=4, unique_by=lambda one: one.pid))),
        counters=draw(st.none() | counters),
        connecting=Connecting(draw(peers), draw(st.integers(0, 1))),
        prepared_transactions=draw(st.integers(0, 2)),
        in_recovery=draw(st.booleans()),
        slots=draw(st.sampled_from([(), (Slot("s", "physical", 2**24),)])),
    )


@st.composite
def memories(draw: st.DrawFn, by: Settings) -> tuple[Memory, float]:
    """A memory that some looks have left, and the time it is then."""
    now = draw(seconds)
    memory = begin(now)
    for _ in range(draw(st.integers(0, 2))):
        now += draw(st.floats(0, 2000))
        failed = draw(st.integers(0, 4)) == 0
        memory = evaluate(LookFailed("x") if failed else draw(looks(now)), by, memory, now)[1]
    return memory, now + draw(st.floats(0, 2000))


situations = settings().flatmap(lambda by: st.tuples(st.just(by), memories(by)))
leases = st.lists(st.builds(Lease, st.floats(0, 20_000) | st.just(inf)), max_size=2).map(tuple)


@given(st.data(), situations, leases)
def test_a_verdict_has_reasons_and_says_when_to_look_again(
    data: st.DataObject, situation: tuple[Settings, tuple[Memory, float]], held: tuple[Lease, ...]
) -> None:
    by, (memory, now) = situation
    look = data.draw(looks(now))
    verdict, after = evaluate(look, by, memory, now, held)
    assert verdict.reasons
    assert all(reason.text and "\n" not in str(reason) for reason in verdict.reasons)
    assert 0.05 <= verdict.next_look <= (5 if look.counters is None else 30)
    assert memory.last_activity <= after.last_activity <= now
    assert verdict.sleeps_at is None or verdict.idle or verdict.sleeps_at >= now


@given(st.data(), situations, leases)
def test_an_idle_verdict_names_no_activity_blocker_or_doubt(
    data: st.DataObject, situation: tuple[Settings, tuple[Memory, float]], held: tuple[Lease, ...]
) -> None:
    by, (memory, now) = situation
    verdict, after = evaluate(data.draw(looks(now)), by, memory, now, held)
    if not verdict.idle:
        return
    assert by.idle_timeout is not None
    assert now - after.last_activity >= by.idle_timeout - 1e-6
    assert now - memory.awake_since >= by.min_awake - 1e-6
    assert all(lease.until <= now for lease in held)
    assert not {ReasonKind.BLOCKER, ReasonKind.UNKNOWN} & {reason.kind for reason in verdict.reasons}
    assert not any(reason.ends for reason in verdict.reasons if reason.kind is ReasonKind.ACTIVITY)


@given(st.data(), situations, st.sampled_from(["session", "peer", "child", "lease", "counter"]))
def test_adding_activity_never_makes_it_idler(
    data: st.DataObject, situation: tuple[Settings, tuple[Memory, float]], what: str
) -> None:
    by, (memory, now) = situation
    look = data.draw(looks(now))
    before, remembered = evaluate(look, by, memory, now)
    more: dict[str, Any] = {}
    if what == "session":
        extra = replace(data.draw(sessions()), pid=99)
        assume(not any(_named(extra, ignore) for ignore in by.ignore))
        look = replace(look, sessions=(*look.sessions, extra))
    elif what == "peer":
        peers = (*look.connecting.peers, Peer("192.0.2.1", 5000))
        look = replace(look, connecting=Connecting(peers, look.connecting.children))
    elif what == "child":
        look = replace(look, connecting=Connecting(look.connecting.peers, look.connecting.children + 1))
    elif what == "lease":
        more["leases"] = (Lease(now + 1),)
    elif look.counters:
        assume(memory.baseline is None or memory.baseline.counters != look.counters)
        look = replace(look, counters=replace(look.counters, sessions=look.counters.sessions + 10))
    after, remembered_more = evaluate(look, by, memory, now, **more)
    assert before.idle or not after.idle
    assert remembered_more.last_activity >= remembered.last_activity
    if what in ("peer", "lease"):
        assert not after.idle


def _named(session: Session, ignore: Ignore) -> bool:
    values = {
        IgnoreField.APPLICATION_NAME: session.application_name == "exporter",
        IgnoreField.USER: session.usename == "monitor",
        IgnoreField.ADDRESS: session.client_addr == "10.1.2.3",
    }
    return values[ignore.field]


@given(situations, leases)
def test_unknown_never_sleeps_and_restarts_the_clock(
    situation: tuple[Settings, tuple[Memory, float]], held: tuple[Lease, ...]
) -> None:
    by, (memory, now) = situation
    verdict, after = evaluate(LookFailed("no rights"), by, memory, now, held)
    assert not verdict.idle
    assert verdict.sleeps_at is None
    assert verdict.reasons[0].kind is ReasonKind.UNKNOWN
    assert after.last_activity == now


@given(st.data(), situations)
def test_ignored_sessions_do_not_change_the_verdict(
    data: st.DataObject, situation: tuple[Settings, tuple[Memory, float]]
) -> None:
    by, (memory, now) = situation
    by = changed(by, ignore=(Ignore(IgnoreField.APPLICATION_NAME, "ignored"),))
    look = data.draw(looks(now))
    extra = replace(data.draw(sessions()), pid=99, application_name="ignored")
    look = replace(look, counters=None)
    with_it = replace(look, sessions=(*look.sessions, extra))
    assert evaluate(with_it, by, memory, now)[0] == evaluate(look, by, memory, now)[0]


@given(st.data())
def test_asked_to_sleep_no_clock_counts_and_everything_else_does(data: st.DataObject) -> None:
    by = data.draw(settings())
    memory, now = data.draw(memories(by))
    look = data.draw(looks(now))
    asked, _ = evaluate(look, by, memory, now, asked=AskedToSleep())
    without, _ = evaluate(look, changed(by, idle_timeout=0.0, min_awake=0.0), memory, now)
    assert asked.idle is without.idle
    others = [one for one in asked.reasons if one.kind is not ReasonKind.CLOCK]
    assert others == [one for one in without.reasons if one.kind is not ReasonKind.CLOCK]

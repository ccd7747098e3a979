"""What is idle and what is not: laws that hold for any look, and the examples that people will ask about."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pgidle.base.record import replace as changed
from pgidle.idle.flapping import LONGEST, application, flapping, ignored_waker
from pgidle.idle.policy import (
    AskedToSleep,
    Backoff,
    Lease,
    Memory,
    Sleep,
    applications,
    begin,
    evaluate,
    is_near,
    waker,
)
from pgidle.idle.reasons import ReasonKind, Signal, Verdict, duration_text, who
from pgidle.idle.snapshot import Connecting, Counters, LookFailed, Peer, Room, Session, Slot, Snapshot
from pgidle.idle.start_result import Startable, StartResult
from pgidle.settings.options import Counts, Ignore, IgnoreField
from pgidle.settings.settings import Settings, resolve

SETTINGS = resolve(
    {"data-dir": "/nowhere", "idle-timeout": "5min", "min-awake": "30s"}, {}, None, None, "/"
).settings
BUSY = (
    "active",
    "idle in transaction",
    "idle in transaction (aborted)",
    "fastpath function call",
    "disabled",
)

KINDS = (
    None,
    "client backend",
    "walsender",
    "autovacuum worker",
    "logical replication worker",
    "checkpointer",
)
seconds = st.floats(0, 10_000)
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


def quiet(at: float, *sessions: Session, **more: Any) -> Snapshot:
    return Snapshot(at=at, server_version=150000, sessions=sessions, **more)


def client(pid: int = 4711, **more: Any) -> Session:
    usual: dict[str, Any] = {"backend_type": "client backend", "usename": "app", "state": "idle"}
    return Session(pid, 1, **(usual | {"state_change": 1, "state_age": 1000.0} | more))


def idle_after(memory: Memory, look: Snapshot, by: Settings = SETTINGS, **more: Any) -> Verdict:
    return evaluate(look, by, memory, look.at, **more)[0]


def signals(verdict: Verdict, kind: ReasonKind) -> set[Signal]:
    return {reason.signal for reason in verdict.reasons if reason.kind is kind}


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


def test_a_quiet_server_sleeps_when_its_time_has_come_and_says_since_when() -> None:
    memory = begin(100.0)
    assert not idle_after(memory, quiet(399.9)).idle
    verdict = idle_after(memory, quiet(400.0))
    assert verdict.idle
    assert [str(reason) for reason in verdict.reasons] == [
        "last use 5min ago: Postgres woke; that is the idle timeout of 5min"
    ]


def test_it_is_never_idle_sooner_than_min_awake() -> None:
    by = changed(SETTINGS, idle_timeout=1.0, min_awake=60.0)
    memory = begin(0.0)
    verdict = idle_after(memory, quiet(59.0), by)
    assert not verdict.idle
    assert verdict.sleeps_at == 60.0
    assert "awake for only 59s of 1min; ends in 1s" in map(str, verdict.reasons)
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


def test_a_reason_says_who_since_when_and_what_would_end_it() -> None:
    busy = client(
        application_name="rails", client_addr="10.0.0.3", state="idle in transaction", state_age=720.0
    )
    assert str(idle_after(begin(0.0), quiet(1e6, busy)).reasons[0]) == (
        'session 4711 (app "rails", user app, 10.0.0.3) is idle in transaction for 12min; '
        "ends when it commits, rolls back or disconnects"
    )


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


def ignoring(field: IgnoreField, value: str) -> Settings:
    return changed(SETTINGS, ignore=(Ignore(field, value),))


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


BLOCKERS = {
    "walsender": (
        client(backend_type="walsender", state="active", walsender_state="streaming"), Signal.REPLICATION, "replication"
    ),
    "subscription": (
        client(backend_type="logical replication apply worker"), Signal.SUBSCRIPTION, "replication"
    ),
    "standby": (client(backend_type="walreceiver"), Signal.REPLICATION, "replication"),
    "advisory lock": (client(advisory_locks=1), Signal.ADVISORY_LOCK, "advisory_locks"),
    "listener": (client(listening=True), Signal.LISTENER, "listeners"),
    "idle session": (client(), Signal.IDLE_SESSION, "idle_sessions"),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKERS)
def test_a_blocker_only_delays_and_only_if_it_is_kept(name: str) -> None:
    session, wanted, setting = BLOCKERS[name]
    keep, ignore = (changed(SETTINGS, **{setting: counts}) for counts in (Counts.KEEP, Counts.IGNORE))
    verdict, memory = evaluate(quiet(1000.0, session), keep, begin(0.0), 1000.0)
    assert not verdict.idle
    assert verdict.sleeps_at is None
    assert signals(verdict, ReasonKind.BLOCKER) == {wanted}
    assert memory.last_activity == 0.0
    verdict, memory = evaluate(quiet(1720.0, session), keep, memory, 1720.0)
    assert "seen for 12min" in verdict.reasons[0].text
    assert idle_after(begin(0.0), quiet(1000.0, session), ignore).idle


@pytest.mark.parametrize(
    ("session", "wanted"),
    [
        (client(backend_type="walsender", base_backup=True, walsender_state="backup"), Signal.BASE_BACKUP),
        (client(backend_type="walsender", walsender_state="startup"), Signal.REPLICATION),
        (client(backend_type="walsender"), Signal.REPLICATION),
        (client(base_backup=True), Signal.BASE_BACKUP),
    ],
)
def test_a_backup_or_a_copy_that_has_begun_blocks_whatever_is_set(session: Session, wanted: Signal) -> None:
    verdict = idle_after(begin(0.0), quiet(1e6, session), changed(SETTINGS, replication=Counts.IGNORE))
    assert not verdict.idle
    assert signals(verdict, ReasonKind.BLOCKER) == {wanted}


def test_a_standby_is_kept_awake_and_named_once() -> None:
    alone = quiet(1e6, in_recovery=True)
    assert signals(idle_after(begin(0.0), alone), ReasonKind.BLOCKER) == {Signal.REPLICATION}
    streaming = idle_after(begin(0.0), quiet(1e6, client(backend_type="walreceiver"), in_recovery=True))
    assert ["walreceiver" in str(r) for r in streaming.reasons if r.kind is ReasonKind.BLOCKER] == [True]
    assert idle_after(begin(0.0), alone, changed(SETTINGS, replication=Counts.IGNORE)).idle


def test_a_promotion_restarts_the_clock() -> None:
    _, memory = evaluate(quiet(1e6, in_recovery=True), SETTINGS, begin(0.0), 1e6)
    verdict, memory = evaluate(quiet(1e6 + 1), SETTINGS, memory, 1e6 + 1)
    assert signals(verdict, ReasonKind.ACTIVITY) == {Signal.PROMOTION}
    assert memory.last_activity == 1e6 + 1
    verdict, _ = evaluate(quiet(1e6 + 2), SETTINGS, memory, 1e6 + 2)
    assert not signals(verdict, ReasonKind.ACTIVITY)


def test_slots_are_only_reported() -> None:
    verdict = idle_after(
        begin(0.0), quiet(1e6, slots=(Slot("s", "physical", 3 * 2**20), Slot("t", "logical", 0)))
    )
    assert verdict.idle
    notes = [reason.text for reason in verdict.reasons if reason.kind is ReasonKind.NOTE]
    assert notes == [
        'physical replication slot "s" is not in use; WAL that it holds back: 3.0 MB',
        'logical replication slot "t" is not in use; WAL that it holds back: none',
    ]


def test_a_full_disk_is_no_place_to_sleep_on() -> None:
    for room, what in (
        (Room(free_bytes=2**20), "1 MB are left in its data directory"),
        (Room(free_bytes=2**40, free_files=3), "3 inodes are left"),
        (Room(free_bytes=2**40, free_files=9**9, is_read_only=True), "a read-only file system"),
    ):
        verdict = idle_after(begin(0.0), quiet(1e6, room=room))
        assert not verdict.idle
        assert any(what in reason.text for reason in verdict.reasons)
    assert idle_after(begin(0.0), quiet(1e6, room=Room(2**30, 1000))).idle
    # It does not tell.
    assert idle_after(begin(0.0), quiet(1e6, room=Room())).idle


def test_what_could_not_start_again_stays_awake() -> None:
    for startable, idle, said in (
        (Startable.YES, True, []),
        (Startable.NO, False, ["Postgres could not start again (line 3), seen for 0s"]),
        (Startable.UNKNOWN, True, ["whether Postgres could start again is not known: line 3"]),
    ):
        memory, start = begin(0.0), StartResult(startable, "line 3")
        verdict, _ = evaluate(quiet(1e6), SETTINGS, memory, 1e6, start=start)
        assert verdict.idle is idle
        assert [one.text for one in verdict.reasons if one.signal is Signal.CONFIGURATION] == said


def test_who_may_not_wake_is_no_culprit() -> None:
    follower = client(backend_type="walsender", client_addr="10.77.0.2")
    visitor = replace(client(2, client_addr="10.77.0.3"), backend_start=2.0)
    by = changed(SETTINGS, no_wake=("10.77.0.2/32",))
    assert waker(quiet(0.0, follower, visitor), SETTINGS) == application(follower)
    assert waker(quiet(0.0, follower, visitor), by) == application(visitor)


def test_maintenance_delays_sleep_up_to_its_limit() -> None:
    by = changed(SETTINGS, autovacuum_limit=600.0)
    memory = begin(0.0)
    for at in range(0, 900, 5):
        worker = client(at + 1, backend_type="autovacuum worker", state="active")
        verdict, memory = evaluate(quiet(float(at), worker), by, memory, float(at))
        assert not verdict.idle
        assert verdict.sleeps_at == 900.0
        assert Signal.MAINTENANCE in signals(verdict, ReasonKind.BLOCKER)
    verdict, memory = evaluate(quiet(900.0, worker), by, memory, 900.0)
    assert verdict.idle
    assert Signal.MAINTENANCE in signals(verdict, ReasonKind.NOTE)
    assert evaluate(quiet(905.0, worker), by, memory, 905.0)[0].idle, "still, after the checkpoint"


def test_a_use_gives_maintenance_its_whole_limit_again() -> None:
    by = changed(SETTINGS, autovacuum_limit=600.0)
    worker = client(1, backend_type="autovacuum worker", state="active")
    _, memory = evaluate(quiet(800.0, worker), by, begin(0.0), 800.0)
    assert memory.delayed_since == 800.0
    _, memory = evaluate(quiet(801.0, worker, client(2, state="active")), by, memory, 801.0)
    _, memory = evaluate(quiet(802.0, worker), by, memory, 802.0)
    assert idle_after(memory, quiet(1401.0, worker), by).sleeps_at == 1401.0 + 600.0


def test_an_extensions_worker_at_work_is_maintenance_and_a_launcher_is_nothing() -> None:
    cron = client(backend_type="pg_cron", state="active")
    assert signals(idle_after(begin(0.0), quiet(1e6, cron)), ReasonKind.BLOCKER) == {Signal.MAINTENANCE}
    for backend_type in ("pg_cron launcher", "logical replication launcher", "autovacuum launcher"):
        launcher = client(backend_type=backend_type, state="active")
        assert idle_after(begin(0.0), quiet(1e6, launcher)).idle


def test_a_lease_holds_until_it_ends() -> None:
    lease = Lease(2000.0, "nightly import")
    verdict = idle_after(begin(0.0), quiet(800.0), leases=(lease,))
    assert not verdict.idle
    assert verdict.sleeps_at == 2000.0
    assert str(verdict.reasons[0]) == "held awake: nightly import; ends in 20min, or by pgidle release"
    assert idle_after(begin(0.0), quiet(2000.0), leases=(lease,)).idle


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


def test_asked_to_sleep_what_was_used_since_counts() -> None:
    memory = begin(1000.0)
    assert not idle_after(memory, quiet(1002.0), asked=AskedToSleep(unused=3.0)).idle
    assert idle_after(memory, quiet(1004.0), asked=AskedToSleep(unused=3.0)).idle


def test_a_lease_without_a_time_ends_with_its_program() -> None:
    verdict = idle_after(begin(0.0), quiet(800.0), leases=(Lease(inf, "", "3", "pg_dump (pid 7)"),))
    assert not verdict.idle
    assert verdict.sleeps_at is None
    assert str(verdict.reasons[0]) == "held awake; ends when pg_dump (pid 7) ends, or by pgidle release 3"
    both = idle_after(begin(0.0), quiet(800.0), leases=(Lease(860.0, "", "3", "pg_dump (pid 7)"),))
    assert "ends in 1min, when pg_dump (pid 7) ends, or by pgidle release 3" in str(both.reasons[0])


@pytest.mark.parametrize("connecting", [Connecting((Peer("10.0.0.3", 4000),), 1), Connecting((), 1)])
def test_clients_that_are_connecting_are_active(connecting: Connecting) -> None:
    assert not idle_after(begin(0.0), quiet(1e6, connecting=connecting)).idle


def test_prepared_transactions_are_only_reported() -> None:
    verdict = idle_after(begin(0.0), quiet(1e6, prepared_transactions=2))
    assert verdict.idle
    assert "2 prepared transactions; survive sleep" in map(str, verdict.reasons)


def test_a_crowd_is_counted_not_listed() -> None:
    crowd = [client(pid, state="active") for pid in range(1, 501)]
    verdict = idle_after(begin(0.0), quiet(1e6, *crowd))
    assert len(verdict.reasons) < 20
    assert "and 490 more like these" in [reason.text for reason in verdict.reasons]


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


def test_names_cannot_break_lines() -> None:
    assert "\n" not in who(client(usename="a\nb"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (0.44, "0.4s"),
        (9.99, "10s"),
        (59.6, "1min"),
        (61, "1min 1s"),
        (3600, "1h"),
        (93784, "1d 2h"),
    ],
)
def test_durations_are_read_by_people(value: float, text: str) -> None:
    assert duration_text(value) == text

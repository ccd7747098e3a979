"""What only delays a sleep, and for how long: replication, locks, listeners, maintenance, a full disk."""

from __future__ import annotations

import pytest

from harness.looks import SETTINGS, client, idle_after, quiet, signals
from pgidle.base.record import replace as changed
from pgidle.idle.policy import begin, evaluate
from pgidle.idle.reasons import ReasonKind, Signal
from pgidle.idle.snapshot import FreeSpace, Session, Slot
from pgidle.idle.start_result import Startable, StartResult
from pgidle.settings.options import Counts

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


def test_slots_are_only_reported() -> None:
    verdict = idle_after(
        begin(0.0), quiet(1e6, slots=(Slot("s", "physical", 3 * 2**20), Slot("t", "logical", 0)))
    )
    assert verdict.idle
    notes = [reason.text for reason in verdict.reasons if reason.kind is ReasonKind.NOTE]
    assert notes == [
        'physical replication slot "s" is inactive and retains 3.0 MB of WAL',
        'logical replication slot "t" is inactive and retains no WAL',
    ]


def test_a_full_disk_is_no_place_to_sleep_on() -> None:
    for room, what in (
        (FreeSpace(free_bytes=2**20), "1 MB left in its data directory"),
        (FreeSpace(free_bytes=2**40, free_files=3), "3 inodes left"),
        (FreeSpace(free_bytes=2**40, free_files=9**9, is_read_only=True), "a read-only file system"),
    ):
        verdict = idle_after(begin(0.0), quiet(1e6, room=room))
        assert not verdict.idle
        assert any(what in reason.text for reason in verdict.reasons)
    assert idle_after(begin(0.0), quiet(1e6, room=FreeSpace(2**30, 1000))).idle
    # It does not tell.
    assert idle_after(begin(0.0), quiet(1e6, room=FreeSpace())).idle


def test_what_could_not_start_again_stays_awake() -> None:
    for startable, idle, said in (
        (Startable.YES, True, []),
        (Startable.NO, False, ["Postgres could not start again (line 3), seen for 0s"]),
        (Startable.UNKNOWN, True, ["cannot tell whether Postgres would start again: line 3"]),
    ):
        memory, start = begin(0.0), StartResult(startable, "line 3")
        verdict, _ = evaluate(quiet(1e6), SETTINGS, memory, 1e6, start=start)
        assert verdict.idle is idle
        assert [one.text for one in verdict.reasons if one.signal is Signal.CONFIGURATION] == said


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


def test_prepared_transactions_are_only_reported() -> None:
    verdict = idle_after(begin(0.0), quiet(1e6, prepared_transactions=2))
    assert verdict.idle
    assert "2 prepared transactions (kept through sleep)" in map(str, verdict.reasons)

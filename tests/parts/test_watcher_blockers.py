"""What a look at a real server sees of replication, backups, locks and listeners, and what the policy makes of it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from harness.postgres_fixture import Cluster, wait_until
from harness.watch import SETTINGS, Watch, pid_of, watching
from pgidle.base.record import replace
from pgidle.idle import policy
from pgidle.idle.reasons import ReasonKind, Signal
from pgidle.settings.options import Counts

if TYPE_CHECKING:
    from harness.installations import Installation, Place


def test_a_physical_walsender_blocks_by_setting(shared_cluster: Cluster, watch: Watch, place: Place) -> None:
    with shared_cluster.program("pg_receivewal", "-D", str(_client_folder(place))):
        # Before it streams it blocks whatever is set.
        streams = re.compile("pg_receivewal.* is replicating")
        wait_until(lambda: bool(streams.search(watch.wait_for(Signal.REPLICATION, ReasonKind.BLOCKER).text)))
        watch.settle()
        assert not watch.find(Signal.REPLICATION, ReasonKind.BLOCKER, replication=Counts.IGNORE)


def test_a_logical_walsender_and_a_subscription_block_by_setting(
    shared_cluster: Cluster, watch: Watch
) -> None:
    with shared_cluster.connect() as client:
        client.execute("CREATE DATABASE upstream")
    with shared_cluster.connect(dbname="upstream") as upstream, shared_cluster.connect() as downstream:
        upstream.execute("CREATE TABLE t (i int PRIMARY KEY)")
        upstream.execute("CREATE PUBLICATION p FOR TABLE t")
        upstream.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        downstream.execute("CREATE TABLE t (i int PRIMARY KEY)")
        where = f"host={shared_cluster.socket_dir} port={shared_cluster.port} user=postgres dbname=upstream"
        downstream.execute(
            f"CREATE SUBSCRIPTION sub CONNECTION '{where}' PUBLICATION p "
            "WITH (create_slot = false, slot_name = 's', copy_data = false)"
        )
        reason = watch.wait_for(Signal.SUBSCRIPTION, ReasonKind.BLOCKER)
        assert "is subscribed to sub" in reason.text
        streams = re.compile("database upstream.* is replicating")
        wait_until(lambda: bool(streams.search(watch.wait_for(Signal.REPLICATION, ReasonKind.BLOCKER).text)))
        assert not watch.find(Signal.SUBSCRIPTION, ReasonKind.BLOCKER, replication=Counts.IGNORE)
        assert not watch.find(Signal.REPLICATION, ReasonKind.BLOCKER, replication=Counts.IGNORE)
        downstream.execute("DROP SUBSCRIPTION sub")
        downstream.execute("DROP TABLE t")
        wait_until(lambda: not any(session.is_walsender for session in watch.see().sessions))
    with shared_cluster.connect() as client:
        client.execute("DROP DATABASE upstream")


def test_a_base_backup_blocks_whatever_is_set(shared_cluster: Cluster, watch: Watch, place: Place) -> None:
    slow = ("-D", str(_client_folder(place)), "-X", "none", "-c", "fast", "--max-rate", "32k")
    with shared_cluster.program("pg_basebackup", *slow):
        reason = watch.wait_for(Signal.BASE_BACKUP, ReasonKind.BLOCKER)
        assert "pg_basebackup" in reason.text
        assert watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER, replication=Counts.IGNORE)
    with shared_cluster.connect() as client:
        client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name <> 'pgidle'"
        )
    wait_until(lambda: not any(session.is_walsender for session in watch.see().sessions))


def test_a_session_that_waits_for_its_files_to_be_copied_blocks(
    installation: Installation, shared_cluster: Cluster, watch: Watch
) -> None:
    start, stop = (
        ("pg_backup_start('b', true)", "pg_backup_stop()")
        if installation.major >= 15
        else ("pg_start_backup('b', true, false)", "pg_stop_backup(false, false)")
    )
    with shared_cluster.connect() as client:
        client.execute(f"SELECT {start}")
        found = watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER, replication=Counts.IGNORE)
        assert "is idle in the middle of a base backup" in found[0].text
        client.execute(f"SELECT {stop}")
        assert not watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER)


def test_a_slot_that_nobody_uses_is_shown_with_what_it_holds_back(
    shared_cluster: Cluster, watch: Watch, place: Place
) -> None:
    with shared_cluster.connect() as client:
        client.execute("SELECT pg_create_physical_replication_slot('left', true)")
        client.execute("SELECT pg_create_physical_replication_slot('empty', false)")
        client.execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 2000000))")
        found = watch.find(Signal.REPLICATION_SLOT, ReasonKind.NOTE)
        assert len(found) == 1
        assert re.match(
            r'physical replication slot "left" is inactive and retains (1\.9|[2-9]\.\d) MB',
            found[0].text,
        )
        assert watch.judge(idle_timeout=0.0).idle
        with shared_cluster.program("pg_receivewal", "-S", "left", "-D", str(_client_folder(place))):
            wait_until(lambda: not watch.find(Signal.REPLICATION_SLOT, ReasonKind.NOTE))
        wait_until(lambda: not any(session.is_walsender for session in watch.see().sessions))
        client.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def test_an_autovacuum_worker_blocks_up_to_its_limit(cluster: Cluster) -> None:
    cluster.start({"autovacuum_naptime": "1s"})
    with cluster.connect() as client:
        client.execute(
            "CREATE TABLE t (i int) WITH (autovacuum_vacuum_cost_delay = 100, "
            "autovacuum_vacuum_cost_limit = 1, "
            "autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)"
        )
        client.execute("INSERT INTO t SELECT generate_series(1, 20000)")
        client.execute("UPDATE t SET i = i + 1")
        with watching(cluster) as watch:
            reason = watch.wait_for(Signal.MAINTENANCE, ReasonKind.BLOCKER)
            assert reason.text.startswith("autovacuum worker ")
            look = watch.see()
            while not any(session.is_autovacuum_worker for session in look.sessions):
                look = watch.see()
    by = replace(SETTINGS, idle_timeout=0.0)
    assert not policy.evaluate(look, by, policy.begin(look.at), look.at)[0].idle
    without_limit = replace(by, autovacuum_limit=0.0)
    assert policy.evaluate(look, without_limit, policy.begin(look.at), look.at)[0].idle


def test_an_idle_holder_of_an_advisory_lock_blocks_by_setting(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect() as client:
        client.execute("SELECT pg_advisory_lock(1)")
        reason = watch.wait_for(Signal.ADVISORY_LOCK, ReasonKind.BLOCKER)
        assert pid_of(client) in reason.text
        assert not watch.find(Signal.ADVISORY_LOCK, ReasonKind.BLOCKER, advisory_locks=Counts.IGNORE)
        client.execute("SELECT pg_advisory_unlock(1)")
        assert not watch.find(Signal.ADVISORY_LOCK, ReasonKind.BLOCKER)


@pytest.mark.parametrize("statement", ["LISTEN jobs", '\n listen"jobs"', "/* app */ LISTEN jobs"])
def test_a_listener_blocks_by_setting(shared_cluster: Cluster, watch: Watch, statement: str) -> None:
    with shared_cluster.connect() as client:
        client.execute(statement)
        reason = watch.wait_for(Signal.LISTENER, ReasonKind.BLOCKER)
        assert pid_of(client) in reason.text
        assert not watch.find(Signal.LISTENER, ReasonKind.BLOCKER, listeners=Counts.IGNORE)
        client.execute("UNLISTEN *")
        assert not watch.find(Signal.LISTENER, ReasonKind.BLOCKER)


def test_a_listening_psql_blocks(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.program("psql") as psql:
        assert psql.stdin
        psql.stdin.write(b"LISTEN jobs;\n")
        psql.stdin.flush()
        assert 'app "psql"' in watch.wait_for(Signal.LISTENER, ReasonKind.BLOCKER).text


def test_an_idle_session_blocks_only_if_it_is_to_be_kept(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect() as client:
        client.execute("SELECT 1")
        watch.settle()
        assert not watch.find(Signal.IDLE_SESSION, ReasonKind.BLOCKER)
        found = watch.find(Signal.IDLE_SESSION, ReasonKind.BLOCKER, idle_sessions=Counts.KEEP)
        assert pid_of(client) in found[0].text


def test_a_prepared_transaction_is_only_reported(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect() as client:
        client.execute("BEGIN")
        client.execute("CREATE TABLE prepared ()")
        client.execute("PREPARE TRANSACTION 'x'")
        watch.settle()
        verdict = watch.judge(idle_timeout=0.0)
        assert verdict.idle
        assert any(reason.signal is Signal.PREPARED_TRANSACTIONS for reason in verdict.reasons)
        client.execute("ROLLBACK PREPARED 'x'")


def _client_folder(place: Place) -> Any:
    folder = place.path / f"client-{time.monotonic_ns()}"
    folder.mkdir()
    return folder

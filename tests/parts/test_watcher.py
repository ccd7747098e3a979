"""Every signal, on a real server with real clients: what a look sees, and what the policy makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from harness.postgres_fixture import Cluster, wait_until
from harness.watch import SETTINGS, Watch, active
from pgidle.base.record import replace
from pgidle.idle import policy
from pgidle.idle.reasons import ReasonKind, Signal
from pgidle.idle.snapshot import LookFailed, Snapshot
from pgidle.settings.options import Counts, Ignore, IgnoreField

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.installations import Installation, Place


OPTIONS = {
    # Helpers of the postmaster that pg_stat_activity does not show must not be taken for clients.
    "logging_collector": "on",
    "archive_mode": "on",
    "archive_command": "true",
    "autovacuum": "off",
    "wal_level": "logical",
    "max_prepared_transactions": "5",
}
# A client that a test kills must not leave its query running.
SINCE_14 = {"client_connection_check_interval": "50ms"}
END_ALL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def pid_of(connection: psycopg.Connection[Any]) -> str:
    return f"session {connection.info.backend_pid} "


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[dict[Installation, Cluster]]:
    clusters: dict[Installation, Cluster] = {}
    yield clusters
    for cluster in clusters.values():
        cluster.stop()


@pytest.fixture
def cluster(installation: Installation, place: Place, running: dict[Installation, Cluster]) -> Cluster:
    """One for all tests of this file; a test that stops it uses `own_cluster`."""
    if installation not in running:
        running[installation] = Cluster(installation.bin_dir, place.data_dir(installation))
        running[installation].start(OPTIONS | (SINCE_14 if installation.major >= 14 else {}))
    if installation.major < 14:
        with running[installation].connect() as client:
            client.execute(END_ALL)
    return running[installation]


@pytest.fixture
def _counters(installation: Installation) -> None:
    if installation.major < 14:
        pytest.skip("PostgreSQL counts sessions and their time from 14 on")


@pytest.fixture
def own_cluster(installation: Installation, place: Place) -> Iterator[Cluster]:
    with Cluster(installation.bin_dir, place.data_dir(installation)) as cluster:
        yield cluster


@pytest.fixture
def watch(installation: Installation, cluster: Cluster) -> Iterator[Watch]:
    with contextlib.closing(Watch(cluster)) as watch:
        watch.lag = 1.5 if installation.major == 14 else 0.0
        watch.settle()
        yield watch


def test_a_quiet_server_with_all_its_helpers_shows_nothing(installation: Installation, watch: Watch) -> None:
    types = {session.backend_type for session in watch.see().sessions}
    assert {"logical replication launcher", "checkpointer"} <= types
    assert "archiver" in types or installation.major < 14
    for _ in range(20):
        assert not active(watch.judge())


def test_the_watcher_does_not_see_itself(watch: Watch) -> None:
    assert watch.see().clients == ()


@pytest.mark.parametrize(
    ("statements", "state"),
    [
        (["BEGIN"], "idle in transaction"),
        (["BEGIN", "SELECT 1/0"], "idle in transaction (aborted)"),
        (["SET track_activities = off"], "disabled"),
    ],
)
def test_a_session_in_a_state_other_than_idle_is_active(
    cluster: Cluster, watch: Watch, statements: list[str], state: str
) -> None:
    with cluster.connect(application_name="busy") as client:
        for statement in statements:
            with contextlib.suppress(psycopg.errors.DivisionByZero):
                client.execute(statement)
        watch.judge()
        found = watch.find(Signal.SESSION_STATE, ReasonKind.ACTIVITY)
        assert len(found) == 1
        assert pid_of(client) in found[0].text
        assert f"is {state}" in found[0].text


def test_a_running_query_is_active(cluster: Cluster, watch: Watch) -> None:
    with cluster.program("psql", "-c", "SELECT pg_sleep(60)"):
        wait_until(lambda: "is active" in watch.wait_for(Signal.SESSION_STATE, ReasonKind.ACTIVITY).text)


def test_a_fastpath_call_is_active(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect() as client:
        row = client.execute("SELECT 'pg_catalog.pg_sleep(float8)'::regprocedure::oid::int8").fetchone()
    assert row
    with socket.create_connection(("127.0.0.1", cluster.port)) as raw:
        startup = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0\0"
        raw.sendall(struct.pack("!I", len(startup) + 4) + startup)
        wait_until(lambda: b"Z\0\0\0\5I" in raw.recv(65536))
        argument = struct.pack("!d", 60.0)
        call = struct.pack("!IHHHI", row[0], 1, 1, 1, len(argument)) + argument + struct.pack("!H", 1)
        raw.sendall(b"F" + struct.pack("!I", len(call) + 4) + call)
        wait_until(lambda: "fastpath" in watch.wait_for(Signal.SESSION_STATE, ReasonKind.ACTIVITY).text)


def test_a_statement_that_is_still_on_its_way_counts(cluster: Cluster, watch: Watch) -> None:
    """Until all of it has come, Postgres says idle, and every byte that came has been read."""
    words = b"user\0postgres\0database\0postgres\0\0"
    with socket.create_connection(("127.0.0.1", cluster.port), 30) as client:
        client.sendall(struct.pack("!II", 8 + len(words), 196608) + words)
        said = b""
        while not said.endswith(b"Z\0\0\0\5I"):
            said += client.recv(4096)
        age = 0.0
        while age < 0.5:
            (session,) = watch.see().clients
            age = session.state_age or 0.0
        client.sendall(b"Q" + struct.pack("!I", 4 + 1000))
        (session,) = watch.see().clients
        assert session.state == "idle"
        assert session.state_age is not None
        assert session.state_age < age


def test_an_idle_session_counts_at_its_last_use(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect() as client:
        client.execute("SELECT 1")
        watch.settle()
        seen = watch.last_activity
        assert not active(watch.judge())
        assert watch.last_activity == seen
        before = time.monotonic()
        client.execute("SELECT 1")
        after = time.monotonic()
        assert not active(watch.judge())
        assert before <= watch.last_activity <= after + 0.1


def test_the_first_look_takes_over_when_sessions_were_last_used(cluster: Cluster) -> None:
    with cluster.connect() as client, contextlib.closing(Watch(cluster)) as watch:
        began = watch.last_activity
        client.execute("SELECT 1")
        assert not active(watch.judge())
        assert watch.last_activity > began


def test_a_new_session_and_a_vanished_one_are_uses(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect(application_name="rails") as client:
        name = pid_of(client)
        found = watch.find(Signal.NEW_SESSION, ReasonKind.ACTIVITY)
        assert [name in reason.text and 'app "rails"' in reason.text for reason in found] == [True]
        watch.settle()
    found = []
    wait_until(lambda: bool(found.extend(watch.find(Signal.VANISHED_SESSION, ReasonKind.ACTIVITY)) or found))
    assert name in found[0].text


@pytest.mark.usefixtures("_counters")
def test_a_session_that_came_and_went_between_two_looks_is_a_use(
    installation: Installation, cluster: Cluster, watch: Watch
) -> None:
    for _ in range(10):
        with cluster.connect() as client:
            pid = client.info.backend_pid
        wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))  # type: ignore[misc]  # noqa: PTH110
        _now(installation, lambda: bool(watch.find(Signal.COUNTERS, ReasonKind.ACTIVITY)))
        watch.settle()


def _now(installation: Installation, is_so: Callable[[], bool]) -> None:
    """At the first look; but what PostgreSQL 14 counts goes through a process of its own, which takes its time."""
    if installation.major == 14:
        wait_until(is_so)
    else:
        assert is_so()


@pytest.mark.usefixtures("_counters")
def test_a_dropped_database_lowers_the_counters_and_is_a_use(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect() as client:
        client.execute("CREATE DATABASE doomed")
        for _ in range(5):
            cluster.connect(dbname="doomed").close()
        watch.settle()
        client.execute("DROP DATABASE doomed WITH (FORCE)")
        wait_until(lambda: bool(watch.find(Signal.COUNTERS, ReasonKind.ACTIVITY)))


@pytest.mark.parametrize("said", [b"", b"\0\0\0\x64garbage"], ids=["silent", "garbage"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_tcp_client_that_has_not_authenticated_is_active(
    cluster: Cluster, watch: Watch, address: str, said: bytes
) -> None:
    with socket.create_connection((address, cluster.port)) as client:
        client.sendall(said)
        found = watch.find(Signal.CONNECTING, ReasonKind.ACTIVITY)
        assert f"{address} port {client.getsockname()[1]} " in found[0].text
    watch.settle()


def test_a_unix_socket_client_that_has_not_authenticated_is_active(cluster: Cluster, watch: Watch) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(cluster.socket_dir / f".s.PGSQL.{cluster.port}"))
        watch.wait_for(Signal.CONNECTING, ReasonKind.ACTIVITY)
        assert watch.find(Signal.CONNECTING, ReasonKind.ACTIVITY)
    watch.settle()


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_a_client_in_the_middle_of_authentication_is_active(
    cluster: Cluster, watch: Watch, family: socket.AddressFamily
) -> None:
    """PostgreSQL 18 shows it as `starting`; before, only its process and its socket do."""
    hba = cluster.data_dir / "pg_hba.conf"
    before = hba.read_text()
    with cluster.connect() as client:
        client.execute("CREATE ROLE slow LOGIN PASSWORD 'x'")
        hba.write_text(f"local all slow scram-sha-256\nhost all slow all scram-sha-256\n{before}")
        client.execute("SELECT pg_reload_conf()")
        try:
            with socket.socket(family) as raw:
                unix = str(cluster.socket_dir / f".s.PGSQL.{cluster.port}")
                raw.connect(unix if family == socket.AF_UNIX else ("127.0.0.1", cluster.port))
                startup = struct.pack("!I", 196608) + b"user\0slow\0database\0postgres\0\0"
                raw.sendall(struct.pack("!I", len(startup) + 4) + startup)
                assert raw.recv(1) == b"R", "the server asks for a password"
                for _ in range(3):
                    found = active(watch.judge())
                    assert {reason.signal for reason in found} & {Signal.CONNECTING, Signal.SESSION_STATE}
        finally:
            hba.write_text(before)
            client.execute("SELECT pg_reload_conf()")
            client.execute("DROP ROLE slow")
    watch.settle()


def test_a_client_that_nobody_has_accepted_is_active(cluster: Cluster, watch: Watch) -> None:
    watch.see()
    os.kill(cluster.pid, signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", cluster.port)):
            assert watch.find(Signal.CONNECTING, ReasonKind.ACTIVITY)
    finally:
        os.kill(cluster.pid, signal.SIGCONT)
    watch.settle()


def test_sessions_explain_their_sockets(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect(host="127.0.0.1"), cluster.connect(host="::1"), cluster.connect():
        watch.judge()
        assert len(watch.see().clients) == 3
        assert not active(watch.judge())


@pytest.mark.usefixtures("_counters")
def test_clients_that_come_and_go_all_the_time_never_slip_between(
    installation: Installation, cluster: Cluster, watch: Watch
) -> None:
    count = 0
    stop = threading.Event()

    def come_and_go() -> None:
        nonlocal count
        while not stop.is_set():
            cluster.connect(host="127.0.0.1" if count % 2 else str(cluster.socket_dir)).close()
            count += 1

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(60):
            before = count
            wait_until(lambda before=before: count > before)  # type: ignore[misc]
            _now(installation, lambda: bool(active(watch.judge())))
    finally:
        stop.set()
        thread.join()


def test_a_physical_walsender_blocks_by_setting(cluster: Cluster, watch: Watch, place: Place) -> None:
    with cluster.program("pg_receivewal", "-D", str(_client_folder(place))):
        # Before it streams it blocks whatever is set.
        streams = re.compile("pg_receivewal.* replicates")
        wait_until(lambda: bool(streams.search(watch.wait_for(Signal.REPLICATION, ReasonKind.BLOCKER).text)))
        watch.settle()
        assert not watch.find(Signal.REPLICATION, ReasonKind.BLOCKER, replication=Counts.IGNORE)


def test_a_logical_walsender_and_a_subscription_block_by_setting(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect() as client:
        client.execute("CREATE DATABASE upstream")
    with cluster.connect(dbname="upstream") as upstream, cluster.connect() as downstream:
        upstream.execute("CREATE TABLE t (i int PRIMARY KEY)")
        upstream.execute("CREATE PUBLICATION p FOR TABLE t")
        upstream.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        downstream.execute("CREATE TABLE t (i int PRIMARY KEY)")
        where = f"host={cluster.socket_dir} port={cluster.port} user=postgres dbname=upstream"
        downstream.execute(
            f"CREATE SUBSCRIPTION sub CONNECTION '{where}' PUBLICATION p "
            "WITH (create_slot = false, slot_name = 's', copy_data = false)"
        )
        reason = watch.wait_for(Signal.SUBSCRIPTION, ReasonKind.BLOCKER)
        assert "is subscribed to sub" in reason.text
        streams = re.compile("database upstream.* replicates")
        wait_until(lambda: bool(streams.search(watch.wait_for(Signal.REPLICATION, ReasonKind.BLOCKER).text)))
        assert not watch.find(Signal.SUBSCRIPTION, ReasonKind.BLOCKER, replication=Counts.IGNORE)
        assert not watch.find(Signal.REPLICATION, ReasonKind.BLOCKER, replication=Counts.IGNORE)
        downstream.execute("DROP SUBSCRIPTION sub")
        downstream.execute("DROP TABLE t")
        wait_until(lambda: not any(session.is_walsender for session in watch.see().sessions))
    with cluster.connect() as client:
        client.execute("DROP DATABASE upstream")


def test_a_base_backup_blocks_whatever_is_set(cluster: Cluster, watch: Watch, place: Place) -> None:
    slow = ("-D", str(_client_folder(place)), "-X", "none", "-c", "fast", "--max-rate", "32k")
    with cluster.program("pg_basebackup", *slow):
        reason = watch.wait_for(Signal.BASE_BACKUP, ReasonKind.BLOCKER)
        assert "pg_basebackup" in reason.text
        assert watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER, replication=Counts.IGNORE)
    with cluster.connect() as client:
        client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name <> 'pgidle'"
        )
    wait_until(lambda: not any(session.is_walsender for session in watch.see().sessions))


def test_a_session_that_waits_for_its_files_to_be_copied_blocks(
    installation: Installation, cluster: Cluster, watch: Watch
) -> None:
    start, stop = (
        ("pg_backup_start('b', true)", "pg_backup_stop()")
        if installation.major >= 15
        else ("pg_start_backup('b', true, false)", "pg_stop_backup(false, false)")
    )
    with cluster.connect() as client:
        client.execute(f"SELECT {start}")
        found = watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER, replication=Counts.IGNORE)
        assert "is idle in the middle of a base backup" in found[0].text
        client.execute(f"SELECT {stop}")
        assert not watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER)


def test_a_slot_that_nobody_uses_is_shown_with_what_it_holds_back(
    cluster: Cluster, watch: Watch, place: Place
) -> None:
    with cluster.connect() as client:
        client.execute("SELECT pg_create_physical_replication_slot('left', true)")
        client.execute("SELECT pg_create_physical_replication_slot('empty', false)")
        client.execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 2000000))")
        found = watch.find(Signal.REPLICATION_SLOT, ReasonKind.NOTE)
        assert len(found) == 1
        assert re.match(
            r'physical replication slot "left" is not in use; WAL that it holds back: (1\.9|[2-9]\.\d) MB',
            found[0].text,
        )
        assert watch.judge(idle_timeout=0.0).idle
        with cluster.program("pg_receivewal", "-S", "left", "-D", str(_client_folder(place))):
            wait_until(lambda: not watch.find(Signal.REPLICATION_SLOT, ReasonKind.NOTE))
        wait_until(lambda: not any(session.is_walsender for session in watch.see().sessions))
        client.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def test_an_autovacuum_worker_blocks_up_to_its_limit(own_cluster: Cluster) -> None:
    own_cluster.start({"autovacuum_naptime": "1s"})
    with own_cluster.connect() as client:
        client.execute(
            "CREATE TABLE t (i int) WITH (autovacuum_vacuum_cost_delay = 100, "
            "autovacuum_vacuum_cost_limit = 1, "
            "autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)"
        )
        client.execute("INSERT INTO t SELECT generate_series(1, 20000)")
        client.execute("UPDATE t SET i = i + 1")
        with contextlib.closing(Watch(own_cluster)) as watch:
            reason = watch.wait_for(Signal.MAINTENANCE, ReasonKind.BLOCKER)
            assert reason.text.startswith("autovacuum worker ")
            look = watch.see()
            while not any(session.is_autovacuum_worker for session in look.sessions):
                look = watch.see()
    by = replace(SETTINGS, idle_timeout=0.0)
    assert not policy.evaluate(look, by, policy.begin(look.at), look.at)[0].idle
    without_limit = replace(by, autovacuum_limit=0.0)
    assert policy.evaluate(look, without_limit, policy.begin(look.at), look.at)[0].idle


def test_an_idle_holder_of_an_advisory_lock_blocks_by_setting(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect() as client:
        client.execute("SELECT pg_advisory_lock(1)")
        reason = watch.wait_for(Signal.ADVISORY_LOCK, ReasonKind.BLOCKER)
        assert pid_of(client) in reason.text
        assert not watch.find(Signal.ADVISORY_LOCK, ReasonKind.BLOCKER, advisory_locks=Counts.IGNORE)
        client.execute("SELECT pg_advisory_unlock(1)")
        assert not watch.find(Signal.ADVISORY_LOCK, ReasonKind.BLOCKER)


@pytest.mark.parametrize("statement", ["LISTEN jobs", '\n listen"jobs"', "/* app */ LISTEN jobs"])
def test_a_listener_blocks_by_setting(cluster: Cluster, watch: Watch, statement: str) -> None:
    with cluster.connect() as client:
        client.execute(statement)
        reason = watch.wait_for(Signal.LISTENER, ReasonKind.BLOCKER)
        assert pid_of(client) in reason.text
        assert not watch.find(Signal.LISTENER, ReasonKind.BLOCKER, listeners=Counts.IGNORE)
        client.execute("UNLISTEN *")
        assert not watch.find(Signal.LISTENER, ReasonKind.BLOCKER)


def test_a_listening_psql_blocks(cluster: Cluster, watch: Watch) -> None:
    with cluster.program("psql") as psql:
        assert psql.stdin
        psql.stdin.write(b"LISTEN jobs;\n")
        psql.stdin.flush()
        assert 'app "psql"' in watch.wait_for(Signal.LISTENER, ReasonKind.BLOCKER).text


def test_an_idle_session_blocks_only_if_it_is_to_be_kept(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect() as client:
        client.execute("SELECT 1")
        watch.settle()
        assert not watch.find(Signal.IDLE_SESSION, ReasonKind.BLOCKER)
        found = watch.find(Signal.IDLE_SESSION, ReasonKind.BLOCKER, idle_sessions=Counts.KEEP)
        assert pid_of(client) in found[0].text


def test_a_prepared_transaction_is_only_reported(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect() as client:
        client.execute("BEGIN")
        client.execute("CREATE TABLE prepared ()")
        client.execute("PREPARE TRANSACTION 'x'")
        watch.settle()
        verdict = watch.judge(idle_timeout=0.0)
        assert verdict.idle
        assert any(reason.signal is Signal.PREPARED_TRANSACTIONS for reason in verdict.reasons)
        client.execute("ROLLBACK PREPARED 'x'")


def test_ignored_sessions_never_count(installation: Installation, cluster: Cluster, watch: Watch) -> None:
    """They work, reconnect and hold locks; somebody else among them is still seen."""
    watch.settings = replace(SETTINGS, ignore=(Ignore(IgnoreField.APPLICATION_NAME, "exporter"),))
    watch.settle()
    for _ in range(5):
        with cluster.connect(application_name="exporter") as exporter:
            exporter.execute("BEGIN")
            exporter.execute("SELECT pg_advisory_lock(1)")
            assert not [r for r in watch.judge().reasons if r.kind is not ReasonKind.CLOCK]
    if watch.see().counters is not None:
        cluster.connect(application_name="somebody").close()
        with cluster.connect(application_name="exporter"):
            _now(installation, lambda: bool(active(watch.judge())))


def test_an_ignored_address_may_knock(cluster: Cluster, watch: Watch) -> None:
    watch.settings = replace(SETTINGS, ignore=(Ignore(IgnoreField.ADDRESS, "127.0.0.0/8"),))
    with socket.create_connection(("127.0.0.1", cluster.port)):
        for _ in range(3):
            assert not active(watch.judge())
    with socket.create_connection(("::1", cluster.port)):
        assert active(watch.judge())


def test_missing_rights_are_named_at_every_look(cluster: Cluster) -> None:
    with cluster.connect() as client:
        client.execute("CREATE ROLE poor LOGIN")
        with contextlib.closing(Watch(cluster, "nobody at all", "poor")) as watch:
            for _ in range(2):
                failed = watch.look()
                assert isinstance(failed, LookFailed)
                assert 'GRANT pg_monitor TO "poor"' in failed.reason
            assert not watch.judge(idle_timeout=0.0).idle
            assert watch.checkpoint()
            client.execute("GRANT pg_monitor TO poor")
            assert isinstance(watch.look(), Snapshot)
        client.execute("DROP ROLE poor")


def test_nobody_to_connect_as_is_a_failed_look(cluster: Cluster) -> None:
    with contextlib.closing(Watch(cluster, "nobody at all")) as watch:
        failed = watch.look()
        assert isinstance(failed, LookFailed)
        assert "nobody at all" in failed.reason
        assert "watch" in failed.reason
        assert "\n" not in failed.reason


def test_it_can_watch_by_a_connection_string(cluster: Cluster) -> None:
    conninfo = f"postgresql://postgres@127.0.0.1:{cluster.port}/template1"
    with contextlib.closing(Watch(cluster, conninfo=conninfo)) as watch:
        watch.settle()
        assert watch.see().clients == ()
        assert not active(watch.judge())


def test_a_connection_string_that_leads_to_another_server_is_a_failed_look(
    cluster: Cluster, own_cluster: Cluster
) -> None:
    own_cluster.start()
    conninfo = f"host={own_cluster.socket_dir} port={own_cluster.port} user=postgres dbname=postgres"
    with contextlib.closing(Watch(cluster, conninfo=conninfo)) as watch:
        for _ in range(2):
            failed = watch.look()
            assert isinstance(failed, LookFailed)
            assert f"another server than postmaster {cluster.pid}: set host and port" in failed.reason


def test_a_role_whose_name_is_in_another_encoding_can_be_seen(cluster: Cluster, watch: Watch) -> None:
    with cluster.connect() as client:
        client.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        client.execute("CREATE ROLE latin LOGIN")
    with cluster.connect(dbname="latin") as client, cluster.connect(user="latin"):
        client.execute('ALTER ROLE latin RENAME TO "m\u00fcller"')
        assert "m\ufffdller" in {session.usename for session in watch.see().clients}
        client.execute('ALTER ROLE "m\u00fcller" RENAME TO latin')
    with cluster.connect() as client:
        client.execute("DROP DATABASE latin")
        client.execute("DROP ROLE latin")


def _own_backend(cluster: Cluster) -> int:
    with cluster.connect() as client:
        found = client.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgidle'"
        ).fetchall()
    assert len(found) == 1
    return int(found[0][0])


async def _look_and_leave_nothing(watch: Watch) -> Snapshot | LookFailed:
    look = await watch.watcher.look(0.3)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return look


def test_a_look_that_hangs_is_given_up_and_the_next_one_starts_anew(cluster: Cluster, watch: Watch) -> None:
    watch.see()
    stuck = _own_backend(cluster)
    os.kill(stuck, signal.SIGSTOP)
    try:
        failed = watch._runner.run(_look_and_leave_nothing(watch))
        assert isinstance(failed, LookFailed)
        assert "0.3 s" in failed.reason
        watch.see()
    finally:
        os.kill(stuck, signal.SIGCONT)


def test_a_connection_that_hangs_is_given_up(cluster: Cluster) -> None:
    with contextlib.closing(Watch(cluster)) as watch:
        os.kill(cluster.pid, signal.SIGSTOP)
        try:
            assert isinstance(watch.look(0.3), LookFailed)
        finally:
            os.kill(cluster.pid, signal.SIGCONT)
        watch.see()


def test_a_look_that_is_cancelled_leaves_nothing_behind(cluster: Cluster, watch: Watch) -> None:
    watch.see()
    stuck = _own_backend(cluster)
    os.kill(stuck, signal.SIGSTOP)

    async def cancel() -> None:
        task = asyncio.create_task(watch.watcher.look(20))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    try:
        watch._runner.run(cancel())
        watch.see()
    finally:
        os.kill(stuck, signal.SIGCONT)


def test_a_look_that_is_cancelled_twice_complains_to_nobody(cluster: Cluster, watch: Watch) -> None:
    """As by a shutdown, and again by the end that it comes to."""
    watch.see()
    stuck = _own_backend(cluster)
    os.kill(stuck, signal.SIGSTOP)
    complaints: list[dict[str, Any]] = []

    async def cancel() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        task = asyncio.create_task(watch.watcher.look(20))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        gc.collect()

    try:
        watch._runner.run(cancel())
        assert complaints == []
    finally:
        os.kill(stuck, signal.SIGCONT)


def test_a_restart_in_between_is_a_failed_look(own_cluster: Cluster) -> None:
    own_cluster.start()
    with contextlib.closing(Watch(own_cluster)) as watch:
        watch.see()
        own_cluster.stop()
        assert isinstance(watch.look(), LookFailed)
        assert isinstance(watch.look(), LookFailed)
        own_cluster.start()
        # Another postmaster has a watcher of its own.
        assert isinstance(watch.look(), LookFailed)
    with contextlib.closing(Watch(own_cluster)) as watch:
        watch.see()


def test_a_connection_that_was_ended_is_a_failed_look_and_then_all_is_well(
    cluster: Cluster, watch: Watch
) -> None:
    watch.see()
    with cluster.connect() as client:
        client.execute("SELECT pg_terminate_backend(%s)", [_own_backend(cluster)])
    assert isinstance(watch.look(), LookFailed)
    watch.see()


def test_a_checkpoint_runs(cluster: Cluster, watch: Watch) -> None:
    query = "SELECT checkpoint_lsn FROM pg_control_checkpoint()"
    with cluster.connect() as client:
        before = client.execute(query).fetchone()
        assert watch.checkpoint() is None
        assert client.execute(query).fetchone() != before
    watch.see()


def test_a_server_that_sets_traps_for_its_sessions_can_be_watched(cluster: Cluster) -> None:
    with cluster.connect() as client:
        client.execute("CREATE ROLE odd LOGIN IN ROLE pg_monitor")
        client.execute("ALTER ROLE odd SET statement_timeout = 1")
        client.execute("ALTER ROLE odd SET search_path = nowhere")
        client.execute("ALTER ROLE odd SET default_transaction_isolation = serializable")
        client.execute("ALTER ROLE odd SET standard_conforming_strings = off")
        with contextlib.closing(Watch(cluster, "odd")) as watch:
            watch.see()
            watch.see()
        client.execute("DROP ROLE odd")


def _client_folder(place: Place) -> Any:
    folder = place.path / f"client-{time.monotonic_ns()}"
    folder.mkdir()
    return folder

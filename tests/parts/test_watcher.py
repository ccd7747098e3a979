"""How the watcher gets at a real server: ways in, missing rights, and looks that hang, fail or are cancelled."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from harness.watch import Watch, active, watching
from pgidle.idle.snapshot import LookFailed, Snapshot

if TYPE_CHECKING:
    from harness.postgres_fixture import Cluster

    pass


def test_missing_rights_are_named_at_every_look(shared_cluster: Cluster) -> None:
    with shared_cluster.connect() as client:
        client.execute("CREATE ROLE poor LOGIN")
        with watching(shared_cluster, "nobody at all", "poor") as watch:
            for _ in range(2):
                failed = watch.look()
                assert isinstance(failed, LookFailed)
                assert 'GRANT pg_monitor TO "poor"' in failed.reason
            assert not watch.judge(idle_timeout=0.0).idle
            assert watch.checkpoint()
            client.execute("GRANT pg_monitor TO poor")
            assert isinstance(watch.look(), Snapshot)
        client.execute("DROP ROLE poor")


def test_nobody_to_connect_as_is_a_failed_look(shared_cluster: Cluster) -> None:
    with watching(shared_cluster, "nobody at all") as watch:
        failed = watch.look()
        assert isinstance(failed, LookFailed)
        assert "nobody at all" in failed.reason
        assert "watch" in failed.reason
        assert "\n" not in failed.reason


def test_it_can_watch_by_a_connection_string(shared_cluster: Cluster) -> None:
    conninfo = f"postgresql://postgres@127.0.0.1:{shared_cluster.port}/template1"
    with watching(shared_cluster, conninfo=conninfo) as watch:
        watch.settle()
        assert watch.see().clients == ()
        assert not active(watch.judge())


def test_a_connection_string_that_leads_to_another_server_is_a_failed_look(
    shared_cluster: Cluster, cluster: Cluster
) -> None:
    cluster.start()
    conninfo = f"host={cluster.socket_dir} port={cluster.port} user=postgres dbname=postgres"
    with watching(shared_cluster, conninfo=conninfo) as watch:
        for _ in range(2):
            failed = watch.look()
            assert isinstance(failed, LookFailed)
            assert f"another server than postmaster {shared_cluster.pid}: set host and port" in failed.reason


def test_a_role_whose_name_is_in_another_encoding_can_be_seen(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect() as client:
        client.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        client.execute("CREATE ROLE latin LOGIN")
    with shared_cluster.connect(dbname="latin") as client, shared_cluster.connect(user="latin"):
        client.execute('ALTER ROLE latin RENAME TO "m\u00fcller"')
        assert "m\ufffdller" in {session.usename for session in watch.see().clients}
        client.execute('ALTER ROLE "m\u00fcller" RENAME TO latin')
    with shared_cluster.connect() as client:
        client.execute("DROP DATABASE latin")
        client.execute("DROP ROLE latin")


def _own_backend(shared_cluster: Cluster) -> int:
    with shared_cluster.connect() as client:
        found = client.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgidle'"
        ).fetchall()
    assert len(found) == 1
    return int(found[0][0])


async def _look_and_leave_nothing(watch: Watch) -> Snapshot | LookFailed:
    look = await watch.watcher.look(0.3)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return look


def test_a_look_that_hangs_is_given_up_and_the_next_one_starts_anew(
    shared_cluster: Cluster, watch: Watch
) -> None:
    watch.see()
    stuck = _own_backend(shared_cluster)
    os.kill(stuck, signal.SIGSTOP)
    try:
        failed = watch._runner.run(_look_and_leave_nothing(watch))
        assert isinstance(failed, LookFailed)
        assert "0.3 s" in failed.reason
        watch.see()
    finally:
        os.kill(stuck, signal.SIGCONT)


def test_a_connection_that_hangs_is_given_up(shared_cluster: Cluster) -> None:
    with watching(shared_cluster) as watch:
        os.kill(shared_cluster.pid, signal.SIGSTOP)
        try:
            assert isinstance(watch.look(0.3), LookFailed)
        finally:
            os.kill(shared_cluster.pid, signal.SIGCONT)
        watch.see()


def test_a_look_that_is_cancelled_leaves_nothing_behind(shared_cluster: Cluster, watch: Watch) -> None:
    watch.see()
    stuck = _own_backend(shared_cluster)
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


def test_a_look_that_is_cancelled_twice_complains_to_nobody(shared_cluster: Cluster, watch: Watch) -> None:
    """As by a shutdown, and again by the end that it comes to."""
    watch.see()
    stuck = _own_backend(shared_cluster)
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


def test_a_restart_in_between_is_a_failed_look(cluster: Cluster) -> None:
    cluster.start()
    with watching(cluster) as watch:
        watch.see()
        cluster.stop()
        assert isinstance(watch.look(), LookFailed)
        assert isinstance(watch.look(), LookFailed)
        cluster.start()
        # Another postmaster has a watcher of its own.
        assert isinstance(watch.look(), LookFailed)
    with watching(cluster) as watch:
        watch.see()


def test_a_connection_that_was_ended_is_a_failed_look_and_then_all_is_well(
    shared_cluster: Cluster, watch: Watch
) -> None:
    watch.see()
    with shared_cluster.connect() as client:
        client.execute("SELECT pg_terminate_backend(%s)", [_own_backend(shared_cluster)])
    assert isinstance(watch.look(), LookFailed)
    watch.see()


def test_a_checkpoint_runs(shared_cluster: Cluster, watch: Watch) -> None:
    query = "SELECT checkpoint_lsn FROM pg_control_checkpoint()"
    with shared_cluster.connect() as client:
        before = client.execute(query).fetchone()
        assert watch.checkpoint() is None
        assert client.execute(query).fetchone() != before
    watch.see()


def test_a_server_that_sets_traps_for_its_sessions_can_be_watched(shared_cluster: Cluster) -> None:
    with shared_cluster.connect() as client:
        client.execute("CREATE ROLE odd LOGIN IN ROLE pg_monitor")
        client.execute("ALTER ROLE odd SET statement_timeout = 1")
        client.execute("ALTER ROLE odd SET search_path = nowhere")
        client.execute("ALTER ROLE odd SET default_transaction_isolation = serializable")
        client.execute("ALTER ROLE odd SET standard_conforming_strings = off")
        with watching(shared_cluster, "odd") as watch:
            watch.see()
            watch.see()
        client.execute("DROP ROLE odd")

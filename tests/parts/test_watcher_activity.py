"""What a look at a real server sees of sessions that are, were or are not in use, and what the policy makes of it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.postgres_fixture import Cluster, wait_until
from harness.watch import SETTINGS, Watch, active, at_first_look, pid_of, watching
from pgidle.base.record import replace
from pgidle.idle.reasons import ReasonKind, Signal
from pgidle.settings.options import Ignore, IgnoreField

if TYPE_CHECKING:
    from harness.installations import Installation


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
    shared_cluster: Cluster, watch: Watch, statements: list[str], state: str
) -> None:
    with shared_cluster.connect(application_name="busy") as client:
        for statement in statements:
            with contextlib.suppress(psycopg.errors.DivisionByZero):
                client.execute(statement)
        watch.judge()
        found = watch.find(Signal.SESSION_STATE, ReasonKind.ACTIVITY)
        assert len(found) == 1
        assert pid_of(client) in found[0].text
        # With track_activities off nobody knows since when.
        assert f"{'is' if state == 'disabled' else 'has been'} {state}" in found[0].text


def test_a_running_query_is_active(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.program("psql", "-c", "SELECT pg_sleep(60)"):
        wait_until(
            lambda: "has been active" in watch.wait_for(Signal.SESSION_STATE, ReasonKind.ACTIVITY).text
        )


def test_a_fastpath_call_is_active(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect() as client:
        row = client.execute("SELECT 'pg_catalog.pg_sleep(float8)'::regprocedure::oid::int8").fetchone()
    assert row
    with socket.create_connection(("127.0.0.1", shared_cluster.port)) as raw:
        startup = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0\0"
        raw.sendall(struct.pack("!I", len(startup) + 4) + startup)
        wait_until(lambda: b"Z\0\0\0\5I" in raw.recv(65536))
        argument = struct.pack("!d", 60.0)
        call = struct.pack("!IHHHI", row[0], 1, 1, 1, len(argument)) + argument + struct.pack("!H", 1)
        raw.sendall(b"F" + struct.pack("!I", len(call) + 4) + call)
        wait_until(lambda: "fastpath" in watch.wait_for(Signal.SESSION_STATE, ReasonKind.ACTIVITY).text)


def test_a_statement_that_is_still_on_its_way_counts(shared_cluster: Cluster, watch: Watch) -> None:
    """Until all of it has come, Postgres says idle, and every byte that came has been read."""
    words = b"user\0postgres\0database\0postgres\0\0"
    with socket.create_connection(("127.0.0.1", shared_cluster.port), 30) as client:
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


def test_an_idle_session_counts_at_its_last_use(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect() as client:
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


def test_the_first_look_takes_over_when_sessions_were_last_used(shared_cluster: Cluster) -> None:
    with shared_cluster.connect() as client, watching(shared_cluster) as watch:
        began = watch.last_activity
        client.execute("SELECT 1")
        assert not active(watch.judge())
        assert watch.last_activity > began


def test_a_new_session_and_a_vanished_one_are_uses(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect(application_name="rails") as client:
        name = pid_of(client)
        found = watch.find(Signal.NEW_SESSION, ReasonKind.ACTIVITY)
        assert [name in reason.text and 'app "rails"' in reason.text for reason in found] == [True]
        watch.settle()
    found = []
    wait_until(lambda: bool(found.extend(watch.find(Signal.VANISHED_SESSION, ReasonKind.ACTIVITY)) or found))
    assert name in found[0].text


@pytest.mark.usefixtures("_counters")
def test_a_session_that_came_and_went_between_two_looks_is_a_use(
    installation: Installation, shared_cluster: Cluster, watch: Watch
) -> None:
    for _ in range(10):
        with shared_cluster.connect() as client:
            pid = client.info.backend_pid
        wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))  # type: ignore[misc]  # noqa: PTH110
        at_first_look(installation, lambda: bool(watch.find(Signal.COUNTERS, ReasonKind.ACTIVITY)))
        watch.settle()


@pytest.mark.usefixtures("_counters")
def test_a_dropped_database_lowers_the_counters_and_is_a_use(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect() as client:
        client.execute("CREATE DATABASE doomed")
        for _ in range(5):
            shared_cluster.connect(dbname="doomed").close()
        watch.settle()
        client.execute("DROP DATABASE doomed WITH (FORCE)")
        wait_until(lambda: bool(watch.find(Signal.COUNTERS, ReasonKind.ACTIVITY)))


def test_ignored_sessions_never_count(
    installation: Installation, shared_cluster: Cluster, watch: Watch
) -> None:
    """They work, reconnect and hold locks; somebody else among them is still seen."""
    watch.settings = replace(SETTINGS, ignore=(Ignore(IgnoreField.APPLICATION_NAME, "exporter"),))
    watch.settle()
    for _ in range(5):
        with shared_cluster.connect(application_name="exporter") as exporter:
            exporter.execute("BEGIN")
            exporter.execute("SELECT pg_advisory_lock(1)")
            assert not [r for r in watch.judge().reasons if r.kind is not ReasonKind.CLOCK]
    if watch.see().counters is not None:
        shared_cluster.connect(application_name="somebody").close()
        with shared_cluster.connect(application_name="exporter"):
            at_first_look(installation, lambda: bool(active(watch.judge())))

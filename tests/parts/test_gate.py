"""The gate on real postmasters: who waits, who is served, and that a stop, a crash or an exit refuses nobody."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from pathlib import Path

import psycopg
import pytest

from harness.installations import run_as_server
from harness.postgres_fixture import wait_until
from harness.restless import ENDED, STARTUP, Restless, until_ready
from harness.visitors import Visitor, come, session


def test_who_comes_before_it_is_open_waits_and_is_served_by_postgres_itself(installation, share) -> None:
    sharer = share(installation)
    sharer.do("start")
    visitors = come(sharer)
    look = sharer.do("look")
    assert [one[1] > 0 for one in look["who"]] == [True, True, False, False]
    assert {one[2] for one in look["who"] if one[1] == 0} == {os.getuid()}
    assert sharer.do("open")["answer"]
    assert all(one.is_served for one in visitors)
    assert sharer.do("look")["parked"] == 0
    # Postgres was not even shown them: to fail to accept costs it a tenth of a second each time.
    assert "could not accept" not in sharer.log.read_text()


def test_a_postmaster_before_whose_gate_somebody_waits_sleeps(installation, share) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    sharer.do("shut")
    visitors = come(sharer)
    pid = sharer.do("look")["pid"]
    before, ours = cpu_seconds(pid), time.process_time()
    while time.process_time() - ours < 0.5:
        pass
    # One that asked again and again would have had as much as we.
    assert cpu_seconds(pid) - before < 0.1
    sharer.do("open")
    assert all(one.is_served for one in visitors)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_nobody_is_accepted_after_the_answer_to_shut(installation, share) -> None:
    sharer = share(installation)
    sharer.do("start")
    for _ in range(5):
        sharer.do("open")
        with Restless([("127.0.0.1", sharer.port), str(sharer.socket_path)], each=2) as clients:
            assert sharer.do("shut")["answer"]
            received = sharer.log.read_text().count("connection received")
            wait_until(lambda: sharer.do("look")["parked"] == 8)
            # Whoever was accepted in the last moment logs that a little later.
            assert sharer.log.read_text().count("connection received") - received <= 8
            received = sharer.log.read_text().count("connection received")
            assert sharer.do("look")["parked"] == 8
            assert sharer.log.read_text().count("connection received") == received
            sharer.do("open")
        assert clients.met.failed == []
        assert clients.met.cut == 0


def test_who_comes_while_postgres_is_not_there_is_served_by_the_next(installation, share) -> None:
    sharer = share(installation, listen="127.0.0.1")
    sharer.do("start")
    sharer.do("open")
    file = sharer.socket_path.stat()
    assert Visitor(sharer).is_served
    sharer.do("shut")
    sharer.do("stop")
    assert sharer.socket_path.stat().st_ino == file.st_ino
    visitors = come(sharer)
    sharer.do("start")
    sharer.do("open")
    assert all(one.is_served for one in visitors)
    sharer.do("kill", which="postmaster")
    visitors = come(sharer)
    sharer.do("end")
    assert sharer.socket_path.stat().st_ino == file.st_ino
    sharer.do("start")
    sharer.do("open")
    assert all(one.is_served for one in visitors)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_an_administrator_stops_it_and_newcomers_wait(installation, share, stack, how) -> None:
    """A smart shutdown (SIGTERM) refuses newcomers for as long as the session lasts, and kills nobody."""
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    open_session = session(sharer, stack)
    sharer.do("signal", number=how)
    visitors = come(sharer)
    look = sharer.do("look")
    assert f"StopSignalled(signal={int(how)}, sender={sharer.pid}, alarms=1)" in look["told"]
    assert look["ending"]
    assert not look["open"]
    open_session.close()
    sharer.do("end")
    sharer.do("start")
    sharer.do("open")
    assert all(one.is_served for one in visitors)
    assert "the database system is" not in sharer.log.read_text()


def test_pg_ctl_stop_is_such_an_administrator(installation, share) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    run_as_server(installation.program("pg_ctl"), "stop", "-D", sharer.data_dir, "-m", "fast", "-W")
    assert sharer.do("end")["answer"] == 0
    visitors = come(sharer)
    sharer.do("start")
    sharer.do("open")
    assert all(one.is_served for one in visitors)


def test_a_child_that_is_killed_shuts_it_before_anybody_is_refused(installation, share) -> None:
    sharer = share(installation)
    with Restless([("127.0.0.1", sharer.port), str(sharer.socket_path)], each=2) as clients:
        for _ in range(5):
            sharer.do("start")
            sharer.do("open")
            sharer.do("kill", which="checkpointer")
            sharer.do("end")
            assert any(one.startswith("ChildSignalled") for one in sharer.do("look")["told"])
        sharer.do("start")
        sharer.do("open")
    assert not [what for what in clients.met.kinds if what not in ENDED]
    assert "the database system is" not in sharer.log.read_text()


def test_the_end_of_a_background_worker_is_told_apart(installation, share, stack) -> None:
    """A parallel query that fails has the postmaster end its workers."""
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    connection = session(sharer, stack)
    connection.execute("DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT g FROM generate_series(1, 20000) g")
    connection.execute("ANALYZE t")
    for name in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
        connection.execute(f"SET {name} = 0")
    connection.execute("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT count(pg_sleep(0.01)) FROM t")
    sharer.do("wait", what="ChildSignalled(signal=15")
    look = sharer.do("look")
    assert not look["open"]
    assert not look["ending"]
    visitor = Visitor(sharer)
    assert sharer.do("open")["answer"]
    assert visitor.is_served


def test_an_order_to_open_is_void_after_an_alarm_that_was_not_heard(installation, share, stack) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    open_session = session(sharer, stack)
    sharer.do("shut")
    sharer.do("signal", number=signal.SIGTERM)
    wait_until(lambda: "received smart shutdown request" in sharer.log.read_text())
    assert sharer.do("open_blindly")["answer"] is False
    visitor = Visitor(sharer)
    open_session.close()
    sharer.do("end")
    sharer.do("start")
    sharer.do("open")
    assert visitor.is_served


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_whoever_was_in_a_handshake_when_it_was_about_to_leave_is_served(
    installation, share, stack, host
) -> None:
    sharer = share(installation, listen=host)
    sharer.do("start")
    sharer.do("defer")
    client = stack.enter_context(socket.create_connection((host, sharer.port), timeout=30))
    sharer.do("plug")
    client.sendall(struct.pack("!I", len(STARTUP) + 4) + STARTUP)
    wait_until(lambda: sharer.do("look")["parked"] == 1)
    sharer.do("unplug")
    sharer.do("open")
    until_ready(client)
    for _ in range(2):
        client.sendall(b"Q\0\0\0\x0dSELECT 1\0")
        until_ready(client)


def test_it_leaves_when_nobody_waits_and_takes_its_files_with_it(installation, share) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("stop")
    visitors = come(sharer)
    assert sharer.do("leave")["answer"] == "somebody"
    sharer.do("start")
    sharer.do("open")
    assert all(one.is_served for one in visitors)
    sharer.do("stop")
    assert sharer.do("leave")["answer"] == "nobody"
    assert list(sharer.socket_dir.iterdir()) == []


@pytest.mark.parametrize(("kill", "smart"), [(0.0, 0.0), (0.5, 0.2)])
@pytest.mark.heavy
def test_rounds_of_sleep_crash_and_stop_under_clients_that_never_rest(
    installation, share, kill, smart
) -> None:
    sharer = share(installation, listen="127.0.0.1,::1")
    sharer.do("start")
    sharer.do("open")
    addresses = [("127.0.0.1", sharer.port), ("::1", sharer.port), str(sharer.socket_path)]
    with Restless(addresses, each=1) as clients:
        look = sharer.do("rounds", count=20, seed=7, kill=kill, smart=smart)
    met = clients.met
    assert look["crashes"] + look["stops"] > 10
    assert met.served > 0
    assert (met.refused, met.unanswered) == (0, 0)
    assert "the database system is" not in sharer.log.read_text()
    if not kill:
        assert met.failed == []
        assert met.cut == 0
    # Postgres had accepted them, and died or was stopped before they were through.
    assert set(met.kinds) <= ENDED | {"57P01", "57P02"}
    assert len(met.failed) <= 6 * (look["crashes"] + look["stops"])

"""What pgidle cannot see or understand keeps Postgres awake: looks that fail or hang, clients that say nothing."""

from __future__ import annotations

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from harness.faults import carry_out, child, connect, notes, query, start_again, stopped, with_title
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped
from pgidle.run.observer_dialogue import FRESH

if TYPE_CHECKING:
    from harness.installations import Installation, Place

pytestmark = pytest.mark.heavy


def test_a_postmaster_that_does_not_say_that_it_lets_nobody_in_is_not_stopped(
    installation: Installation, launch
):
    one = launch(installation, idle_timeout="3s", when_idle="stay")
    one.wait_for_state("awake")
    wait_until(lambda: json.loads(one.pgidle("status", "--json").stdout)["looks"] > 0)
    with stopped(psutil.Process(one.postmaster_pid)):
        mark = one.mark()
        one.wait_for_state("drowsy")
        said = one.wait_for_state("awake", since=mark)
        assert said.data["reason"] == "Postgres does not confirm that it accepts nobody"
    assert "stopping" not in one.states
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0


def test_garbage_and_silence_on_the_port(installation: Installation, launch):
    one = launch(
        installation,
        idle_timeout="300ms",
        when_idle="stay",
        postgres=("-c", "authentication_timeout=2s"),
    )
    one.wait_for_state("awake")
    with socket.create_connection(("127.0.0.1", one.port)) as silent:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, os.urandom(512), b""):
            with socket.create_connection(("127.0.0.1", one.port)) as rude:
                rude.sendall(garbage)
        # Who says nothing may be a client whose packets are late, until Postgres itself gives it up.
        assert silent.recv(1) == b""
        assert "asleep" not in one.states
    mark = one.mark()
    one.wait_for_state("asleep")
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", one.port)) as rude:
            rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
        one.wait_for_state("awake", since=mark)
        mark = one.mark()
        one.wait_for_state("asleep", since=mark)
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0


def test_missing_rights_for_watching(installation: Installation, launch):
    one = launch(installation, start=False, idle_timeout="200ms", postgres=("-c", "log_statement=all"))
    first = launch(installation, data_dir=one.data_dir, port=one.port)
    first.wait_for_state("awake")
    carry_out(first, "CREATE ROLE blind LOGIN")
    assert first.stop() == 0
    one.env["PGIDLE_WATCH"] = f"host=127.0.0.1 port={one.port} user=blind dbname=postgres"
    start_again(one)
    line = one.wait_log("GRANT pg_monitor")
    assert 'role "blind" may not see other sessions' in line.data["reason"]
    wait_until(lambda: sum("pg_has_role(current_user" in seen.text for seen in list(one.lines)) >= 3)
    assert one.states == ["starting", "awake"]
    assert len(notes(one, "watch")) == 1
    carry_out(one, "GRANT pg_monitor TO blind")
    assert one.wait() == 0
    assert "that is over" in notes(one, "watch")[-1]


@pytest.mark.parametrize("why", ["backend stopped", "pg_authid locked", "pg_database locked"])
def test_a_look_that_hangs(newest: Installation, launch, why: str):
    one = launch(newest, idle_timeout="1s")
    one.wait_for_state("awake")
    with ExitStack() as hanging:
        if why == "backend stopped":
            wait_until(lambda: with_title(one, "[local]") != [])
            hanging.enter_context(stopped(child(one, "[local]")))
        else:
            locker = hanging.enter_context(connect(one))
            locker.execute("BEGIN")
            locker.execute(f"LOCK {why.split()[0]} IN ACCESS EXCLUSIVE MODE")
        line = one.wait_log("cannot see whether Postgres is in use, so it stays awake")
        assert "did not answer within 5 s" in line.data["reason"]
        assert one.states == ["starting", "awake"]
    assert one.wait() == 0
    assert one.states[-2:] == ["asleep", "leaving"]


def test_a_statement_that_its_backend_has_not_read_yet_keeps_postgres_awake(
    installation: Installation, launch
):
    one = launch(installation, idle_timeout="300ms", when_idle="stay")
    one.wait_for_state("awake")
    with connect(one) as connection, ThreadPoolExecutor(1) as pool:
        with stopped(psutil.Process(connection.info.backend_pid)):
            answer = pool.submit(connection.execute, "SELECT 1")
            wait_until(
                lambda: "stopping" in one.states or "has not read yet" in one.pgidle("status").stdout,
            )
            assert one.states == ["starting", "awake"]
        assert answer.result().fetchone() == (1,)
    assert one.stop() == 0


def test_a_last_look_that_the_observer_was_suspended_after_does_not_count(
    newest: Installation, place: Place
) -> None:
    with ExitStack() as stack:
        # At a Unix socket the kernel does not tell when a session was last heard of.
        one = stack.enter_context(
            Stopped(newest, place, "before Judge.conclude", when_idle="stay", idle_timeout="1s")
        )
        one.wait_for_state("awake")
        session = stack.enter_context(psycopg.connect(one.unix_conninfo(), autocommit=True))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        mark = one.mark()
        one.arm()
        one.reached()
        looked = time.monotonic()
        answer = pool.submit(session.execute, "SELECT pg_sleep(5)")
        wait_until(lambda: with_title(one, "SELECT") != [] and time.monotonic() - looked > FRESH)
        one.release()
        said = one.wait_for_state("awake", since=mark)
        assert said.data["reason"] == "the last look is too old to count"
        assert answer.result().fetchone() == ("",)
        assert "stopping" not in one.states

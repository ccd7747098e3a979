"""A shutdown that hangs or takes long: whoever comes meanwhile is served, and what it cost is said."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.faults import (
    arriving,
    carry_out,
    connect,
    held_stopping,
    last_reason,
    ledger_of,
    query,
    start_again,
    stopped,
)
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from harness.installations import Installation

pytestmark = pytest.mark.heavy


def test_a_shutdown_that_had_to_be_immediate_is_not_called_clean(installation: Installation, launch):
    one = launch(installation, stop_timeout="100ms")
    one.wait_for_state("awake")
    ledger = ledger_of(one)
    carry_out(one, "CREATE UNLOGGED TABLE cache AS SELECT 1")
    with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)):
        one.signal(signal.SIGTERM)
        one.wait_log("immediate shutdown")
        one.wait_log("received immediate shutdown request")
    assert one.wait() == 1
    assert "the next start recovers, and empties unlogged tables" in last_reason(one)
    assert one.processes() == []
    start_again(one)
    assert ledger.missing(one.conninfo()) == []
    assert query(one, "SELECT count(*) FROM cache") == 0
    with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)):
        assert one.stop(signal.SIGQUIT) == 1
    assert one.processes() == []
    start_again(one)
    assert ledger.missing(one.conninfo()) == []


def test_a_client_who_comes_while_a_shutdown_hangs_is_served(newest: Installation, launch):
    one = launch(newest, idle_timeout="200ms", stop_timeout="100ms")
    one.wait_for_state("awake")
    ledger_of(one)
    mark = one.mark()
    with held_stopping(one), arriving(one, 4) as clients:
        one.wait_for_state("awake", since=mark)
    assert clients == [20] * 4


def test_who_comes_while_a_shutdown_hangs_does_not_cost_unlogged_tables(newest: Installation, launch):
    one = launch(newest, idle_timeout="200ms", stop_timeout="100ms", when_idle="stay")
    one.wait_for_state("awake")
    carry_out(one, "CREATE UNLOGGED TABLE cache AS SELECT 1", "CREATE TABLE ledger (id int)")
    mark = one.mark()
    with held_stopping(one) as backend, ThreadPoolExecutor() as pool:
        waiting = pool.submit(query, one, "SELECT count(*) FROM cache")

        def has_waited() -> bool:
            status = json.loads(one.pgidle("status", "--json").stdout)
            return status["state"] == "stopping" and status["parked"] == 1 and status["seconds_in_state"] > 1

        wait_until(has_waited)
        backend.resume()
        # Once the checkpoint is written, an immediate shutdown may follow: it costs nothing then.
        assert waiting.result() == 1
    one.wait_for_state("asleep", since=mark)


@pytest.mark.parametrize("asked", [False, True], ids=["asleep", "stopped"])
def test_a_shutdown_that_only_the_archiver_delays_is_clean(installation: Installation, launch, asked: bool):
    """The checkpoint is written: an immediate shutdown costs nothing then but time until WAL is archived."""
    one = launch(
        installation,
        idle_timeout="off",
        stop_timeout="3s",
        when_idle="stay",
        postgres=("-c", "archive_mode=on", "-c", "archive_command=sleep 1000"),
    )
    one.wait_for_state("awake")
    carry_out(
        one, "CREATE UNLOGGED TABLE cache AS SELECT 1", "CREATE TABLE t (a int)", "SELECT pg_switch_wal()"
    )
    if asked:
        assert one.stop() == 0
    else:
        mark = one.mark()
        # Refused while the session before is on its way out.
        wait_until(lambda: one.pgidle("sleep").returncode == 0)
        one.wait_for_state("stopping", since=mark)
        assert query(one, "SELECT count(*) FROM cache") == 1
        one.wait_for_state("asleep", since=mark)
    one.wait_log("immediate shutdown")
    one.wait_log(r"\d WAL segments? not archived yet; archiving resumes at the next start")
    assert not any("empties unlogged tables" in line.text for line in one.lines)
    if not asked:
        assert one.stop() == 0
    one.postgres = ()
    start_again(one)
    assert query(one, "SELECT count(*) FROM cache") == 1
    assert one.stop() == 0


def test_who_asks_for_a_wake_while_it_goes_to_sleep_gets_one(newest: Installation, launch):
    one = launch(newest, idle_timeout="off", when_idle="stay")
    one.wait_for_state("awake")
    with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)):
        mark = one.mark()
        assert one.pgidle("sleep", "--force").returncode == 0
        one.wait_for_state("stopping", since=mark)
        assert one.pgidle("wake").returncode == 0
    one.wait_for_state("asleep", since=mark)
    one.wait_for_state("awake", since=mark)
    assert one.stop() == 0

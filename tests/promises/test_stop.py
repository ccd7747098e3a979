"""A stop that somebody asks for while clients come and go: Postgres accepts those who have begun to connect."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from harness.faults import query, stopped
from harness.postgres_fixture import wait_until
from harness.restless import Restless
from harness.supervised import PATIENCE

if TYPE_CHECKING:
    from harness.installations import Installation, Place
    from harness.supervised import Launch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_postgres_accepts_nobody_in_vain(installation: Installation, launch: Launch, number: int) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    path = one.socket_dir / f".s.PGSQL.{one.port}"
    with Restless([("127.0.0.1", one.port), str(path)], each=4, rest=0.01):
        deadline = time.monotonic() + 60
        while query(one, "SELECT sum(sessions) FROM pg_stat_database") < 100:
            assert time.monotonic() < deadline
        one.signal(number)
        assert one.wait() == 0
    assert not [line for line in one.lines if "could not accept" in line.text]
    assert not path.exists()
    assert not path.with_name(f"{path.name}.lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_waits_is_accepted_where_the_unix_socket_cannot_be_removed(
    installation: Installation, launch: Launch, place: Place
) -> None:
    folder = place.folder("closed later")
    one = launch(
        installation, when_idle="stay", idle_timeout="off", stop_timeout="30s", socket_dir=str(folder)
    )
    one.wait_for_state("awake")
    os.chown(folder, 0, 0)
    folder.chmod(0o755)
    with ThreadPoolExecutor(1) as pool:
        with stopped(psutil.Process(one.postmaster_pid)):
            connecting = pool.submit(psycopg.connect, one.conninfo())
            wait_until(lambda: one.parked() == 1)
            one.signal(signal.SIGTERM)
            one.wait_for_state("terminating")
            assert one.pgidle("health").returncode == 0  # By its answer the stop has begun.
        connecting.result(PATIENCE).close()
    assert one.wait() == 0

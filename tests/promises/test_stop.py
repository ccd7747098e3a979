"""A stop that somebody asks for while clients come and go: Postgres accepts those who have begun to connect."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from harness.faults import query
from harness.restless import Restless

if TYPE_CHECKING:
    from harness.installations import Installation
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

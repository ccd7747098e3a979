"""Crashes and stops from outside, again and again, under clients that never rest: whoever had no session only waits.

CI plays some twenty. More, with counts: `CRASHES=1000 CRASH_SEED=… scripts/test tests/promises/test_crashes.py -s`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from harness.faults import connect, query
from harness.restless import ENDED, Restless

if TYPE_CHECKING:
    from harness.installations import Installation
    from harness.supervised import Supervised

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(7200)]

CRASHES = int(os.environ.get("CRASHES", "20"))
LONGEST = 0.4
"""Seconds at most between readiness and the next crash."""


def kill_backend(one: Supervised, _pid: int) -> None:
    with contextlib.suppress(psycopg.Error), connect(one) as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)


def kill_checkpointer(_one: Supervised, pid: int) -> None:
    for process in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):
            if "checkpointer" in " ".join(process.cmdline()):
                process.kill()


def send(number: signal.Signals) -> object:
    def play(_one: Supervised, pid: int) -> None:
        os.kill(pid, number)

    return play


KINDS = {
    "a backend is killed": kill_backend,
    "the checkpointer is killed": kill_checkpointer,
    "the postmaster is killed": send(signal.SIGKILL),
    "pg_ctl stop -m fast": send(signal.SIGINT),
    "pg_ctl stop -m immediate": send(signal.SIGQUIT),
    "pg_ctl stop -m smart": send(signal.SIGTERM),
}


def test_nobody_without_a_session_notices(installation: Installation, launch):
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    dice = random.Random(seed)
    one = launch(installation, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    query(one, "SELECT 1")
    places = [("127.0.0.1", one.port), str(one.socket_dir / f".s.PGSQL.{one.port}")]
    played: Counter[str] = Counter()
    began = time.monotonic()
    with Restless(places, each=4, rest=0.06) as clients:
        while played.total() < CRASHES:
            time.sleep(dice.uniform(0, LONGEST))
            kind = dice.choice(list(KINDS))
            mark, pid = one.mark(), one.postmaster_pid
            if pid is None:
                continue
            KINDS[kind](one, pid)  # type: ignore[operator]
            one.wait_for_state("starting", since=mark)
            one.wait_for_state("awake", since=mark)
            played[kind] += 1
    took = time.monotonic() - began
    met = clients.met
    # Nothing closes the listeners, so only a connection that Postgres had accepted can end: with its process.
    told = (
        f"seed {seed}, PostgreSQL {installation.major}: {dict(played)} in {took:.0f} s; {met.served} served "
        f"({met.served / took:.0f} a second), {met.cut} cut, {met.refused} refused, {met.unanswered} unanswered, "
        f"accepted and ended with their process before they had a session: {met.kinds}"
    )
    print(told)  # noqa: T201
    assert (met.refused, met.unanswered) == (0, 0), told
    assert met.kinds.keys() <= ENDED | {"57P01", "57P02"}, told
    assert len(met.failed) <= 4 * CRASHES, told
    assert met.served > 20 * CRASHES, told
    assert one.running
    assert one.stop() == 0
    assert not any("Traceback" in line.text for line in one.lines)

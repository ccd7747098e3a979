"""Told to stop in every state, or by many signals at once: it ends in good order, and the exit status says how."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from harness.faults import (
    TRUST,
    child,
    connect,
    held_stopping,
    last_reason,
    ledger_of,
    query,
    recovering,
    start_again,
    stopped,
    with_title,
)
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Supervised

pytestmark = pytest.mark.heavy


def test_stopped_while_it_initialises(installation: Installation, place: Place, launch):
    data_dir = place.folder() / "data"
    one = launch(installation, data_dir=data_dir, env=TRUST)
    wait_until((data_dir / "pgidle/initdb/data/base").exists)
    assert one.stop() == 0
    assert [path.name for path in data_dir.iterdir()] == ["pgidle"]
    assert not (data_dir / "pgidle/initdb").exists()
    assert one.processes() == []
    start_again(one)
    assert query(one, "SELECT 1") == 1


def is_pending(number: signal.Signals, process: psutil.Process) -> bool:
    """Whether a signal waits for a process, as proc_pid_status(5) tells of one that is stopped."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return any(
        int(line.split()[1], 16) >> (number - 1) & 1
        for line in status.splitlines()
        if line.startswith(("SigPnd:", "ShdPnd:"))
    )


@pytest.mark.parametrize("hears", [True, False], ids=["in good order", "at once"])
def test_stopped_while_it_recovers(installation: Installation, launch, hears: bool):
    one = launch(installation, stop_timeout="10s" if hears else "100ms")
    one.wait_for_state("awake")
    ledger = ledger_of(one)
    with recovering(one) as startup:
        one.signal(signal.SIGTERM)
        one.wait_for_state("terminating")
        if not hears:
            one.wait_log("immediate shutdown")
            wait_until(lambda: is_pending(signal.SIGQUIT, startup))
    assert one.wait() == (0 if hears else 1)
    assert one.processes() == []
    start_again(one)
    assert ledger.missing(one.conninfo()) == []


def test_stopped_while_drowsy(newest: Installation, launch):
    one = launch(newest, idle_timeout="500ms")
    one.wait_for_state("awake")
    with held_drowsy(one):
        assert one.stop() == 0
    assert one.processes() == []
    assert one.states[-2:] == ["drowsy", "terminating"]


@contextmanager
def held_drowsy(one: Supervised) -> Iterator[None]:
    """Drowsy, as the last look waits for a lock: five seconds at most."""
    with contextlib.suppress(psycopg.OperationalError), connect(one) as locker:
        with stopped(child(one, "checkpointer")):
            wait_until(lambda: with_title(one, "CHECKPOINT") != [])
            locker.execute("BEGIN")
            locker.execute("LOCK pg_authid IN ACCESS EXCLUSIVE MODE")
        one.wait_for_state("drowsy")
        yield


def test_stopped_while_stopping(newest: Installation, launch):
    one = launch(newest, idle_timeout="200ms")
    one.wait_for_state("awake")
    with held_stopping(one) as backend:
        one.signal(signal.SIGTERM)
        one.wait_for_state("terminating")
        backend.resume()
        assert one.wait() == 0
    assert one.processes() == []


def test_who_asks_when_it_has_failed_is_told(newest: Installation, place: Place):
    with Stopped(newest, place, "after EXIT_FAILED", when_idle="stay", idle_timeout="off") as one:
        one.wait_for_state("awake")
        assert one.pgidle("health").returncode == 0
        one.arm()
        # Else the fast shutdown that comes first may be quicker.
        with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)):
            one.signal(signal.SIGQUIT)
            one.reached()
        with ExitStack() as asking:
            answers = []
            for path in ("/health", "/status"):
                client = asking.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(one.data_dir / "pgidle/control.sock"))
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answers.append(asking.enter_context(client.makefile("rb")))
            one.release()
            for answer, status in zip(answers, (b"503", b"200"), strict=True):
                said = answer.read()
                assert said.split()[1] == status
                assert json.loads(said.partition(b"\r\n\r\n")[2])["state"] == "failed"
        assert one.wait() == 1


def test_sigquit_again_and_again_is_no_sigkill(installation: Installation, launch):
    one = launch(installation)
    one.wait_for_state("awake")
    while one.running:
        one.signal(signal.SIGQUIT)
    # 0: the fast shutdown that comes first was quicker.
    assert one.wait() in (0, 1)
    assert "SIGKILL" not in last_reason(one)
    assert one.processes() == []


def test_stopped_while_asleep(newest: Installation, launch):
    one = launch(newest, idle_timeout="200ms", when_idle="stay")
    one.wait_for_state("asleep")
    assert one.stop() == 0
    assert one.states[-1] == "terminating"


def test_asked_to_wake_at_the_very_end_of_a_stop(newest: Installation, launch):
    one = launch(newest, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    postmaster = psutil.Process(one.postmaster_pid)
    with ExitStack() as ending, socket.socket(socket.AF_UNIX) as client:
        connection = ending.enter_context(connect(one))
        backend = psutil.Process(connection.info.backend_pid)
        with stopped(backend):
            one.signal(signal.SIGTERM)
            # Postgres has been told to stop.
            wait_until(lambda: with_title(one, "autovacuum launcher") == [])
            ending.enter_context(stopped(psutil.Process(one.pid)))
        # Its exit is to be noticed first, and the order with it.
        wait_until(lambda: postmaster.status() == psutil.STATUS_ZOMBIE)
        client.connect(str(one.data_dir / "pgidle/control.sock"))
        client.sendall(b"POST /wake HTTP/1.1\r\nHost: x\r\n\r\n")
        ending.close()
        assert one.wait() == 0
    assert one.processes() == []


def test_many_signals_at_once(installation: Installation, launch):
    one = launch(installation)
    one.wait_for_state("awake")
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT) * 30:
        one.signal(number)
    assert one.wait() == 0
    assert one.processes() == []
    assert not (one.data_dir / "postmaster.pid").exists()


def test_signals_from_the_first_moment_on(installation: Installation, launch):
    one = launch(installation, start=False)
    for late in range(12):
        mark = one.mark()
        one.start()
        # Hardly begun, then later and later: the interpreter, the gate, Postgres's own first steps.
        if late:
            one.wait_log("starting", since=mark)
            time.sleep(0.004 * late)
        for _ in range(3):
            one.signal(signal.SIGHUP)
        status = one.stop()
        # Before its first line Python itself is ended by a signal.
        assert status == 0 or (late == 0 and status == -signal.SIGHUP)
        assert one.processes() == []
        assert not any("SIGHUP" in line.data.get("reason", "") for line in one.lines if "state" in line.data)

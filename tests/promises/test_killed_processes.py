"""Postmaster, backend or supervisor killed with -9: clients wait, no commit is lost, no process is left over."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from harness.faults import (
    arriving,
    connect,
    last_reason,
    ledger_of,
    notes,
    query,
    recovering,
    start_again,
    stopped,
    without_shim,
)
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Supervised

pytestmark = pytest.mark.heavy


def lives(process: psutil.Process) -> bool:
    """Whether it has not exited; who adopts orphans may be slow to reap them."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reads_configuration(postmaster: psutil.Process) -> bool:
    """Whether it waits in the middle of that, for a pipe that is included."""
    names = {Path(file.path).name for file in postmaster.open_files()}
    return "postgresql.conf" in names and postmaster.status() == psutil.STATUS_SLEEPING


STARTUP = b"user\0postgres\0database\0postgres\0\0"


@contextmanager
def knocking(one: Supervised) -> Iterator[list[bytes]]:
    """A new client every other millisecond; the first byte that each was sent: R, or E for an error."""
    sockets: list[socket.socket] = []
    answers: list[bytes] = []
    enough = threading.Event()

    def knock() -> None:
        while not enough.wait(0.002):
            sockets.append(socket.create_connection(("127.0.0.1", one.port)))
            sockets[-1].sendall(struct.pack("!II", len(STARTUP) + 8, 3 << 16) + STARTUP)

    with ThreadPoolExecutor() as pool:
        pool.submit(knock)
        try:
            yield answers
        finally:
            enough.set()
    for client in sockets:
        with client:
            client.settimeout(30)
            answers.append(client.recv(1))


def test_clients_wait_while_a_killed_postmaster_recovers(installation: Installation, launch):
    one = launch(installation)
    one.wait_for_state("awake")
    ledger = ledger_of(one)
    postmaster = psutil.Process(one.postmaster_pid)
    # Who is in its queue has not been accepted: nobody's backend is killed.
    postmaster.suspend()
    mark = one.mark()
    with arriving(one, 8) as early:
        wait_until(lambda: one.parked() == 8)
        postmaster.kill()
        with arriving(one, 8) as late:
            one.wait_for_state("starting", since=mark)
    assert early + late == [20] * 16
    assert ledger.missing(one.conninfo()) == []
    assert one.wait_log("the postmaster was ended by SIGKILL", since=mark)
    assert one.stop() == 0


def test_clients_wait_while_one_without_hot_standby_recovers(installation: Installation, launch):
    """From 15 on postmaster.pid says `standby` as soon as such a one has begun to recover, from a crash too."""
    one = launch(installation, start=False)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write("hot_standby = off\n")
    one.start()
    one.wait_for_state("awake")
    mark = one.mark()
    with recovering(one) as startup:
        startup.resume()
        got = [query(one, "SELECT count(*) FROM much") for _ in range(20)]
    assert got == [60000] * 20
    one.wait_for_state("awake", since=mark)
    assert one.stop() == 0


def test_clients_wait_while_a_killed_backend_takes_postgres_down(installation: Installation, launch):
    one = launch(installation)
    one.wait_for_state("awake")
    ledger = ledger_of(one)
    mark, postmaster = one.mark(), one.postmaster_pid
    # A backend that does not hear its end makes Postgres's last long: five seconds of refusing everybody. Here longer.
    with connect(one) as deaf, connect(one) as victim, stopped(psutil.Process(deaf.info.backend_pid)):
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        one.wait_for_state("starting", since=mark)
        with stopped(psutil.Process(postmaster)), contextlib.ExitStack() as waiting:
            clients = waiting.enter_context(arriving(one, 8))
            wait_until(lambda: one.parked() == 8)
            assert one.postmaster_pid == postmaster
            psutil.Process(postmaster).resume()
    assert clients == [20] * 8
    assert ledger.missing(one.conninfo()) == []
    assert one.stop() == 0


def test_a_backend_that_outlives_its_postmaster_is_ended(installation: Installation, place: Place, launch):
    one = launch(installation, start=False)
    # A link in the path: the kernel knows the processes by the folder behind it.
    link = place.folder() / "link"
    link.symlink_to(one.data_dir)
    one.options["data-dir"] = str(link)
    start_again(one)
    ledger = ledger_of(one)
    mark = one.mark()
    with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)):
        os.kill(one.postmaster_pid, signal.SIGKILL)
        one.wait_for_state("awake", since=mark)
    assert ledger.missing(one.conninfo()) == []
    assert any("of an earlier postmaster to exit" in note for note in notes(one, "start"))
    assert one.stop() == 0


def test_a_postmaster_that_is_killed_again_and_again(newest: Installation, launch):
    one = launch(newest, idle_timeout="off")
    mark = 0
    for _ in range(5):
        one.wait_for_state("awake", since=mark)
        mark = one.mark()
        os.kill(one.postmaster_pid, signal.SIGKILL)
    assert one.wait() == 1
    assert one.states.count("awake") == 5
    assert "failed too often" in last_reason(one)
    assert one.processes() == []


@pytest.mark.parametrize("shim", [True, False], ids=["shared", "none"])
def test_a_killed_supervisor_takes_postgres_with_it(
    installation: Installation, place: Place, launch, shim: bool
):
    one = launch(installation, env={} if shim else without_shim(place))
    mode = one.wait_for_state("starting").data["gate"]
    assert (mode == "none") != shim
    one.wait_for_state("awake")
    ledger = ledger_of(one)
    with connect(one) as connection:
        one.kill()
        with pytest.raises(psycopg.errors.AdminShutdown):  # noqa: PT012
            for _ in range(1000):
                connection.execute("SELECT pg_sleep(0.1)")
    wait_until(lambda: one.processes() == [])
    assert not (one.data_dir / "postmaster.pid").exists()
    start_again(one)
    assert ledger.missing(one.conninfo()) == []
    assert one.stop() == 0


@pytest.mark.parametrize("shim", [True, False], ids=["shared", "none"])
def test_a_successor_waits_for_the_postmaster_of_a_killed_supervisor(
    installation: Installation, place: Place, launch, shim: bool
):
    one = launch(installation, env={} if shim else without_shim(place))
    one.wait_for_state("awake")
    ledger = ledger_of(one)
    old = psutil.Process(one.postmaster_pid)
    with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)) as backend:
        one.kill()
        mark = one.mark()
        one.start()
        one.wait_log(f"waiting for postmaster {old.pid} of an earlier supervisor to end", since=mark)
        assert one.postmaster_pid == old.pid
        backend.resume()
        one.wait_for_state("awake", since=mark)
    assert not lives(old)
    assert ledger.missing(one.conninfo()) == []
    assert one.stop() == 0


def test_a_postmaster_of_a_killed_supervisor_that_ends_while_its_successor_begins(
    newest: Installation, place: Place
):
    """Seen alive when the gate is made, and gone when the next one is spawned: which then must not be taken for it."""
    one = Stopped(newest, place, "before early.spawn", idle_timeout="off")
    with one:
        one.wait_for_state("awake")
        ledger_of(one)
        with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)):
            one.kill()
            one.arm()
            mark = one.mark()
            one.start()
            one.reached()
        wait_until(lambda: one.processes() == [])
        with knocking(one) as answers:
            one.release()
            one.wait_for_state("awake", since=mark)
        assert set(answers) == {b"R"}
        assert len(answers) >= 5
        assert one.stop() == 0


def test_a_postmaster_whose_supervisor_was_killed_before_it_had_written_it_down(
    newest: Installation, place: Place
):
    with Stopped(newest, place, "before StateDir.remember", idle_timeout="off") as one:
        one.wait_for_state("awake")
        assert one.stop() == 0
        one.arm()
        one.start()
        one.reached()
        (old,) = psutil.Process(one.pid).children()
        one.wait_log("ready to accept connections", since=one.lines.index(one.wait_log("is shut down")))
        # The kernel lets a stopped postmaster go on as its parent dies (orphaned process group): a backend stops.
        host = (one.data_dir / "postmaster.pid").read_text().split("\n")[4]
        with (
            psycopg.connect(one.conninfo(host=host)) as connection,
            stopped(psutil.Process(connection.info.backend_pid)),
        ):
            one.kill()
            one.release()
            mark = one.mark()
            one.start()
            one.wait_log(f"waiting for postmaster {old.pid} of an earlier supervisor to end", since=mark)
        one.wait_for_state("awake", since=mark)
        assert not lives(old)
        assert one.stop() == 0


def test_a_postmaster_of_a_killed_supervisor_that_has_not_locked_its_directory_yet(
    newest: Installation, launch
):
    """As from a slow disk: told to stop it reads its configuration first, and has the port all the time."""
    one = launch(newest, start=False, idle_timeout="off")
    slow = one.data_dir / "slow.conf"
    os.mkfifo(slow)
    slow.chmod(0o644)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write("include = 'slow.conf'\n")
    one.start()
    one.wait_for_state("starting")
    (old,) = psutil.Process(one.pid).children()
    wait_until(partial(reads_configuration, old))
    one.kill()
    mark = one.mark()
    one.start()
    one.wait_log(f"waiting for postmaster {old.pid} of an earlier supervisor to end", since=mark)
    pipe = slow.rename(one.data_dir / "pipe")
    slow.touch(mode=0o644)
    pipe.open("w").close()
    one.wait_for_state("awake", since=mark)
    assert not lives(old)
    assert one.stop() == 0


def test_a_successor_that_is_stopped_waits_as_well(newest: Installation, launch):
    one = launch(newest)
    one.wait_for_state("awake")
    old = psutil.Process(one.postmaster_pid)
    with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)):
        one.kill()
        mark = one.mark()
        one.start()
        one.wait_log("waiting for postmaster", since=mark)
        one.signal(signal.SIGTERM)
        assert one.running
        assert lives(old)
    assert one.wait() == 0
    assert not lives(old)
    assert one.processes() == []


def test_a_successor_ends_a_postmaster_that_does_not_stop(newest: Installation, launch):
    one = launch(newest, stop_timeout="100ms")
    one.wait_for_state("awake")
    ledger = ledger_of(one)
    with connect(one) as connection, stopped(psutil.Process(connection.info.backend_pid)):
        one.kill()
        start_again(one)
    assert ledger.missing(one.conninfo()) == []

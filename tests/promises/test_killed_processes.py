"""What goes wrong while it runs: processes killed and stopped, signals in every state, clients that are none."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from harness.clients import Ledger
from harness.faults import (
    carry_out,
    child,
    connect,
    last_reason,
    notes,
    query,
    start_again,
    with_title,
    without_shim,
)
from harness.installations import server_user
from harness.namespaces import UNPRIVILEGED
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped
from pgidle.observer.port_connections import scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Supervised

pytestmark = pytest.mark.heavy

TRUST = {"POSTGRES_HOST_AUTH_METHOD": "trust", "POSTGRES_INITDB_ARGS": "--no-sync"}


@contextmanager
def stopped(process: psutil.Process) -> Iterator[psutil.Process]:
    """Held with SIGSTOP inside the block."""
    process.suspend()
    try:
        yield process
    finally:
        if process.is_running():
            process.resume()


@contextmanager
def arriving(one: Supervised, count: int) -> Iterator[list[object]]:
    """Clients who connect at once and ask one thing each; what they got is there when the block has ended."""
    got: list[object] = []
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(query, one, "SELECT count(*) FROM ledger") for _ in range(count)]
        yield got
        got += [future.exception() or future.result() for future in asked]


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


def queued(one: Supervised) -> int:
    """How many connections wait in the accept queues of the port, the gate's or Postgres's."""
    return sum(queue.length for queue in scan(one.port).listeners)


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


def ledger_of(one: Supervised, rows: int = 20) -> Ledger:
    ledger = Ledger()
    ledger.create(one.conninfo())
    with connect(one) as connection:
        for _ in range(rows):
            row = ledger.send(0)
            connection.execute("INSERT INTO ledger VALUES (%s, %s)", row)
            ledger.acknowledge(row)
    return ledger


# Killed with -9


def test_clients_wait_while_a_killed_postmaster_recovers(installation: Installation, launch):
    one = launch(installation)
    one.wait_for_state("awake")
    ledger = ledger_of(one)
    postmaster = psutil.Process(one.postmaster_pid)
    # Who is in its queue has not been accepted: nobody's backend is killed.
    postmaster.suspend()
    mark = one.mark()
    with arriving(one, 8) as early:
        wait_until(lambda: queued(one) == 8)
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
            wait_until(lambda: queued(one) == 8)
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
    assert any("of an earlier postmaster to end" in note for note in notes(one, "start"))
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
    assert "once too often" in last_reason(one)
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


# Signals in every state


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


@contextmanager
def recovering(one: Supervised) -> Iterator[psutil.Process]:
    """In crash recovery, until the end of the block: the startup process, which is stopped."""
    mark = one.mark()
    startup: list[psutil.Process] = []

    def is_held() -> bool:
        # By /proc alone: it is there for some milliseconds.
        try:
            pid = int((one.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if "startup" in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(int(child), signal.SIGSTOP)
                    startup.append(psutil.Process(int(child)))
        except (OSError, ValueError):
            return False
        return bool(startup)

    carry_out(one, "CREATE TABLE much AS SELECT repeat('x', 500) FROM generate_series(1, 60000)")
    os.kill(one.postmaster_pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not is_held():
        assert time.monotonic() < deadline
    with stopped(startup[0]):
        assert "awake" not in [line.data.get("state") for line in one.lines[mark:]]
        yield startup[0]


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


@contextmanager
def held_stopping(one: Supervised) -> Iterator[psutil.Process]:
    """Stopping, as a backend does not hear that it is to end."""
    with connect(one) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        with stopped(backend):
            one.wait_for_state("stopping")
            yield backend


def test_stopped_while_stopping(newest: Installation, launch):
    one = launch(newest, idle_timeout="200ms")
    one.wait_for_state("awake")
    with held_stopping(one) as backend:
        one.signal(signal.SIGTERM)
        one.wait_for_state("terminating")
        backend.resume()
        assert one.wait() == 0
    assert one.processes() == []


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
    one.wait_log(r"WAL that is not archived yet: \d segments?; the next start goes on with it")
    assert not any("empties unlogged tables" in line.text for line in one.lines)
    if not asked:
        assert one.stop() == 0
    one.postgres = ()
    start_again(one)
    assert query(one, "SELECT count(*) FROM cache") == 1
    assert one.stop() == 0


def test_stopped_while_asleep(newest: Installation, launch):
    one = launch(newest, idle_timeout="200ms", when_idle="stay")
    one.wait_for_state("asleep")
    assert one.stop() == 0
    assert one.states[-1] == "terminating"


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


# Clients that are none


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


# Watching


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
        line = one.wait_log("cannot see whether Postgres is used, so it stays awake")
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


# Configuration


def test_configuration_that_is_edited_while_it_runs(newest: Installation, place: Place, launch):
    config = place.folder() / "pgidle.toml"
    config.write_text('idle-timeout = "off"')
    one = launch(newest, config=str(config), idle_timeout=None, when_idle="stay")
    one.wait_for_state("awake")
    carry_out(one, "SELECT 1")

    # Written again until it is seen, as nothing tells when files begin to be watched.
    wait_until(lambda: config.write_text('idle-timeout = "now"') and notes(one, "settings") != [])
    line = one.wait_log("the settings stay as they were")
    assert f"{config}: idle-timeout: 'now' is not a duration: write" in line.data["reason"]

    mark = one.mark()
    hba = one.data_dir / "pg_hba.conf"
    hba.write_text("local all all trust\nhost all nobody 127.0.0.1/32 reject\n" + hba.read_text())
    one.wait_log("pg_hba.conf has changed: Postgres is told to reload", since=mark)
    one.wait_log("received SIGHUP, reloading configuration files", since=mark)
    with pytest.raises(psycopg.OperationalError, match="rejects"):
        psycopg.connect(one.conninfo(user="nobody"))

    mark = one.mark()
    one.signal(signal.SIGHUP)
    one.wait_log("received SIGHUP, reloading configuration files", since=mark)
    assert one.states == ["starting", "awake"]

    mark = one.mark()
    config.write_text('idle-timeout = "300ms"')
    one.wait_for_state("asleep", since=mark)
    assert any("that is over" in note for note in notes(one, "settings"))
    assert one.stop() == 0


def test_sighup_reads_the_settings_too(newest: Installation, place: Place, launch):
    """At once, also where the file's folder cannot be watched."""
    if os.getuid() != 0:
        pytest.skip("needs root, for a folder that the user of Postgres cannot list")
    folder = place.folder()
    config = folder / "pgidle.toml"
    config.write_text('idle-timeout = "off"')
    os.chown(folder, 0, 0)
    folder.chmod(0o711)
    one = launch(newest, config=str(config), idle_timeout=None, when_idle="stay")
    one.wait_for_state("awake")
    config.write_text('idle-timeout = "200ms"')
    one.signal(signal.SIGHUP)
    one.wait_for_state("asleep")
    # What holds, and not what a new start would take.
    config.write_text('idle-timeout = "off"')
    assert json.loads(one.pgidle("status", "--json").stdout)["settings"]["idle-timeout"] == "200ms"
    assert one.stop() == 0


def test_who_waits_and_is_no_longer_named_in_no_wake_wakes(newest: Installation, place: Place, launch):
    config = place.folder() / "pgidle.toml"
    config.write_text('no-wake = ["127.0.0.1"]')
    one = launch(newest, config=str(config), idle_timeout="200ms", when_idle="stay")
    one.wait_for_state("asleep")
    with ThreadPoolExecutor() as clients:
        visit = clients.submit(query, one, "SELECT 1")
        wait_until(lambda: queued(one) == 1)
        config.write_text("")
        one.signal(signal.SIGHUP)
        assert visit.result()
    assert one.stop() == 0


def test_who_is_to_exit_when_idle_from_now_on_does_so_from_its_sleep(
    newest: Installation, place: Place, launch
):
    config = place.folder() / "pgidle.toml"
    config.write_text('when-idle = "stay"')
    one = launch(newest, config=str(config), idle_timeout="200ms", when_idle=None)
    one.wait_for_state("asleep")
    config.write_text('when-idle = "exit"')
    one.signal(signal.SIGHUP)
    assert one.wait() == 0


def test_a_shorter_idle_timeout_shortens_what_flapping_adds_to_it(newest: Installation, place: Place, launch):
    config = place.folder() / "pgidle.toml"
    config.write_text('idle-timeout = "10min"')
    one = launch(newest, start=False, config=str(config), idle_timeout=None)
    (one.data_dir / "pgidle").mkdir()
    sleep = {"asleep_at": 1.0, "woken_at": 2.0, "cut": ["pool"], "woken_by": "pool"}
    (one.data_dir / "pgidle/last.json").write_text(json.dumps({"why": "", "at": 1.0, "sleeps": [sleep]}))
    if os.getuid() == 0:
        shutil.chown(one.data_dir / "pgidle", server_user().pw_name)
    start_again(one)
    one.wait_log("waiting 600 s longer")
    config.write_text('idle-timeout = "200ms"')
    one.signal(signal.SIGHUP)
    assert one.wait() == 0


# Where inotify is used up

NO_INOTIFY = (
    *("unshare", "--user", "--map-current-user", "--keep-caps"),
    *("sh", "-c", 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"', "sh"),
)


def test_who_can_watch_no_files_looks_and_sleeps_all_the_same(newest: Installation, launch):
    prefix = (*(UNPRIVILEGED.format(server_user()).split() if os.geteuid() == 0 else ()), *NO_INOTIFY)
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, for a user who has no inotify left")
    one = launch(newest, idle_timeout="200ms", when_idle="exit", prefix=prefix)
    assert one.wait() == 0
    assert "asleep" in one.states


# Without the library


def test_none_says_so_and_works_as_bare_postgres_does(installation: Installation, place: Place, launch):
    one = launch(installation, when_idle="stay", idle_timeout="300ms", env=without_shim(place))
    assert one.wait_for_state("starting").data["gate"] == "none"
    assert any("mode none: the preloaded library was not compiled" in note for note in notes(one, "gate"))
    for _ in range(2):
        mark = one.mark()
        one.wait_for_state("asleep", since=mark)
        wait_until(lambda: knocked(one))
        one.wait_for_state("awake", since=mark)
        assert query(one, "SELECT 1") == 1
    assert one.stop() == 0


def knocked(one: Supervised) -> bool:
    """Whether somebody who connected was noticed, though perhaps not served."""
    try:
        return bool(query(one, "SELECT 1"))
    except psycopg.OperationalError:
        return False


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

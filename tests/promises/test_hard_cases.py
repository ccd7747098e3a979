"""What an adversary found once: each of these broke a promise."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGRTMIN, SIGTERM
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

import pgidle
from harness.installations import as_server, conninfo, free_port
from harness.postgres_fixture import wait_until
from pgidle.observer.port_connections import scan
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Launch, Supervised

STAY = {"when_idle": "stay", "idle_timeout": "off"}


def serves(one: Supervised) -> bool:
    with psycopg.connect(one.conninfo(connect_timeout=20)) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a process namespace")
def test_the_first_process_of_a_container_stays_and_wakes(newest: Installation, launch: Launch) -> None:
    one = launch(
        newest,
        when_idle="stay",
        idle_timeout="500ms",
        prefix=("unshare", "--pid", "--fork", "--mount-proc"),
    )
    try:
        for _ in range(2):
            mark = one.mark()
            one.wait_for_state("asleep", since=mark)
            assert serves(one)
    finally:
        # unshare passes no signal on.
        for inner in psutil.Process(one.pid).children():
            inner.terminate()
    assert one.wait() == 0


def test_a_server_that_somebody_else_started_meanwhile_is_left_alone(
    installation: Installation, launch: Launch
) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="500ms")
    mark = one.mark()
    one.wait_for_state("asleep")
    other = free_port()
    command = [installation.program("postgres"), "-D", str(one.data_dir), "-p", str(other)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/", **as_server()) as theirs:
        try:
            where = conninfo(other)
            while True:
                with contextlib.suppress(psycopg.OperationalError):
                    client = psycopg.connect(where)
                    break
                assert theirs.poll() is None
            with client:
                one.pgidle("wake")
                one.wait_log(f"another server .pid {theirs.pid}. is running")
                assert client.execute("SELECT 1").fetchone() == (1,)
                mark = one.mark()
            client.close()
        finally:
            theirs.terminate()
    one.wait_for_state("awake", since=mark)
    assert serves(one)


def test_a_background_writer_that_is_told_to_exit_is_no_end_of_postgres(
    installation: Installation, launch: Launch
) -> None:
    one = launch(installation, **STAY)
    one.wait_for_state("awake")
    postmaster = one.postmaster_pid
    mark = one.mark()
    ended: set[int] = set()
    while len(ended) < 3:
        for process in one.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in ended and "background writer" in " ".join(process.cmdline()):
                    process.terminate()
                    ended.add(process.pid)
    assert serves(one)
    assert one.postmaster_pid == postmaster
    assert [line.data["state"] for line in one.lines[mark:] if "state" in line.data] == []
    assert one.stop() == 0


def test_silent_clients_do_not_hold_up_a_stop(installation: Installation, launch: Launch) -> None:
    one = launch(installation, **STAY)
    one.wait_for_state("awake")
    one.wait_log("ready to accept")
    with contextlib.ExitStack() as silent:
        for number in range(150):
            if number == 75:
                one.signal(SIGTERM)
            late = silent.enter_context(socket.socket())
            late.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                late.connect(("127.0.0.1", one.port))
        assert one.wait(timeout=20) == 0


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_that_start_at_once_on_one_port_one_is_refused(
    newest: Installation, launch: Launch, attempt: int
) -> None:
    port = free_port()
    both = [launch(newest, start=False, port=port, **STAY) for _ in range(2)]
    for one in both:
        one.start()
    while all(one.running for one in both):
        time.sleep(0.01)
    refused = next(one for one in both if not one.running)
    winner = next(one for one in both if one is not refused)
    assert refused.wait() == 1
    assert "is taken" in refused.lines[-1].text
    winner.wait_for_state("awake")
    with psycopg.connect(winner.conninfo()) as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (str(winner.data_dir),)


@pytest.fixture
def neighbour() -> Iterator[socket.socket]:
    """A busy server on the same port of another address."""
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.2", free_port()))
        server.listen()
        client.connect(server.getsockname())
        yield server


def test_a_neighbour_on_another_address_keeps_nothing_awake(
    newest: Installation, launch: Launch, neighbour: socket.socket
) -> None:
    one = launch(newest, when_idle="exit", idle_timeout="500ms", port=neighbour.getsockname()[1])
    assert one.wait() == 0
    assert "asleep" in one.states


def test_a_package_that_is_replaced_while_postgres_sleeps(newest: Installation, place: Place, launch) -> None:
    """An upgrade takes the shim away, and for a moment there is none."""
    folder = place.folder()
    shutil.copytree(Path(pgidle.__file__).parent, folder / "pgidle")
    folder.chmod(0o755)
    env = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    one = launch(newest, when_idle="stay", idle_timeout="500ms", env=env)
    one.wait_for_state("asleep")
    for shim in folder.glob("pgidle/gate/*.so"):
        shim.unlink()
    with psycopg.connect(one.conninfo()) as connection:
        connection.execute("SELECT 1")
    assert one.stop() == 0


@pytest.mark.parametrize("line", ["logging_collector = on", "unix_socket_directories = ''"])
def test_another_process_of_postgres_that_keeps_the_channel(
    installation: Installation, launch: Launch, line: str
) -> None:
    """The collector is forked before Postgres has bound anything; without a Unix socket nothing closes the channel."""
    one = launch(installation, start=False, when_idle="stay", idle_timeout="500ms")
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"{line}\n")
    one.start()
    one.wait_for_state("starting")
    for _ in range(2):
        mark = one.mark()
        with psycopg.connect(one.conninfo(connect_timeout=20)) as connection:
            connection.execute("SELECT 1")
        one.wait_for_state("asleep", since=mark)
    assert one.stop() == 0


def test_a_postmaster_that_a_signal_without_a_name_ends(newest: Installation, launch: Launch) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    mark = one.mark()
    os.kill(one.postmaster_pid or 0, SIGRTMIN + 1)
    one.wait_for_state("starting", since=mark)
    one.wait_for_state("awake", since=mark)
    assert serves(one)
    assert one.stop() == 0


def test_a_disk_that_takes_nothing_is_no_reason_to_end(place: Place) -> None:
    folder = place.folder()
    os.chown(folder, os.geteuid(), os.getegid())
    state_dir = StateDir(str(folder))
    with open("/dev/full", "r+b") as full:  # noqa: PTH123 - a device
        os.dup2(full.fileno(), state_dir._lock)
    state_dir.remember_postmaster(7)


TRACE = """
import ctypes, os, sys
CONT, SEIZE = 7, 0x4206  # linux/ptrace.h
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(SEIZE, pid, None, None), flush=True)
while os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT).si_code == os.CLD_TRAPPED:
    _, status = os.waitpid(pid, 0)
    libc.ptrace(CONT, pid, None, ctypes.c_void_p(0 if status >> 16 else os.WSTOPSIG(status)))
# It has exited, and is not reaped before this process ends.
sys.stdin.read()
"""


def test_a_postmaster_that_somebody_traces_is_reaped_when_they_let_go(
    newest: Installation, launch: Launch
) -> None:
    """Its pidfd says that it has exited while it is the tracer's to reap."""
    one = launch(newest, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    postmaster = one.postmaster_pid
    command = [sys.executable, "-c", TRACE, str(postmaster)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdin
        assert tracer.stdout
        if tracer.stdout.readline() != "0\n":
            pytest.skip("tracing is not allowed here")
        mark = one.mark()
        assert one.pgidle("sleep").returncode == 0
        one.wait_log("database system is shut down", since=mark)
        wait_until(lambda: psutil.Process(postmaster).status() == psutil.STATUS_ZOMBIE)
        with ThreadPoolExecutor() as pool:
            coming = pool.submit(serves, one)
            wait_until(lambda: sum(queue.length for queue in scan(one.port).listeners) == 1)
            tracer.stdin.close()
            assert coming.result()
    assert one.stop() == 0

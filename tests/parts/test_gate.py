"""Postgres shares the gate's listeners: real postmasters under a supervisor that does what it is told (sharing.py)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
import pytest

import pgidle
from harness.installations import conninfo, free_port, run_as_server, server_user
from harness.postgres_fixture import wait_until
from harness.restless import STARTUP, Restless, until_ready, visit
from harness.sharing import Sharer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place

SOURCE = Path(pgidle.__file__).parent / "gate" / "_listener.c"
STRICT = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fPIC", "-shared")
OWN_VARIABLES = ("LD_PRELOAD", "PGIDLE_")


class Share(Protocol):
    def __call__(self, installation: Installation, /, **more: Any) -> Sharer: ...


@pytest.fixture(scope="module")
def data_dirs() -> dict[Installation, Path]:
    """One for each installation: whatever a test did to it, the next start recovers."""
    return {}


@pytest.fixture
def share(place: Place, data_dirs: dict[Installation, Path]) -> Iterator[Share]:
    """Starts a sharer, which ends with the test: one in a test."""
    with ExitStack() as stack:

        def begin(installation: Installation, /, **more: Any) -> Sharer:
            if installation not in data_dirs:
                data_dirs[installation] = place.data_dir(installation)
            return stack.enter_context(Sharer(installation, place, data_dir=data_dirs[installation], **more))

        yield begin


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Visitor(threading.Thread):
    """One connection, made by a thread: it may have to wait."""

    def __init__(self, sharer: Sharer, host: str = "127.0.0.1", **more: object) -> None:
        super().__init__(daemon=True)
        self.met: object = None
        self._where = conninfo(sharer.port, host=host, connect_timeout=30, **more)
        self.start()

    def run(self) -> None:
        try:
            with psycopg.connect(self._where) as connection:
                row = connection.execute("SELECT pg_backend_pid()").fetchone()
                self.met = row and row[0]
        except psycopg.Error as error:
            self.met = str(error)

    @property
    def is_served(self) -> bool:
        self.join(30)
        return isinstance(self.met, int)


def hosts(sharer: Sharer) -> list[str]:
    return ["127.0.0.1", str(sharer.socket_dir)]


def come(sharer: Sharer, each: int = 2) -> list[Visitor]:
    """Visitors of both kinds, all of them parked."""
    before = sharer.do("look")["parked"]
    visitors = [Visitor(sharer, host) for host in hosts(sharer) for _ in range(each)]
    wait_until(lambda: sharer.do("look")["parked"] == before + len(visitors), lambda: str(visitors[0].met))
    return visitors


def session(sharer: Sharer, stack: ExitStack, **more: object) -> psycopg.Connection[Any]:
    where = conninfo(sharer.port, host=str(sharer.socket_dir), connect_timeout=30, **more)
    return stack.enter_context(psycopg.connect(where, autocommit=True))


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


def test_the_socket_file_is_as_postgres_sets_it_at_each_start(installation, share) -> None:
    sharer = share(installation, options={"unix_socket_permissions": "0750"})
    for _ in range(2):
        sharer.do("start")
        assert sharer.socket_path.stat().st_mode & 0o777 == 0o750
        sharer.socket_path.chmod(0o777)
        sharer.do("stop")


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
    assert not [what for what in clients.met.kinds if what not in ("EOFError", "ConnectionResetError")]
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


def test_what_postgres_executes_has_nothing_of_ours(installation, share, stack, place) -> None:
    out = place.folder("archived")
    script = f"(ls -l /proc/self/fd; cat /proc/self/environ | tr '\\\\0' '\\\\n'; cat /proc/self/maps) > {out}/%f.txt"
    sharer = share(installation, options={"archive_mode": "on", "archive_command": script})
    sharer.do("start")
    sharer.do("open")
    connection = session(sharer, stack)
    connection.execute("SELECT pg_switch_wal()")
    wait_until(lambda: bool(list(out.glob("*.txt"))))
    connection.execute(
        "COPY (SELECT 1) TO PROGRAM "
        f'\'(ls -l /proc/self/fd; tr "\\0" "\\n" </proc/self/environ; cat /proc/self/maps) > {out}/copy.txt\''
    )
    ours = sockets_of(sharer.do("look")["pid"])
    for path in out.glob("*.txt"):
        wait_until(lambda path=path: "[stack]" in path.read_text())
        text = path.read_text()
        assert not [line for line in text.splitlines() if line.startswith(OWN_VARIABLES)]
        assert "_listener" not in text
        assert not [one for one in ours if one in text]


def test_a_backend_has_neither_channel_nor_listeners(installation, share, stack) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    connection = session(sharer, stack)
    assert not sockets_of(connection.info.backend_pid) & sockets_of(sharer.do("look")["pid"])


def sockets_of(pid: int) -> set[str]:
    """But those for datagrams: up to 14 that of the statistics collector is everybody's."""
    links = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("udp", "udp6"))
    datagrams = {f"socket:[{line.split()[9]}]" for table in tables for line in table.splitlines()[1:]}
    return {one for one in links - datagrams if one.startswith("socket:")}


def unix_socket(path: str, stack: ExitStack) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_UNIX))
    made.bind(path)
    # Root's, as systemd makes it: Postgres may not set its permissions, and does not have to.
    Path(path).chmod(0o777)
    made.listen(10)
    return made


def test_a_socket_of_a_service_manager_is_served_though_its_path_is_written_otherwise(
    installation, share, stack, place
) -> None:
    """As /var/run and /run. And its clients are told of Postgres's user, not of who made it."""
    folder, port = place.folder("s"), free_port()
    link = place.path / f"link{port}"
    link.symlink_to(folder)
    made = unix_socket(f"{folder}/.s.PGSQL.{port}", stack)
    file = (folder / f".s.PGSQL.{port}").stat()
    options = {"unix_socket_directories": f"{link}/", "unix_socket_group": str(server_user().pw_gid)}
    sharer = share(installation, inherit=(made,), port=port, options=options)
    sharer.do("look")
    visitor = Visitor(sharer, str(folder), requirepeer=server_user().pw_name)
    sharer.do("start")
    wait_until(lambda: sharer.do("look")["parked"] == 1)
    sharer.do("open")
    assert visitor.is_served, visitor.met
    sharer.do("stop")
    after = (folder / f".s.PGSQL.{port}").stat()
    assert (after.st_ino, after.st_uid, after.st_mode) == (file.st_ino, file.st_uid, file.st_mode)
    assert "could not set" not in sharer.log.read_text()
    # Made by root: who comes before any postmaster is told the truth, too.
    visitor = Visitor(sharer, str(folder), requirepeer=server_user().pw_name)
    sharer.do("start")
    sharer.do("open")
    assert visitor.is_served, visitor.met


def test_an_abstract_socket_is_held_too(installation, share) -> None:
    if installation.major < 14:
        pytest.skip("abstract sockets came with PostgreSQL 14")
    sharer = share(installation, options={"unix_socket_directories": f"@pgidle-test-{os.getpid()}"})
    sharer.do("start")
    sharer.do("stop")
    # psycopg asks the resolver for such a name.
    met: dict[str, Any] = {"served": 0, "refused": 0, "failed": []}
    name = f"\0pgidle-test-{os.getpid()}/.s.PGSQL.{sharer.port}"
    visitor = threading.Thread(target=visit, args=(name, met))
    visitor.start()
    wait_until(lambda: sharer.do("look")["parked"] == 1)
    sharer.do("start")
    sharer.do("open")
    visitor.join()
    assert met == {"served": 1, "refused": 0, "failed": []}


def test_several_folders(installation, share, place) -> None:
    folders = [str(place.folder("s")) for _ in range(3)]
    sharer = share(installation, options={"unix_socket_directories": ",".join(folders)})
    sharer.do("start")
    sharer.do("stop")
    visitors = [Visitor(sharer, folder) for folder in folders]
    wait_until(lambda: sharer.do("look")["parked"] == 3)
    sharer.do("start")
    sharer.do("open")
    assert all(one.is_served for one in visitors)


def test_a_tcp_socket_of_a_service_manager_is_served_without_reuseport(installation, share, stack) -> None:
    made = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    sharer = share(installation, inherit=(made,), port=made.getsockname()[1])
    visitor = Visitor(sharer)
    wait_until(lambda: sharer.do("look")["parked"] == 1)
    sharer.do("start")
    sharer.do("open")
    assert visitor.is_served


def test_no_other_server_takes_the_path_while_postgres_sleeps(installation, share, place) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("stop")
    other = place.data_dir(installation)
    settings = ["-c", "listen_addresses=", "-k", str(sharer.socket_dir), "-p", str(sharer.port)]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_as_server(installation.program("postgres"), "-D", other, *settings)
    assert f"PID {sharer.pid}" in failed.value.stderr
    assert sharer.socket_path.is_socket()
    sharer.do("start")
    sharer.do("open")
    assert Visitor(sharer, str(sharer.socket_dir)).is_served


def test_there_is_a_lock_in_every_instant_of_a_stop(installation, share) -> None:
    sharer = share(installation)
    lock = Path(f"{sharer.socket_path}.lock")
    sharer.do("start")
    missed, over = [], threading.Event()

    def look() -> None:
        while not over.is_set():
            if not lock.exists():
                missed.append(time.monotonic())

    watching = threading.Thread(target=look)
    watching.start()
    for _ in range(3):
        sharer.do("stop")
        assert lock.read_text().split("\n")[0] == str(sharer.pid)
        # At a start Postgres removes what it finds before it makes its own: that instant is its own.
        over.set()
        watching.join()
        assert missed == []
        sharer.do("start")
        over.clear()
        watching = threading.Thread(target=look)
        watching.start()
    over.set()
    watching.join()


def test_peers_at_the_unix_socket_are_told(installation, share) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    for _ in range(3):
        assert Visitor(sharer, str(sharer.socket_dir)).is_served
    wait_until(lambda: len(sharer.do("look")["peers"]) == 3)
    assert sharer.do("look")["peers"] == [[os.getpid(), os.getuid()]] * 3


def test_the_queue_is_as_long_as_the_kernel_allows(installation, share, stack) -> None:
    sharer = share(installation, options={"max_connections": "20"})
    sharer.do("start")
    for _ in range(400):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        client.connect(str(sharer.socket_path))
        stack.enter_context(socket.create_connection(("127.0.0.1", sharer.port), timeout=0.9))
    assert sharer.do("look")["parked"] == 800


def test_whoever_was_in_a_queue_that_has_ended_is_served_first(installation, share) -> None:
    """The kernel's last instant before an exit that is called off: see leaving.py."""
    sharer = share(installation)
    sharer.do("start")
    sharer.do("stop")
    early = [Visitor(sharer, str(sharer.socket_dir)) for _ in range(2)]
    wait_until(lambda: sharer.do("look")["parked"] == 2)
    sharer.do("add_ended")
    late = Visitor(sharer, str(sharer.socket_dir))
    wait_until(lambda: sharer.do("look")["parked"] == 3)
    sharer.do("start")
    sharer.do("open")
    # Each of Postgres's accepts takes one of those first.
    others = [Visitor(sharer, str(sharer.socket_dir)) for _ in range(3)]
    assert all(one.is_served for one in [*early, late, *others])


def test_a_queue_that_has_ended_is_no_listener_and_postgres_makes_another(installation, share) -> None:
    """Where the supervisor could not: its file is Postgres's to remove then."""
    sharer = share(installation)
    sharer.do("start")
    sharer.do("stop")
    early = [Visitor(sharer, str(sharer.socket_dir)) for _ in range(2)]
    wait_until(lambda: sharer.do("look")["parked"] == 2)
    sharer.do("add_ended", replace=False)
    sharer.do("start")
    sharer.do("open")
    others = [Visitor(sharer, str(sharer.socket_dir)) for _ in range(3)]
    assert all(one.is_served for one in [*early, *others])


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


def test_a_supervisor_that_is_killed_takes_postgres_with_it_and_no_lock_is_left(installation, share) -> None:
    sharer = share(installation)
    sharer.do("start")
    sharer.do("open")
    pid = sharer.do("look")["pid"]
    sharer.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert not Path(f"{sharer.socket_path}.lock").exists()


def test_a_supervisor_of_several_threads_that_is_killed_leaves_no_lock(
    installation, launch, place: Place
) -> None:
    """Postgres hears of the end of the first of them, while the others still hold the channel open."""
    folder = place.folder("s")
    for _ in range(8):
        one = launch(installation, socket_dir=str(folder), when_idle="stay", idle_timeout="off")
        one.wait_for_state("awake")
        wait_until(lambda one=one: one.pgidle("health").returncode == 0)  # the second thread answers
        postmaster = one.postmaster_pid
        one.kill()
        wait_until(lambda one=one, pid=postmaster: pid not in [each.pid for each in one.processes()])
        left = list(folder.glob("*.lock"))
        assert left == [], [
            (each.read_text(), one.pid, postmaster, [str(line.text) for line in one.lines[-12:]])
            for each in left
        ]


def test_what_is_preloaded_besides_stays_so(installation, share, stack) -> None:
    other = next(Path("/").glob("lib/x86_64-linux-gnu/libpthread.so.0"), None)
    if other is None:
        pytest.skip("no library to preload")
    sharer = share(installation, environ={"LD_PRELOAD": str(other)})
    sharer.do("start")
    sharer.do("open")
    connection = session(sharer, stack)
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row
    rows = connection.execute("CREATE TEMP TABLE e (l text); COPY e FROM PROGRAM 'env'; SELECT l FROM e")
    while rows.nextset():
        pass
    assert f"LD_PRELOAD={other}" in {line for (line,) in rows.fetchall()}


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
    assert set(met.kinds) <= {"EOFError", "ConnectionResetError", "57P01", "57P02"}
    assert len(met.failed) <= 6 * (look["crashes"] + look["stops"])


POLLS = """
import os, select, socket
made = socket.socket()
made.bind(("127.0.0.1", int(os.environ["PORT"])))
made.listen()
poll = select.poll()
poll.register(made, select.POLLIN)
poll.poll()
"""


@pytest.mark.parametrize(("waits", "is_known"), [("poll", False), ("select", True), ("epoll", True)])
def test_a_wait_by_an_unknown_function_is_never_told(tmp_path: Path, waits: str, is_known: bool) -> None:
    from pgidle.gate import preload
    from pgidle.gate.channel import Channel, Loaded, Waits
    from pgidle.gate.listeners import listen_on, resolve

    ways = {
        "poll": POLLS,
        "select": POLLS.partition("poll =")[0] + "select.select([made], [], [])",
        "epoll": POLLS.replace("poll =", "epoll =")
        .replace("poll()", "epoll()")
        .replace("POLLIN", "EPOLLIN")
        .replace("poll.register", "epoll.register")
        .replace("poll.epoll()", "epoll.poll()")
        .replace("eepoll", "epoll"),
    }
    (listener,), _ = listen_on(resolve("127.0.0.1", free_port()))
    library = preload.open_library()
    assert library is not None
    ours, theirs = preload.make_channel()
    # By this the library takes Python for a Postgres.
    known_by = tmp_path / "known_by.so"
    words = ("cc", "-shared", "-fPIC", "-x", "c", "-", "-o", known_by)
    subprocess.run(words, input="void PostmasterMain(void) {}", text=True, check=True)
    environ = os.environ | {"LD_PRELOAD": str(known_by)}
    given = preload.environment(environ, library, theirs.fileno(), [listener.fileno()])
    process = subprocess.Popen(
        [sys.executable, "-c", ways[waits]],
        env={**given, "PORT": str(listener.port)},
        pass_fds=[library, theirs.fileno(), listener.fileno()],
    )
    theirs.close()
    channel = Channel(ours)
    told = []
    with contextlib.suppress(EOFError):
        wait_until(lambda: (one := channel.receive()) is not None and told.append(one) is None)
        # Python waits with nothing else here: asleep in the call, it has said all that it will.
        wait_until(lambda: Path(f"/proc/{process.pid}/wchan").read_text() != "0" and _sleeps(process.pid))
        while (one := channel.receive()) is not None:
            told.append(one)
    process.kill()
    process.wait()
    listener.close()
    channel.close()
    os.close(library)
    assert told == [Loaded(1), Waits(1)][: 1 + is_known]


def _sleeps(pid: int) -> bool:
    """Whether it waits in one of the system calls that wait for descriptors (x86-64 and aarch64)."""
    number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return number in {"7", "23", "232", "270", "281", "22", "72", "73"}


@pytest.mark.parametrize("compiler", ["gcc", "clang", "musl-gcc"])
def test_it_compiles_without_a_warning(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    subprocess.run([compiler, *STRICT, "-o", tmp_path / "l.so", SOURCE], check=True)

"""The sockets that Postgres shares with a supervisor: a service manager's, Unix sockets, their files and locks."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.installations import free_port, run_as_server, server_user
from harness.postgres_fixture import wait_until
from harness.restless import visit
from harness.visitors import Visitor

if TYPE_CHECKING:
    from contextlib import ExitStack

    from harness.installations import Place


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


def test_the_socket_file_is_as_postgres_sets_it_at_each_start(installation, share) -> None:
    sharer = share(installation, options={"unix_socket_permissions": "0750"})
    for _ in range(2):
        sharer.do("start")
        assert sharer.socket_path.stat().st_mode & 0o777 == 0o750
        sharer.socket_path.chmod(0o777)
        sharer.do("stop")


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

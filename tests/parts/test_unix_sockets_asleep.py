"""The files of Unix sockets that Postgres has made and pgidle keeps: lost while it sleeps, or wanted no more."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.installations import free_port
from harness.postgres_fixture import wait_until
from harness.supervised import PATIENCE
from pgidle.gate.gate import Gate
from pgidle.gate.listeners import Listener
from pgidle.gate.unix_sockets_asleep import UnixSockets
from pgidle.settings.options import LogFormat
from pgidle.system.log import Log

if TYPE_CHECKING:
    from harness.installations import Installation, Place
    from harness.supervised import Launch, Supervised

NOBODY = 65534
STAY = {"when_idle": "stay", "idle_timeout": "200ms"}


def path_of(one: Supervised) -> Path:
    return one.socket_dir / f".s.PGSQL.{one.port}"


def ask(one: Supervised, **more: object) -> None:
    with psycopg.connect(one.unix_conninfo(**more)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("loss", ["removed", "replaced", "with its lock"])
def test_a_file_that_was_lost_while_it_slept_is_made_again(
    installation: Installation, launch: Launch, loss: str
) -> None:
    one = launch(installation, **STAY)
    one.wait_for_state("asleep")
    mark, path = one.mark(), path_of(one)
    mode = path.stat().st_mode
    path.unlink()
    if loss == "replaced":
        path.touch()
    elif loss == "with its lock":
        Path(f"{path}.lock").unlink()
    with psycopg.connect(one.conninfo()):
        ask(one)
        assert path.stat().st_mode == mode
    one.wait_for_state("asleep", since=mark)
    ask(one)
    said = [line.data["reason"] for line in one.lines if str(path) in line.text and "topic" in line.data]
    assert said == [f"{path} was removed or replaced, and is made again"]
    assert one.stop() == 0
    assert not list(one.socket_dir.glob(f"*{one.port}*"))


def test_who_waits_at_a_socket_whose_file_was_lost_is_served_as_is_who_comes_after(
    installation: Installation, launch: Launch, place: Place
) -> None:
    """Also where nobody comes after, not even a look: those are at the first folder's."""
    one, folder = launch(installation, start=False, **STAY), place.folder("other")
    folder.chmod(0o755)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{one.socket_dir}, {folder}'\n")
    one.start()
    one.wait_for_state("asleep")

    def visit() -> None:
        with psycopg.connect(one.conninfo(host=str(folder))) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    with ThreadPoolExecutor() as clients:
        one.signal(signal.SIGSTOP)
        visits = [clients.submit(visit) for _ in range(3)]
        wait_until(lambda: one.parked_at_unix_socket(folder) == 3)
        (folder / f".s.PGSQL.{one.port}").unlink()
        one.signal(signal.SIGCONT)
        for each in visits:
            each.result(PATIENCE)
        visit()


def test_a_folder_that_is_named_twice_is_served_as_by_bare_postgres(
    installation: Installation, launch: Launch, place: Place
) -> None:
    one, link = (
        launch(installation, start=False, **STAY),
        place.path / f"link{len(list(place.path.iterdir()))}",
    )
    link.symlink_to(one.socket_dir)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{one.socket_dir}, {link}'\n")
    one.start()
    for _ in range(2):
        mark = one.mark()
        one.wait_for_state("asleep")
        with psycopg.connect(one.conninfo(host=str(link))):
            ask(one)
        one.wait_for_state("asleep", since=mark)
    assert one.stop() == 0
    assert not list(one.socket_dir.glob(f"*{one.port}*"))


def test_the_path_of_another_server_s_socket_is_left_to_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".s.PGSQL.5432"
    gate, sockets = kept(path)
    path.unlink()
    path.touch()
    Path(f"{path}.lock").write_text(f"{os.getppid()}\n")
    sockets.restore()
    assert path.is_file()
    assert f"the Unix socket {path} is process {os.getppid()}'s now" in capfd.readouterr().err
    gate.listeners[0].close()


def test_another_server_that_has_taken_the_path_keeps_its_file(
    installation: Installation, launch: Launch
) -> None:
    one = launch(installation, **STAY)
    one.wait_for_state("asleep")
    one.pgidle("health")  # By its answer the file has been looked after.
    path_of(one).unlink()
    Path(f"{path_of(one)}.lock").unlink()
    other = launch(
        installation,
        port=one.port,
        listen_addresses="127.0.0.2",
        idle_timeout="off",
        socket_dir=str(one.socket_dir),
    )
    other.wait_for_state("awake")
    with psycopg.connect(one.unix_conninfo()):
        assert one.stop() == 0
        with psycopg.connect(one.unix_conninfo()):
            pass
    assert Path(f"{path_of(one)}.lock").exists()
    assert other.stop() == 0


def test_a_file_that_is_lost_is_made_again_at_the_next_touch(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.5432"
    gate, sockets = kept(path)
    before = gate.listeners[0]
    path.unlink()
    sockets.restore()
    (after,) = gate.listeners
    assert after is not before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert after.parked() == 1
    sockets.restore()
    assert gate.listeners == [after]
    after.close()


def kept(path: Path) -> tuple[Gate, UnixSockets]:
    """A gate with a Unix socket of a postmaster's that has ended."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    listener = Listener(made, is_inherited=False)
    listener.note_file()
    gate = Gate([listener])
    sockets = UnixSockets(gate, Log(LogFormat.TEXT))
    sockets.hold("/data", 5432)
    return gate, sockets


def test_a_folder_that_postgres_has_given_up_is_left_by_its_socket(
    installation: Installation, launch: Launch, place: Place
) -> None:
    """Clients there would wait for nobody."""
    one = launch(installation, **STAY)
    one.wait_for_state("asleep")
    path, folder = path_of(one), place.folder("other")
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{folder}'\n")
    with psycopg.connect(one.conninfo()):
        with psycopg.connect(one.conninfo(host=str(folder))):
            assert not path.exists()
        one.wait_log(f"Postgres no longer listens on {path}, which is gone now")
        assert not list(one.socket_dir.glob(f"*{one.port}*"))


@pytest.mark.parametrize("left", ["'{}'", "''"], ids=["another", "none"])
def test_who_waits_at_a_folder_that_postgres_has_given_up_is_served(
    installation: Installation, launch: Launch, place: Place, left: str
) -> None:
    one, folder = launch(installation, **STAY), place.folder("other")
    one.wait_for_state("asleep")
    path = path_of(one)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = {left.format(folder)}\n")
    mark = one.mark()
    with ThreadPoolExecutor() as clients:
        one.signal(signal.SIGSTOP)
        visits = [clients.submit(ask, one) for _ in range(3)]
        wait_until(lambda: one.parked_at_unix_socket() == 3)
        one.signal(signal.SIGCONT)
        for each in visits:
            each.result(PATIENCE)
    assert not path.exists()
    one.wait_for_state("asleep", since=mark)
    # The folder is Postgres's again.
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{one.socket_dir}'\n")
    with psycopg.connect(one.conninfo()):
        ask(one)
    assert one.stop() == 0
    assert not list(one.socket_dir.glob(f"*{one.port}*"))


def test_a_pipe_in_place_of_a_lock_does_not_hold_a_start_up(
    installation: Installation, launch: Launch
) -> None:
    one = launch(installation, start=False, when_idle="stay")
    lock = Path(f"{path_of(one)}.lock")
    os.mkfifo(lock)
    lock.chmod(0o666)
    one.start()
    one.wait_log(f"could not open lock file .*{lock.name}")
    with ThreadPoolExecutor() as clients:
        visit = clients.submit(psycopg.connect, one.conninfo())
        wait_until(lambda: one.parked() == 1)
        wait_until(lambda: "problem" in one.pgidle("status").stdout)
        assert lock.name in one.pgidle("status").stdout
        lock.unlink()
        visit.result(PATIENCE).close()
    ask(one)


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_a_lock_that_another_user_has_made_meanwhile_is_named_and_nobody_is_lost(
    newest: Installation, launch: Launch, place: Place, kind: str
) -> None:
    """In a folder like /tmp, whose cleaner has taken ours."""
    one, folder = launch(newest, start=False, **STAY), place.folder("tmp")
    os.chown(folder, 0, 0)
    folder.chmod(0o1777)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{folder}'\n")
    one.start()
    one.wait_for_state("asleep")
    # The state is said before the files are looked after.
    one.signal(signal.SIGHUP)
    one.wait_log("SIGHUP received")
    path = folder / f".s.PGSQL.{one.port}"
    lock = Path(f"{path}.lock")
    path.unlink()
    lock.unlink()
    if kind == "pipe":
        os.mkfifo(lock, 0o666)
    else:
        lock.write_text("1\n")
        lock.chmod(0o666)
    os.chown(lock, NOBODY, NOBODY)
    with ThreadPoolExecutor() as clients:
        visit = clients.submit(psycopg.connect, one.conninfo())
        said = one.wait_log("nobody's: Postgres does not start until it is removed").data
        assert str(lock) in said["topic"]
        one.wait_log(f"Postgres does not start .*{lock.name}")
        assert lock.lstat().st_uid == NOBODY
        lock.unlink()
        visit.result(PATIENCE).close()
    one.wait_log("that is over: .*nobody's")
    with psycopg.connect(one.conninfo(host=str(folder))):
        assert path.is_socket()


def test_a_service_manager_s_socket_that_is_none_of_postgres_s_is_named(
    installation: Installation, launch: Launch, place: Place
) -> None:
    port, folder = free_port(), place.folder("elsewhere")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{folder}/.s.PGSQL.{port}")
        made.listen()
        one = launch(installation, port=port, listen=[made], **{**STAY, "idle_timeout": "1h"})
        one.wait_log(f"Postgres does not listen on {folder}/.s.PGSQL.{port}: nobody is served there")
        ask(one)


@pytest.mark.parametrize("others", ["", ", {folder}"], ids=["alone", "first"])
def test_an_abstract_socket_is_no_reason_to_stay_awake(
    installation: Installation, launch: Launch, others: str
) -> None:
    one = launch(installation, start=False, **STAY)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        name = f"@pgidle-test-{one.port}"
        conf.write(f"unix_socket_directories = '{name}{others.format(folder=one.socket_dir)}'\n")
    one.start()
    for _ in range(2):
        mark = one.mark()
        one.wait_for_state("asleep", since=0)
        with psycopg.connect(one.conninfo()) as connection:
            connection.execute("SELECT 1")
        one.wait_for_state("asleep", since=mark)
    assert one.stop() == 0

"""What a data directory is found to be, and who holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.installations import free_port, run_as_server, server_user
from pgidle.base.errors import PgidleError
from pgidle.postgres.data_directory import (
    DataDir,
    DataDirState,
    PidFile,
    inspect_data_dir,
    living_postmaster,
    read_pidfile,
)
from pgidle.system.users import acting_as, plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: gives files to another user")


def inspect(path: Path) -> DataDir:
    return inspect_data_dir(str(path), server_user().pw_uid)


def refusal(path: Path) -> str:
    with pytest.raises(PgidleError) as caught:
        inspect(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


@contextmanager
def running(installation: Installation, data_dir: Path) -> Iterator[int]:
    port = free_port()
    options = f"-p {port} -c listen_addresses=127.0.0.1"
    command = ("-D", str(data_dir), "-l", str(data_dir / "log"), "-o", options, "-w")
    run_as_server(installation.program("pg_ctl"), "start", *command)
    pid = int((data_dir / "postmaster.pid").read_text().split("\n")[0])
    try:
        yield pid
    finally:
        if psutil.pid_exists(pid):
            run_as_server(installation.program("pg_ctl"), "stop", "-D", str(data_dir), "-m", "immediate")


def test_a_missing_directory_is_fine_where_it_can_be_made(place: Place) -> None:
    assert inspect(place.folder() / "a/b") == DataDir(DataDirState.MISSING)


def test_a_missing_directory_below_a_file_is_refused(place: Place) -> None:
    file = place.folder() / "file"
    file.write_text("")
    assert "Not a directory" in refusal(file / "data")
    assert "is not a directory" in refusal(file)


def test_a_missing_directory_that_cannot_be_made_is_refused(place: Place) -> None:
    folder = place.folder()
    folder.chmod(0o500)
    with acting_as(plan(server_user().pw_name, "")):
        assert f"may not write in {folder}" in refusal(folder / "data")


def test_an_empty_directory_may_hold_our_own_folder(place: Place) -> None:
    folder = place.folder()
    assert inspect(folder) == DataDir(DataDirState.EMPTY)
    folder.joinpath("pgidle").mkdir()
    assert inspect(folder) == DataDir(DataDirState.EMPTY)


def test_a_directory_with_something_else_is_refused_by_what_is_in_it(place: Place) -> None:
    folder = place.folder()
    folder.joinpath("photo.jpg").write_text("")
    assert "photo.jpg" in refusal(folder)


def test_the_root_of_a_volume_is_refused_with_a_subdirectory_as_the_way_out(place: Place) -> None:
    folder = place.folder()
    folder.joinpath("lost+found").mkdir()
    folder.joinpath("a").mkdir()
    assert f"--data-dir {folder}/data" in refusal(folder)


def test_a_data_directory_is_ready_and_has_its_version(installation: Installation, place: Place) -> None:
    data_dir = place.data_dir(installation)
    assert inspect(data_dir) == DataDir(DataDirState.READY, str(installation.major))


@pytest.mark.parametrize("mode", [0o770, 0o701, 0o755])
def test_a_data_directory_open_to_others_is_refused_as_postgres_would(
    newest: Installation, place: Place, mode: int
) -> None:
    data_dir = place.data_dir(newest)
    data_dir.chmod(0o750)
    assert inspect(data_dir).state is DataDirState.READY
    data_dir.chmod(mode)
    assert f"{mode:04o}" in refusal(data_dir)


def test_a_data_directory_that_cannot_be_written_is_refused(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    data_dir.chmod(0o500)
    with acting_as(plan(server_user().pw_name, "")):
        assert "is not writable" in refusal(data_dir)


def test_a_version_that_is_none_is_refused(place: Place) -> None:
    folder = place.folder()
    folder.joinpath("PG_VERSION").write_bytes(b"\0\0\0\xff")
    assert "PG_VERSION" in refusal(folder)


@needs_root
def test_anothers_directory_is_refused_by_both_names(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    os.chown(data_dir, 1, 1)
    line = refusal(data_dir)
    assert "owned by daemon" in line
    assert f"run as {server_user().pw_name}" in line


@needs_root
def test_an_empty_directory_of_roots_is_fine_to_root_alone(place: Place) -> None:
    folder = place.folder()
    os.chown(folder, 0, 0)
    assert inspect(folder) == DataDir(DataDirState.EMPTY)
    folder.chmod(0o755)
    with acting_as(plan(server_user().pw_name, "")):
        assert "owned by root" in refusal(folder)


@needs_root
def test_a_directory_behind_a_closed_one_is_refused(newest: Installation, place: Place) -> None:
    above = place.folder()
    data_dir = above / "data"
    place.data_dir(newest).rename(data_dir)
    os.chown(above, 0, 0)
    with acting_as(plan(server_user().pw_name, "")):
        assert "cannot be reached" in refusal(data_dir)


def test_an_initialisation_under_way_is_interrupted_until_it_has_a_version(place: Place) -> None:
    folder = place.folder()
    inner = folder / "pgidle/initdb/data"
    inner.mkdir(parents=True)
    inner.joinpath("PG_VERSION").write_text("15\n")
    assert inspect(folder) == DataDir(DataDirState.INTERRUPTED)
    folder.joinpath("base").mkdir()
    inner.with_name("complete").write_text("")
    assert inspect(folder) == DataDir(DataDirState.INTERRUPTED, "15")
    inner.joinpath("PG_VERSION").rename(folder / "PG_VERSION")
    assert inspect(folder) == DataDir(DataDirState.READY, "15")


def test_the_pidfile_of_a_running_postmaster(installation: Installation, place: Place) -> None:
    data_dir = place.data_dir(installation)
    assert read_pidfile(str(data_dir)) is None
    assert living_postmaster(str(data_dir)) is None
    with running(installation, data_dir) as pid:
        found = read_pidfile(str(data_dir))
        assert found is not None
        assert found.pid == pid
        assert Path(found.socket_dir).is_dir()
        assert living_postmaster(str(data_dir)) == pid
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(pid)])
        assert read_pidfile(str(data_dir)) is not None
        assert living_postmaster(str(data_dir)) is None


@pytest.mark.parametrize("count", range(9))
def test_a_pidfile_that_is_still_being_written(place: Place, count: int) -> None:
    folder = place.folder()
    lines = ["123", "/data", "1700000000", "5432", "/run", "*", "  5432 1", "starting"][:count]
    folder.joinpath("postmaster.pid").write_text("\n".join(lines))
    found = read_pidfile(str(folder))
    if count == 0:
        assert found is None
    else:
        assert found == PidFile(123, "/run" if count > 4 else "")


def test_a_standalone_backend_holds_the_directory(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    user = server_user()
    as_user = {"user": user.pw_uid, "group": user.pw_gid} if os.getuid() == 0 else {}
    command = [newest.program("postgres"), "--single", "-D", str(data_dir), "postgres"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", **as_user
    ) as single:
        assert single.stdout is not None
        assert any(b"stand-alone backend" in line for line in iter(single.stdout.readline, b""))
        found = read_pidfile(str(data_dir))
        assert found is not None
        assert found.pid == single.pid
        assert living_postmaster(str(data_dir)) == single.pid
        single.kill()


def test_a_recycled_pid_is_not_taken_for_a_postmaster(newest: Installation, place: Place) -> None:
    data_dir, other = place.data_dir(newest), place.data_dir(newest)
    pidfile = data_dir / "postmaster.pid"
    with running(newest, other) as elsewhere:
        backends = [child.pid for child in psutil.Process(elsewhere).children()]
        bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=data_dir)
        try:
            for pid in (os.getpid(), bystander.pid, elsewhere, 2**22 + 1):
                pidfile.write_text(f"{pid}\n{data_dir}\n")
                assert living_postmaster(str(data_dir)) is None
        finally:
            bystander.communicate(b"\n")
        # A backend works in the data directory too, and is no postmaster.
        saved = other.joinpath("postmaster.pid").read_text()
        other.joinpath("postmaster.pid").write_text(f"{backends[0]}\n{other}\n")
        assert living_postmaster(str(other)) is None
        other.joinpath("postmaster.pid").write_text(saved)

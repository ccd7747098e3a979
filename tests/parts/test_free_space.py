"""Room on file systems of all kinds: those that tell no size, no number of inodes, or that nothing can write to."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest
from test_start_check import check

from harness.installations import conninfo
from pgidle.doctor.finding import Chart, Severity
from pgidle.doctor.machine.volume import check_room
from pgidle.idle.snapshot import FreeSpace
from pgidle.idle.start_result import Startable
from pgidle.postgres.free_space import room_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.installations import Installation, Place
    from harness.supervised import Launch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount file systems")


@contextlib.contextmanager
def mounted(folder: Path, kind: str, options: str) -> Iterator[Path]:
    if subprocess.run(["mount", "-t", kind, "-o", options, kind, folder], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def living_in(folder: Path) -> Iterator[int]:
    """The pid of a process that works there, as a postmaster does."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE) as process:
        yield process.pid


def room(folder: Path) -> FreeSpace:
    (folder / "pg_wal").mkdir(exist_ok=True)
    with living_in(folder) as pid:
        return room_of(pid)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("ramfs", "mode=755", FreeSpace()),
        ("tmpfs", "size=0,nr_inodes=0", FreeSpace()),
        ("tmpfs", "size=0,nr_inodes=100", FreeSpace(free_files=98)),
        ("tmpfs", "size=1M,nr_inodes=0", FreeSpace(free_bytes=2**20)),
    ],
)
def test_what_is_not_told_is_not_known(place: Place, kind: str, options: str, expected: FreeSpace) -> None:
    with mounted(place.folder(), kind, options) as folder:
        assert room(folder) == expected


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("ramfs", "mode=755", (Severity.NOTE, "does not report its size")),
        ("tmpfs", "size=0,nr_inodes=50", (Severity.WRONG, "inodes are free")),
        ("tmpfs", "size=1M,nr_inodes=0", (Severity.WRONG, "1 MB are free")),
        ("tmpfs", "size=1G,ro", (Severity.WRONG, "read-only")),
        ("tmpfs", "size=1G", (None, "1.0 GB free")),
    ],
)
def test_doctor_says_what_is_known(
    tmp_path: Path, kind: str, options: str, said: tuple[Severity | None, str]
) -> None:
    with mounted(tmp_path, kind, options.removesuffix(",ro")):
        (tmp_path / "pg_wal").mkdir()
        if options.endswith("ro"):
            subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        chart = Chart("data")
        check_room(chart, str(tmp_path))
        found = [(one.severity, one.what) for one in chart.findings] + [
            (None, right) for right in chart.right
        ]
        assert any(severity is said[0] and said[1] in what for severity, what in found), found


def test_used_up(place: Place) -> None:
    with mounted(place.folder(), "tmpfs", "size=1M,nr_inodes=5") as folder:
        (folder / "pg_wal").mkdir()
        (folder / "all").write_bytes(bytes(2**20))
        for name in "ab":
            (folder / name).touch()
        assert room(folder) == FreeSpace(free_bytes=0, free_files=0)


def test_wal_of_its_own(place: Place) -> None:
    """What is least counts, whichever of the two it is."""
    with mounted(place.folder(), "tmpfs", "size=2M,nr_inodes=10") as folder:
        (folder / "pg_wal").mkdir()
        with mounted(folder / "pg_wal", "tmpfs", "size=1M,nr_inodes=100"), living_in(folder) as pid:
            assert room_of(pid) == FreeSpace(free_bytes=2**20, free_files=8)
        with mounted(folder / "pg_wal", "ramfs", "mode=755"), living_in(folder) as pid:
            assert room_of(pid) == FreeSpace(free_bytes=2**21, free_files=8)


def test_read_only(place: Place) -> None:
    with mounted(place.folder(), "tmpfs", "size=1M") as folder:
        (folder / "pg_wal").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        assert room(folder).is_read_only


def test_nobody_is_there() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert room_of(gone.pid) == FreeSpace()


def test_what_no_file_can_be_written_to_no_start_would_take(newest: Installation, place: Place) -> None:
    """As with a quota that is used up, which statvfs(3) does not show."""
    with mounted(place.folder(), "tmpfs", "size=1G,mode=755") as folder:
        data_dir = folder / "data"
        subprocess.run(["cp", "-a", place.data_dir(newest), data_dir], check=True)
        assert check(newest, data_dir).startable is Startable.YES
        found = os.statvfs(folder)
        with (folder / "hog").open("wb") as hog:
            os.posix_fallocate(hog.fileno(), 0, found.f_bavail * found.f_frsize)
        result = check(newest, data_dir)
        assert result.startable is Startable.NO
        assert result.reason == f"nothing can be written in {data_dir}: No space left on device"


def test_a_file_system_without_a_size_is_slept_on(newest: Installation, place: Place, launch: Launch) -> None:
    with mounted(place.folder(), "ramfs", "mode=755") as folder:
        subprocess.run(["cp", "-a", place.data_dir(newest), folder / "data"], check=True)
        one = launch(newest, data_dir=folder / "data", when_idle="stay", idle_timeout="500ms")
        one.wait_for_state("asleep")
        with psycopg.connect(conninfo(one.port, connect_timeout=30)) as connection:
            connection.execute("SELECT 1")
        assert one.stop() == 0
        one.clean()


def test_inodes_that_are_used_up_keep_it_awake(newest: Installation, place: Place, launch: Launch) -> None:
    """Postgres goes on with the files that it has, and could not make its pid file."""
    with mounted(place.folder(), "tmpfs", "size=1G,nr_inodes=3000,mode=755") as folder:
        subprocess.run(["cp", "-a", place.data_dir(newest), folder / "data"], check=True)
        one = launch(newest, data_dir=folder / "data", when_idle="stay", idle_timeout="1s", min_awake="1s")
        one.wait_for_state("awake")
        found = os.statvfs(folder)
        for number in range(found.f_favail - 4):
            (folder / f"empty{number}").touch()
        while "inodes left" not in (said := one.pgidle("status").stdout):
            assert one.states[-1] == "awake", said
        for path in folder.glob("empty*"):
            path.unlink()
        one.wait_for_state("asleep")
        assert one.stop() == 0
        one.clean()

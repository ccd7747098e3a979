"""Every system call of the supervisor's that can fail, failing once: in a wake, a sleep, a start, an exit, a stop.

A sample. All of them take some thirty minutes: `EVERY_FAULT=1 scripts/test tests/promises/test_every_fault.py`; 2 to 9
instead of 1 give each call another error, and `FIRST_FAULT=700` begins with the call of that number.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

import harness
from harness.faults import query
from harness.postgres_fixture import wait_until
from harness.supervised import PATIENCE
from pgidle.observer.supervisor_side import PAUSES
from pgidle.postgres.postmaster import is_shut_down

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Supervised

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(7200)]

SOURCE = Path(harness.__file__).parent / "faults_preload.c"
IS_WHOLE = bool(os.environ.get("EVERY_FAULT"))
SHIFT = int(os.environ.get("EVERY_FAULT") or 0)
"""Another number gives each call another error."""
FIRST = int(os.environ.get("FIRST_FAULT") or 1)
SAMPLE = 3
ERRORS = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EADDRINUSE),
    *(errno.EADDRNOTAVAIL, errno.EACCES, errno.ENOSPC, errno.EINTR),
)


class Page(ctypes.Structure):
    """`struct page` of faults_preload.c."""

    _fields_ = (
        ("at", ctypes.c_int32),
        ("number", ctypes.c_int32),
        ("calls", ctypes.c_int32),
        ("fired", ctypes.c_int32),
        ("name", ctypes.c_char * 48),
    )


class Faults:
    """Makes calls of one supervisor's fail."""

    def __init__(self, folder: Path) -> None:
        self.library, self._path = folder / "faults.so", folder / "page"
        command = [
            "cc",
            "-shared",
            "-fPIC",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            self.library,
            SOURCE,
            "-ldl",
        ]
        subprocess.run(command, check=True)
        self._path.write_bytes(bytes(mmap.PAGESIZE))
        self._path.chmod(0o666)
        with self._path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.page = Page.from_buffer(self._memory)
        self.environment = {"LD_PRELOAD": str(self.library), "FAULTS_PAGE": str(self._path)}

    def fail(self, at: int, number: int) -> None:
        """Let the call of this number, counted from now on, fail."""
        self.page.at, self.page.number, self.page.calls, self.page.fired = 0, number, 0, 0
        self.page.name = b""
        self.page.at = at

    def __str__(self) -> str:
        return f"call {self.page.at}, {self.page.name.decode()}: {errno.errorcode[self.page.number]}"


@pytest.fixture
def faults(place: Place) -> Faults:
    folder = place.folder()
    folder.chmod(0o755)
    return Faults(folder)


def numbers(count: int) -> Iterator[tuple[int, int]]:
    """Which call fails, and how: a sample of so many, or each, with another error each."""
    for at in range(FIRST, count + 1, 1 if IS_WHOLE else count // SAMPLE):
        yield at, ERRORS[(SHIFT + at) % len(ERRORS)]


def test_in_a_wake_and_a_sleep(newest: Installation, launch, faults: Faults):
    one = launch(newest, when_idle="stay", idle_timeout="100ms", env=faults.environment)
    one.wait_for_state("asleep")
    counts = []
    for _ in range(3):
        faults.fail(0, 0)
        cycle(one)
        counts.append(faults.page.calls)
    seen = []
    for at, number in numbers(max(counts)):
        if not one.running:
            mark = one.mark()
            one.start()
            one.wait_for_state("asleep", since=mark)
        faults.fail(at, number)
        try:
            cycle(one)
        except (AssertionError, psycopg.Error) as error:
            raise AssertionError(f"{faults}: {error}; {one._tail()}") from error
        if faults.page.fired:
            seen.append(str(faults))
        assert one.running, f"{faults}: {one._tail()}"
        assert not any("Traceback" in line.text for line in one.lines), f"{faults}: {one._tail()}"
    assert seen
    faults.fail(0, 0)
    assert one.stop() == 0


def cycle(one: Supervised) -> None:
    """A client over TCP, one over the Unix socket, a sleep."""
    mark = one.mark()
    assert query(one, "SELECT 1") == 1
    with psycopg.connect(one.unix_conninfo(), connect_timeout=30) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    # A call of the observer's may fail in each cycle: then the next observer comes after ever longer pauses.
    one.wait_for_state("asleep", PAUSES[-1] + PATIENCE, since=mark)


@pytest.mark.parametrize("how", ["it exits", "it is stopped", "at once"])
def test_in_a_start_and_an_exit(newest: Installation, launch, faults: Faults, how: str):
    one = launch(newest, start=False, when_idle="exit", idle_timeout="100ms", env=faults.environment)
    faults.fail(0, 0)
    life(one, how)
    assert one.wait() == 0
    ended = 0
    for at, number in numbers(faults.page.calls):
        before = len(one.lines)
        faults.fail(at, number)
        life(one, how)
        status = one.wait()
        said = f"{faults}: status {status}; {one._tail()}"
        # 2: the settings could not be read, and nothing was begun.
        assert status in (0, 1, 2), said
        ended += status == 0
        lines = one.lines[before:]
        assert not any("Traceback" in line.text for line in lines), said
        wait_until(lambda: one.processes() == [], lambda: f"left behind: {one.processes()}; {said}")  # noqa: B023
        if status == 0:
            assert is_shut_down(str(one.data_dir)), said
        else:
            assert any(
                line.text.startswith("pgidle: ") or line.data.get("state") == "failed" for line in lines
            ), said
    assert ended


def life(one: Supervised, how: str) -> None:
    """From the start to the end, with a client meanwhile who is served, if there is anybody to connect to."""
    mark = one.mark()
    one.start()
    with contextlib.suppress(AssertionError):
        one.wait_for_state("starting")
    if how == "at once":
        if one.running:
            one.signal(15)
        return
    with ThreadPoolExecutor(1) as pool:
        visit = pool.submit(query, one, "SELECT 1")
        failed = visit.exception()
    if how == "it is stopped" and one.running:
        one.signal(15)
    if failed is not None and "refused" not in str(failed):
        one.wait()
        assert not any(line.data.get("state") == "awake" for line in one.lines[mark:]), (
            f"{failed}; {one._tail()}"
        )

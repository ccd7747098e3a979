"""What tests of faults share: processes that are stopped, clients that connect meanwhile, the one line of a refusal."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg

import pgidle
from harness.clients import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Place
    from harness.supervised import Supervised


def complaint(one: Supervised, status: int) -> str:
    """The single line with which a start ended, and that it ended with this status and left nothing running."""
    ended = one.wait()
    assert ended == status, (ended, one.lines)
    said = [line.text for line in one.lines if not line.data]
    assert len(said) == 1, said
    assert said[0].startswith("pgidle: ")
    assert one.processes() == []
    return said[0]


def last_reason(one: Supervised) -> str:
    """Why it went into its last state."""
    return next(str(line.data["reason"]) for line in reversed(one.lines) if "state" in line.data)


def notes(one: Supervised, topic: str) -> list[str]:
    return [str(line.data["reason"]) for line in one.lines if line.data.get("topic") == topic]


def contents(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file's mode, size and time of change, but pgidle's own and the command line that Postgres notes."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if name.parts[0] not in ("pgidle", "postmaster.opts") and (path.is_file() or path.is_symlink()):
            seen = path.lstat()
            found[str(name)] = (seen.st_mode, seen.st_size, seen.st_mtime_ns)
    return found


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill a disk to the last byte but `leave`; the file that fills it."""
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as file:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        os.posix_fallocate(file.fileno(), 0, free - leave)
    return hog


@contextlib.contextmanager
def bystander(**how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with Postgres."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", **how) as one:
        try:
            yield one
        finally:
            assert one.stdin
            one.stdin.close()


def without_shim(place: Place) -> dict[str, str]:
    """Environment in which pgidle is one that was installed without a C compiler."""
    folder = place.folder("bare")
    shutil.copytree(
        Path(pgidle.__file__).parent, folder / "pgidle", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    folder.chmod(0o755)
    return {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def with_title(one: Supervised, title: str) -> list[psutil.Process]:
    """Processes of Postgres's that have this in their title. One that is gone meanwhile has none."""
    found = []
    for process in one.processes():
        with contextlib.suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


def child(one: Supervised, title: str) -> psutil.Process:
    """The postmaster's child that has this in its title."""
    found = with_title(one, title)
    assert len(found) == 1, found
    return found[0]


def connect(one: Supervised, **how: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(one.conninfo(), autocommit=True, connect_timeout=30, **how)


def query(one: Supervised, statement: str) -> Any:
    """The first value that a new session gets."""
    with connect(one) as connection:
        row = connection.execute(statement).fetchone()
        return row[0] if row else None


def carry_out(one: Supervised, *statements: str) -> None:
    """Each in a transaction of its own, all in one new session."""
    with connect(one) as connection:
        for statement in statements:
            connection.execute(statement)


def start_again(one: Supervised) -> None:
    """Start it, and wait until Postgres serves."""
    mark = one.mark()
    one.start()
    one.wait_for_state("awake", since=mark)


TRUST = {"POSTGRES_HOST_AUTH_METHOD": "trust", "POSTGRES_INITDB_ARGS": "--no-sync"}


@contextlib.contextmanager
def stopped(process: psutil.Process) -> Iterator[psutil.Process]:
    """Held with SIGSTOP inside the block."""
    process.suspend()
    try:
        yield process
    finally:
        if process.is_running():
            process.resume()


@contextlib.contextmanager
def arriving(one: Supervised, count: int) -> Iterator[list[object]]:
    """Clients who connect at once and ask one thing each; what they got is there when the block has ended."""
    got: list[object] = []
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(query, one, "SELECT count(*) FROM ledger") for _ in range(count)]
        yield got
        got += [future.exception() or future.result() for future in asked]


def ledger_of(one: Supervised, rows: int = 20) -> Ledger:
    ledger = Ledger()
    ledger.create(one.conninfo())
    with connect(one) as connection:
        for _ in range(rows):
            row = ledger.send(0)
            connection.execute("INSERT INTO ledger VALUES (%s, %s)", row)
            ledger.acknowledge(row)
    return ledger


@contextlib.contextmanager
def recovering(one: Supervised) -> Iterator[psutil.Process]:
    """In crash recovery, until the end of the block: the startup process, which is stopped."""
    mark = one.mark()
    startup: list[psutil.Process] = []

    def is_held() -> bool:
        # By /proc alone: it is there for some milliseconds.
        try:
            pid = int((one.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
            for each in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
                if "startup" in Path(f"/proc/{each}/cmdline").read_text():
                    os.kill(each, signal.SIGSTOP)
                    startup.append(psutil.Process(each))
        except (OSError, ValueError):
            return False
        return bool(startup)

    carry_out(one, "CREATE TABLE much AS SELECT repeat('x', 500) FROM generate_series(1, 60000)")
    postmaster = one.postmaster_pid
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not is_held():
        assert time.monotonic() < deadline
    with stopped(startup[0]):
        assert "awake" not in [line.data.get("state") for line in one.lines[mark:]]
        yield startup[0]


@contextlib.contextmanager
def held_stopping(one: Supervised) -> Iterator[psutil.Process]:
    """Stopping, as a backend does not hear that it is to end."""
    with connect(one) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        with stopped(backend):
            one.wait_for_state("stopping")
            yield backend

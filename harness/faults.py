"""What tests of faults have in common: the one line of a refusal, what lies in a folder, foreign processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg

import pgidle
from harness.installations import server_user

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


def as_server() -> dict[str, Any]:
    """Arguments of Popen that start a process as the user that runs Postgres."""
    user = server_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}


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

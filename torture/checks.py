"""What must hold after every round, whatever was done: each check returns what is wrong, in words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from harness.installations import run_as_server
from pgidle.observer.port_connections import scan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.installations import Installation

SAMPLE = 0.03
"""Seconds between two looks for a second postmaster."""

PATIENCE = 5.0
"""Seconds for what ends a moment later by itself: a socket being closed, a process being reaped."""

MARK = "TORTURE"
"""Environment variable by which every process of a run is known."""


def _read(pid: str, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208


def _cwd(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115
    except OSError:
        return ""


def processes(data_dir: Path) -> list[int]:
    """Pids of everything that has the data directory as its own and is no zombie."""
    ours = os.path.realpath(data_dir)
    return [int(pid) for pid in _pids() if _cwd(pid) == ours and _stat(pid)[0:1] != ["Z"]]


def _stat(pid: str) -> list[str]:
    """From the state on (proc_pid_stat(5))."""
    return _read(pid, "stat").rpartition(")")[2].split()


def postmasters(data_dir: Path) -> list[int]:
    """Living postmasters on a data directory: leaders of a process group, as its other processes are, but no children
    of another and without a title like theirs, which one that was just forked has not got yet. Who exits has none."""
    found = []
    pids = processes(data_dir)
    for pid in pids:
        stat, title = _stat(str(pid)), _read(str(pid), "cmdline")
        is_leader = len(stat) > 3 and int(stat[2]) == pid
        if is_leader and int(stat[1]) not in pids and title and not title.startswith("postgres: "):
            found.append(pid)
    return found


def images(pids: Iterable[int]) -> set[bytes]:
    """As many as were executed: what a postmaster forks has its address space, which each exec lays out anew by chance
    (AT_RANDOM, AT_SYSINFO_EHDR in getauxval(3)). Orphans of a postmaster that was killed may have no title yet."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if layout := Path(f"/proc/{pid}/auxv").read_bytes():
                found.add(layout)
    return found


class Sentry:
    """Looks for a second postmaster all the time that a round lasts."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.seen: list[str] = []
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Sentry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE):
            found = postmasters(self.data_dir)
            self.most = max(self.most, len(found))
            if len(found) > 1 and len(images(found)) > 1 and not self.seen:
                self.seen = [f"two postmasters on the data directory: {found} at {time.monotonic():.3f}"]


def orphans(data_dir: Path, mark: str) -> list[str]:
    """Processes that are left when all should have ended."""
    deadline = time.monotonic() + PATIENCE
    while left := _left(data_dir, mark):
        if time.monotonic() > deadline:
            return [f"still there: {pid} {_read(str(pid), 'cmdline')!r}" for pid in left]
        time.sleep(0.02)
    return []


def _left(data_dir: Path, mark: str) -> list[int]:
    marked = [
        int(pid)
        for pid in _pids()
        if f"{MARK}={mark}\0" in _read(pid, "environ") and _stat(pid)[0:1] != ["Z"]
    ]
    return sorted({*marked, *processes(data_dir)})


def descriptors(pid: int) -> Counter[str]:
    """Open descriptors of a process by kind."""
    kinds: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                kinds[re.sub(r"\[\d+\]|\d+", "", os.readlink(entry))] += 1  # noqa: PTH115
    # The library's that moves the clock, which opens it now and then.
    del kinds["/dev/shm/faketime_shm_"]
    return kinds


async def steady(pid: int) -> Counter[str]:
    """The descriptors of a process at rest: the same in some looks one after the other. The most of each kind where it
    does not come to rest, as one whose watching connection is made anew for each look."""
    last, same = descriptors(pid), 0
    most = last
    deadline = time.monotonic() + PATIENCE
    while same < 4 and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        now = descriptors(pid)
        same, last, most = (same + 1 if now == last else 0), now, most | now
    return last if same >= 4 else most


async def leaked(pid: int, before: Counter[str]) -> list[str]:
    """Kinds of which a process has more than such a process had at rest, and does not get rid of."""
    deadline = time.monotonic() + PATIENCE
    least = descriptors(pid)
    while more := (least := least & descriptors(pid)) - before:
        if time.monotonic() > deadline:
            return [f"leaked descriptors: {dict(more)} more than {dict(before)}"]
        await asyncio.sleep(0.05)
    return []


def inherited(supervisor: int, postmaster: int, port: int) -> list[str]:
    """Sockets of the supervisor's that Postgres holds too, but for the listeners, which they share."""
    listeners = {queue.inode for queue in scan(port).listeners} | _unix_listeners(port)
    shared = {f"socket:[{inode}]" for inode in listeners}
    both = (_sockets(supervisor) & _sockets(postmaster)) - shared
    return [f"the postmaster holds the supervisor's sockets {sorted(both)}"] if both else []


def _unix_listeners(port: int) -> set[int]:
    """Inodes, from proc_net_unix(5)."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()]
    return {int(words[6]) for words in lines if words[-1].endswith(f"/.s.PGSQL.{port}")}


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry))  # noqa: PTH115
    return {one for one in found if one.startswith("socket:")}


def checksums(installation: Installation, data_dir: Path) -> list[str]:
    """Every page of a stopped cluster, by pg_checksums."""
    try:
        run_as_server(installation.program("pg_checksums"), "--check", "-D", data_dir)
    except subprocess.CalledProcessError as error:
        return [f"pg_checksums: {error.stdout}{error.stderr}".strip()]
    return []


def amcheck(installation: Installation, port: int, *, whole: bool) -> list[str]:
    """The ledger and its index in a running cluster, by pg_amcheck; `whole`: every table and index."""
    says = subprocess.run(
        [
            *(installation.program("pg_amcheck"), "--install-missing", "--heapallindexed"),
            *(() if whole else ("-t", "ledger")),
            *("-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", "postgres"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return [f"pg_amcheck: {says.stdout}{says.stderr}".strip()] if says.returncode else []


BAD = re.compile(
    r"Traceback|cannot happen while|LookupError|invalid page|PANIC|could not remove shared|segment.*in use"
)


def bad_lines(lines: Iterable[str], expects_panic: bool) -> list[str]:
    """What nobody should have had to write."""
    found = [text for text in lines if BAD.search(text)]
    return [f"log: {text}" for text in found if not (expects_panic and "PANIC" in text)]

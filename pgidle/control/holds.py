"""The holds in force: taken, written for the next supervisor, and ended, each by its number.

A thread writes them, as a disk may be slow and the loop must not wait for it. A program's hold ends with the program:
its pidfd is watched, so there is no polling, and the hold cannot outlive the program, whatever happens to the client
that took it.
"""

from __future__ import annotations

import math
import os
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import PgidleError
from pgidle.control.hold_file import LARGEST, MOST, Hold, HoldFile, from_text, to_text
from pgidle.idle.policy import Lease
from pgidle.idle.reasons import duration_text, one_line
from pgidle.system.state_directory import HOLDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.control.orders import Program
    from pgidle.observer.timers import Timers
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir

    Kept = Callable[[int, str], None]
    """Called on another thread when a change has been written: with the hold's number, or how many were ended, and why
    writing failed (empty if it did not)."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Holds:
    """Belongs to the observer's loop, except for `leases`, which is replaced as a whole."""

    def __init__(
        self,
        state_dir: StateDir,
        timers: Timers,
        log: Log,
        content: str | None,
        changed: Callable[[str], None],
        ended: Callable[[int], None],
    ) -> None:
        """Continue with the holds of the observer before (`content`), or else with those in the file.

        `changed` is called with the file's content at each change; `ended`, with a hold's number, when that has ended
        with its program.
        """
        self.leases: tuple[Lease, ...] = ()
        self._timers = timers
        self._log = log
        self._changed = changed
        self._ended = ended
        self._is_told = content is not None
        self._last = 0
        self._boot = _read(BOOT_ID)
        self._holds: dict[int, tuple[Hold, Lease]] = {}
        self._pidfds: dict[int, int] = {}
        self._writer = _Writer(lambda content: state_dir.keep(HOLDS, content, durable=True))
        try:
            self._go_on(
                from_text(content) if content is not None else _read_file(f"{state_dir.path}/{HOLDS}")
            )
        except (OSError, ValueError) as error:
            where = f"{state_dir.path}/{HOLDS}"
            self._log.note("hold", f"ignoring {where}, which is not in pgidle's format: {error}")

    def take(self, seconds: float | None, why: str, program: Program | None, kept: Kept) -> int:
        """Take a hold; its number. Raises PgidleError if that is not possible."""
        self._forget_old()
        if len(self._holds) >= MOST:
            raise PgidleError(f"there are {MOST} holds already", "release some")
        hold = Hold(self._last + 1, time.time(), seconds, why, program)
        if program is not None and not self._watch(hold.number, program, is_new=True):
            raise PgidleError(
                f"pgidle cannot see process {program.pid} from where it runs",
                "start the program there (docker exec), or hold for a time",
            )
        self._last = hold.number
        self._add(hold)
        self._save(hold.number, kept)
        return hold.number

    def release(self, name: str | None, kept: Kept) -> None:
        """End one hold, or all. Raises PgidleError if there is no such hold."""
        self._forget_old()
        if name is not None and name not in map(str, self._holds):
            raise PgidleError(f"there is no hold {one_line(name)}", "pgidle status lists them")
        ended = [number for number in self._holds if name in (None, str(number))]
        for number in ended:
            self._drop(number)
        self._save(len(ended), kept)

    def _go_on(self, file: HoldFile) -> None:
        wall = time.time()
        self._last = file.last
        for kept in file.holds:
            hold = kept.counted_from(wall)
            if hold.left(wall) == 0:
                continue
            if hold.program is not None and not (
                file.boot == self._boot and self._watch(hold.number, hold.program, is_new=False)
            ):
                self._log.note("hold", f"{_name(hold)} ended: its program is gone, or cannot be identified")
                continue
            self._add(hold)
            if not self._is_told:
                ends = self._holds[hold.number][1].ends(time.monotonic())
                self._log.note("hold", f"{_name(hold)} is in force again; ends {ends}")
        if self._content() != file:
            self._save()
        elif not self._is_told:
            self._changed(to_text(file))

    def _add(self, hold: Hold) -> None:
        left = hold.left(time.time())
        until = math.inf if left is None else time.monotonic() + left
        program = (
            one_line(f"{hold.program.name} (pid {hold.program.pid})") if hold.program is not None else ""
        )
        self._holds[hold.number] = (hold, Lease(until, hold.why, str(hold.number), program))
        self._tell()

    def _tell(self) -> None:
        self.leases = tuple(lease for _, lease in self._holds.values())

    def _forget_old(self) -> None:
        now = time.monotonic()
        for number in [number for number, (_, lease) in self._holds.items() if lease.until <= now]:
            self._drop(number)

    def _drop(self, number: int) -> None:
        del self._holds[number]
        if (pidfd := self._pidfds.pop(number, None)) is not None:
            self._timers.forget(pidfd)
            os.close(pidfd)
        self._tell()

    def _content(self) -> HoldFile:
        return HoldFile(self._boot, self._last, tuple(hold for hold, _ in self._holds.values()))

    def _save(self, number: int = 0, kept: Kept | None = None) -> None:
        content = to_text(self._content())
        self._changed(content)
        self._writer.write(content, lambda error: kept(number, error) if kept else None)

    def _watch(self, number: int, program: Program, *, is_new: bool) -> bool:
        """Whether the program is running; if so, its hold ends when it exits.

        Another user's process may be hidden from us (hidepid, ProtectProc=). Then a new hold is accepted, as its
        program is waiting for the answer, and one from the file is not.
        """
        try:
            pidfd = os.pidfd_open(program.pid)
        except (OSError, OverflowError):
            return False
        started = start_of(program.pid)
        if started != program.started and not (is_new and started is None):
            os.close(pidfd)
            return False
        self._pidfds[number] = pidfd
        self._timers.watch(pidfd, lambda: self._on_end(number))
        return True

    def _on_end(self, number: int) -> None:
        hold, lease = self._holds[number]
        self._drop(number)
        self._save()
        if lease.until > time.monotonic():
            took = duration_text(max(0.0, time.time() - hold.taken_at))
            self._log.note("hold", f"{_name(hold)} ended after {took}, with {lease.program}")
        self._ended(number)


class _Writer:
    """Writes one content at a time; of several that wait, only the last. May be called from any thread."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, Callable[[str], None]]] = []
        self._is_busy = False

    def write(self, content: str, written: Callable[[str], None]) -> None:
        """`written` is called on the other thread with what went wrong (empty: nothing).

        If no thread can be started (pids.max, RLIMIT_NPROC), the caller waits for the disk.
        """
        with self._lock:
            self._waiting.append((content, written))
            if self._is_busy:
                return
            self._is_busy = True
        try:
            threading.Thread(target=self._run, name="holds", daemon=True).start()
        except RuntimeError:
            self._run()

    def _run(self) -> None:
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                if not waiting:
                    self._is_busy = False
                    return
            error = ""
            try:
                self._write(waiting[-1][0])
            except OSError as failed:
                error = failed.strerror or str(failed)
            for _, written in waiting:
                written(error)


def start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if that cannot be read."""
    # Field 22 (proc_pid_stat(5)), counted from the end of the name, which may contain anything.
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 else None


def _name(hold: Hold) -> str:
    return one_line(f"hold {hold.number}" + (f" ({hold.why})" if hold.why else ""))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read_file(path: str) -> HoldFile:
    """The file's content; no holds if there is no file. Raises OSError, or ValueError if it is not in our format."""
    try:
        # Postgres's user may have put something else there, such as a FIFO: opening it must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return HoldFile()
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return from_text(content.decode())

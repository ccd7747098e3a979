"""The holds that are in force: taken, kept for the next supervisor, and ended, each by its number.

They are written by a thread of their own, for a disk may take its time and the supervisor has none. A program's hold
ends with the program: its pidfd is watched, so nothing is asked again and again, and nothing that may happen to
whoever took the hold makes it stay.
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
    """Told, on another thread, when a change is kept: the hold's number or how many were ended, and why it could not be
    kept, or nothing."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Holds:
    """Belongs to the observer's loop, but for `leases`, which is replaced as a whole."""

    def __init__(
        self,
        state_dir: StateDir,
        timers: Timers,
        log: Log,
        content: str | None,
        changed: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        """Go on with what an earlier observer told (`content`), or else with what an earlier supervisor kept.

        `changed` is told each change, as the file has it; `ended` is called when a program's end has ended a hold.
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
            self._log.note("hold", f"{where} holds nothing, for it is not as pgidle writes it: {error}")

    def take(self, seconds: float | None, why: str, program: Program | None, kept: Kept) -> int:
        """A new hold's number. Raises PgidleError where it is not to be had."""
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
        """End one, or all. Raises PgidleError where there is no such hold."""
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
                self._log.note(
                    "hold", f"{_name(hold)} is over: its program has ended, or is not to be recognised"
                )
                continue
            self._add(hold)
            if not self._is_told:
                ends = self._holds[hold.number][1].ends(time.monotonic())
                self._log.note("hold", f"{_name(hold)} counts again; it ends {ends}")
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
        """Whether the program runs; then its end ends the hold.

        Another user's may be hidden from us (hidepid, ProtectProc=): then a new one is believed, for it waits for the
        answer, and one that a file tells of is not.
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
            self._log.note("hold", f"{_name(hold)} has ended after {took}, with {lease.program}")
        self._ended()


class _Writer:
    """Writes one content after the other; of those that wait, only the last. Any thread may ask."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, Callable[[str], None]]] = []
        self._is_busy = False

    def write(self, content: str, written: Callable[[str], None]) -> None:
        """`written` is told, on the other thread, what went wrong, or nothing.

        Where a limit leaves no thread (pids.max, RLIMIT_NPROC), the caller waits for the disk.
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
    """When a process started, in clock ticks since boot; None where that cannot be read."""
    # Behind the name, which may hold anything: field 22 (proc_pid_stat(5)).
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
    """What was kept; nothing where there is no file. Raises OSError, or ValueError for what we did not write."""
    try:
        # Whatever Postgres's user has put there must not keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return HoldFile()
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file")
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} bytes")
    return from_text(content.decode())

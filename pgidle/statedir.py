"""The state directory: one supervisor at a time, and what it leaves for the next one.

`lock` is held (flock(2)) while a supervisor lives; its two lines are the supervisor's pid and the postmaster's.
`last.json` is about the last sleep and outlives it, as do the holds in `holds.json`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from pgidle.errors import PgidleError

LAST_SLEEP = "last.json"
HOLDS = "holds.json"
CONTROL_SOCKET = "control.sock"
RECORD_BYTES = 48
"""Size of `lock`, always: what is written later takes no room that a full disk might not have."""
FORK_PATIENCE = 1.0
"""Seconds for a killed supervisor's forked child to reach exec(3), and with it give up the lock."""


class StateDir:
    """A state directory that is ours alone until this process ends."""

    def __init__(self, path: str) -> None:
        """Create it if needed and take its lock. Raises PgidleError where it cannot be had."""
        self.path = path
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._lock = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take()
            self.earlier_postmaster = _record(self._lock)[1]
            """Pid of the postmaster that the supervisor before us started, if it had no time to forget it."""
            self._write(self.earlier_postmaster)
        except OSError as error:
            raise PgidleError(
                f"cannot write the state directory {path}: {error.strerror}",
                "put that right, or set --state-dir",
            ) from error

    def remember_postmaster(self, pid: int | None) -> None:
        """Write down whom we started, for a successor who finds it alive after we were killed.

        Where the disk takes nothing, not even in place, it is left: nobody who waits is refused for it, and only such
        a successor will not know.
        """
        try:
            self._write(pid)
        except OSError:
            return

    def _write(self, pid: int | None) -> None:
        text = f"{os.getpid()}\n{pid or ''}\n".encode()
        os.pwrite(self._lock, text.ljust(RECORD_BYTES), 0)

    def keep(self, name: str, content: str, *, durable: bool = False) -> None:
        """Write a file as a whole or not at all; `durable`: on return it survives a loss of power. Raises OSError."""
        target = f"{self.path}/{name}"
        with open(f"{target}.new", "w", encoding="utf-8") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(f"{target}.new", target)
        if durable:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def find(self, name: str) -> str | None:
        """What was kept under a name, or None."""
        try:
            with open(f"{self.path}/{name}", encoding="utf-8") as file:
                return file.read()
        except (OSError, UnicodeDecodeError):
            return None

    def _take(self) -> None:
        deadline = time.monotonic() + FORK_PATIENCE
        while _is_taken(self._lock):
            holder = _record(self._lock)[0]
            if holder is None or os.path.exists(f"/proc/{holder}") or time.monotonic() > deadline:
                raise _served(self._lock)
            time.sleep(0.01)


def refuse_served(path: str) -> None:
    """Raise PgidleError where another supervisor has the state directory. Nothing is made or changed."""
    try:
        descriptor = os.open(f"{path}/lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if _is_taken(descriptor):
            raise _served(descriptor)
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int) -> bool:
    """Take the lock, unless somebody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return True
    return False


def _served(descriptor: int) -> PgidleError:
    holder = _record(descriptor)[0] or "unknown"
    return PgidleError(f"pgidle with pid {holder} already serves this data directory", "stop that one")


def _record(descriptor: int) -> tuple[int | None, int | None]:
    """The pids of the supervisor and of its postmaster, as far as they are there."""
    lines = [*os.pread(descriptor, RECORD_BYTES, 0).split(b"\n"), b"", b""]
    return _number(lines[0]), _number(lines[1])


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None

"""The state directory: one supervisor at a time, and what it leaves for the next one.

`lock` is held (flock(2)) while a supervisor lives; its two lines are the supervisor's pid and the postmaster's.
`last.json` is about the last sleep and outlives it.
"""

from __future__ import annotations

import errno
import fcntl
import os

from pgidle.errors import PgidleError

LAST_SLEEP = "last.json"
CONTROL_SOCKET = "control.sock"


class StateDir:
    """A state directory that is ours alone until this process ends."""

    def __init__(self, path: str) -> None:
        """Create it if needed and take its lock. Raises PgidleError where it cannot be had."""
        self.path = path
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._lock = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PgidleError(
                f"cannot write the state directory {path}: {error.strerror}", "set --state-dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            holder = os.pread(self._lock, 64, 0).split(b"\n")[0].decode() or "unknown"
            raise PgidleError(
                f"pgidle with pid {holder} already serves this data directory", "stop that one"
            ) from error
        self.earlier_postmaster = self._read_postmaster()
        """Pid of the postmaster that the supervisor before us started, if it had no time to forget it."""

    def remember_postmaster(self, pid: int | None) -> None:
        """Write down whom we started, for a successor who finds it alive after we were killed."""
        text = f"{os.getpid()}\n{pid or ''}\n".encode()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, text, 0)

    def keep(self, name: str, content: str) -> None:
        """Write a file as a whole or not at all. Raises OSError."""
        target = f"{self.path}/{name}"
        with open(f"{target}.new", "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(f"{target}.new", target)

    def find(self, name: str) -> str | None:
        """What was kept under a name, or None."""
        try:
            with open(f"{self.path}/{name}", encoding="utf-8") as file:
                return file.read()
        except (OSError, UnicodeDecodeError):
            return None

    def _read_postmaster(self) -> int | None:
        lines = os.pread(self._lock, 64, 0).split(b"\n")
        return int(lines[1]) if len(lines) > 1 and lines[1].isdigit() else None

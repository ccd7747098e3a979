"""The state directory: it allows one supervisor at a time, and keeps what that leaves for the next one.

`lock` is locked (flock(2)) while a supervisor lives. Its two lines are the pids of the supervisor and of the
postmaster; after them it has the reason why a supervisor failed, until Postgres has started again. `last.json`, about
the last sleep, and `holds.json` outlive the supervisor. Everything is opened relative to the folder's descriptor, and
never through a link. A folder that others can write to is refused: they could direct us to any of this user's files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from pgidle.base.checked import LATEST
from pgidle.base.errors import PgidleError
from pgidle.system.trusted_path import judge, open_folder, trust_in
from pgidle.system.users import user_name

LAST_SLEEP = "last.json"
LOCK = "lock"
WATCH_ROLE = "watch-role"
"""The file is there if the last look found a role that was made for pgidle to watch with."""
HOLDS = "holds.json"
LARGEST = 1 << 20
"""Bytes: more than any file that is kept there has."""
RECORD_BYTES = 48
"""Bytes of the two lines, padded, so that rewriting them needs no space on a disk that may be full."""
FAILURE_BYTES = 2000
"""Bytes of what follows, a moment (Unix time) and the reason: within the same block on any file system."""
FORK_PATIENCE = 1.0
"""Seconds for a killed supervisor's forked child to reach exec(3), which closes its copy of the lock."""


class StateDir:
    """A state directory, locked by us until this process ends. `folder` is its descriptor."""

    def __init__(self, path: str) -> None:
        """Create it if needed and lock it. Raises PgidleError if either fails."""
        self.path = path
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            self.folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            _refuse_shared(path, os.fstat(self.folder))
            self._lock = open_own(LOCK, self.folder, os.O_RDWR | os.O_CREAT)
            self._take()
            if os.fstat(self._lock).st_size < RECORD_BYTES + FAILURE_BYTES:
                os.pwrite(self._lock, b" " * FAILURE_BYTES, RECORD_BYTES)
            self.earlier_postmaster = _record(self._lock)[1]
            """Pid of the postmaster that the previous supervisor started, if that was killed before it could remove
            it."""
            self._write(self.earlier_postmaster)
        except OSError as error:
            raise PgidleError(
                f"cannot write the state directory {path}: {error.strerror}",
                "put that right, or set --state-dir",
            ) from error

    def remember_postmaster(self, pid: int | None) -> None:
        """Write down the postmaster's pid, for a successor that finds it alive after we were killed.

        A failure is ignored: no waiting client should be refused because of it, and only such a successor lacks the
        pid.
        """
        try:
            self._write(pid)
        except OSError:
            return

    def keep_failure(self, why: str | None) -> None:
        """Write down why this supervisor ends, for commands that ask while nothing runs; None: Postgres has started.

        It is written in place, as the reason may be that the disk is full. If that fails, only the log has it.
        """
        text = f"{time.time():.3f} {why}".encode(errors="replace")[:FAILURE_BYTES] if why is not None else b""
        try:
            os.pwrite(self._lock, text.ljust(FAILURE_BYTES), RECORD_BYTES)
        except OSError:
            return

    def _write(self, pid: int | None) -> None:
        text = f"{os.getpid()}\n{pid or ''}\n".encode()
        os.pwrite(self._lock, text.ljust(RECORD_BYTES), 0)

    def keep(self, name: str, content: str, *, durable: bool = False) -> None:
        """Write a file completely or not at all. `durable`: once this returns, it survives a power loss. Raises
        OSError."""
        new = f"{name}.new"
        try:
            os.unlink(new, dir_fd=self.folder)
        except FileNotFoundError:
            pass
        descriptor = open_own(new, self.folder, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(new, name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        if durable:
            folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.folder)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def find(self, name: str) -> str | None:
        """The content of a file written by `keep`; None if there is none."""
        try:
            return read_kept(self.folder, name).decode()
        except (OSError, UnicodeDecodeError):
            return None

    def forget(self, name: str) -> None:
        """Remove a file written by `keep`, if it is there. Raises OSError."""
        try:
            os.unlink(name, dir_fd=self.folder)
        except FileNotFoundError:
            return

    def _take(self) -> None:
        deadline = time.monotonic() + FORK_PATIENCE
        while _is_taken(self._lock):
            holder = _record(self._lock)[0]
            if holder is None or os.path.exists(f"/proc/{holder}") or time.monotonic() > deadline:
                raise _served(self._lock)
            time.sleep(0.01)


def refuse_served(path: str) -> None:
    """Raise PgidleError if another supervisor has locked the state directory. Nothing is made or changed."""
    try:
        folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            descriptor = open_own(LOCK, folder, os.O_RDONLY)
        finally:
            os.close(folder)
    except OSError:
        return
    try:
        if _is_taken(descriptor):
            raise _served(descriptor)
    finally:
        os.close(descriptor)


def open_of_another(path: str) -> int:
    """Open a supervisor's state directory from another process: a descriptor. Raises OSError.

    The owner could have put links on the way there: they may lead to folders of that owner's, and to nobody else's.
    """
    path = os.path.abspath(path)
    owner = os.stat(path)
    folder, _ = open_folder(path, trust_in(owner.st_uid, owner.st_gid))
    if os.fstat(folder).st_uid != owner.st_uid:
        os.close(folder)
        raise OSError(errno.ELOOP, "it has just been replaced", path)
    return folder


def read_kept(folder: int, name: str) -> bytes:
    """Read a file in a state directory. Not followed: links and pipes that others could have put there. Raises
    OSError."""
    with open(open_own(name, folder, os.O_RDONLY), "rb") as file:
        return file.read(LARGEST)


def last_failure(path: str) -> tuple[float, str] | None:
    """When (Unix time) and why the last supervisor of a state directory failed; None if Postgres has started since, or
    if it cannot be read."""
    try:
        folder = open_of_another(path)
        try:
            said = read_kept(folder, LOCK)[RECORD_BYTES : RECORD_BYTES + FAILURE_BYTES]
        finally:
            os.close(folder)
        at, _, why = said.decode(errors="replace").strip().partition(" ")
        return (float(at), why) if why and 0 <= float(at) <= LATEST else None
    except (OSError, ValueError):
        return None


def open_own(name: str, folder: int, flags: int) -> int:
    """Open a regular file of ours. O_NONBLOCK, as opening a pipe would wait for its other end. Raises OSError."""
    also = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(name, flags | also, 0o600, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{name} is not a regular file")
    return descriptor


def _refuse_shared(path: str, found: os.stat_result) -> None:
    """Raise PgidleError if others may write to it. As for settings files, the user's own group may."""
    weakness = judge(path, found, trust_in(os.geteuid(), os.getegid()))
    if found.st_uid == os.geteuid() and weakness is None and not found.st_mode & stat.S_IWOTH:
        return
    user = user_name(os.geteuid())
    raise PgidleError(
        f"state directory {path} is not {user}'s alone to write",
        f"chown {user} and chmod 0700 it, or set --state-dir to a folder of its own",
    )


def _is_taken(descriptor: int) -> bool:
    """Whether somebody else has the lock; else it is ours now. Raises OSError."""
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
    """The pids of the supervisor and of its postmaster; None for one that is not there."""
    lines = [*os.pread(descriptor, RECORD_BYTES, 0).split(b"\n"), b"", b""]
    return _number(lines[0]), _number(lines[1])


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None

"""The file of a Unix socket and the lock file beside it: who owns them, and how they are held.

The rule is Postgres's own (CreateLockFile in miscinit.c): `.s.PGSQL.5432.lock` names a process, and the path belongs to
that process for as long as it lives. A server ignores a lock of its parent's, so Postgres can take over what the
supervisor holds while it sleeps.
"""

from __future__ import annotations

import os
import stat
import time

from pgidle.base.record import record

TOUCH_EVERY = 3000.0
"""Seconds between two touches, for programs that clean /tmp. Postgres does it every 58 minutes."""


@record
class SocketFile:
    """The file of a Unix socket of ours, recognised by its inode: one day another file may be at its path."""

    path: str
    device: int
    inode: int
    mode: int
    group: int

    @property
    def lock(self) -> str:
        return f"{self.path}.lock"

    def is_in_place(self) -> bool:
        """Whether the path still leads clients to our socket. Raises OSError."""
        found = find(self.path)
        return found is not None and (found.device, found.inode) == (self.device, self.inode)

    def touch(self) -> None:
        """Update the times of both, so that they do not look old. Raises OSError."""
        os.utime(self.lock)
        os.utime(self.path)

    def remove(self) -> None:
        """Remove both, each only if it is ours. Raises OSError."""
        if self.is_in_place():
            os.unlink(self.path)
        release_lock(self.path)


def find(path: str) -> SocketFile | None:
    """The file at a path, if there is one. Raises OSError if that cannot be found out."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return SocketFile(path, found.st_dev, found.st_ino, found.st_mode & 0o777, found.st_gid)


def owner(path: str) -> int | None:
    """The process that the lock of a socket's path names; None where there is no lock, or no number in it."""
    try:
        # In a folder that anybody may write to, it can be anything: opening a pipe must not block.
        with open(os.open(f"{path}.lock", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            number = file.read(32).split(b"\n")[0].strip()
    except FileNotFoundError:
        return None
    try:
        return abs(int(number)) or None
    except ValueError:
        return None


def lock_owner(path: str) -> str:
    """For the log: who owns a lock that we cannot take over."""
    from pgidle.system.users import user_name

    try:
        found = os.lstat(f"{path}.lock")
    except OSError:
        return "it cannot be made"
    if found.st_uid == os.geteuid():
        return "it cannot be replaced"
    kind = "" if stat.S_ISREG(found.st_mode) else "no plain file, and "
    return f"{kind}{user_name(found.st_uid)}'s: Postgres does not start until it is removed"


def release_lock(path: str) -> None:
    """Remove the lock file if it is ours. Raises OSError."""
    if owner(path) == os.getpid():
        os.unlink(f"{path}.lock")


def is_alive(pid: int) -> bool:
    """Whether we may signal a process with this pid. One of another user's cannot hold a lock of ours."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def hold_lock(path: str, data_dir: str, port: int) -> None:
    """Replace the lock file by one that names us, atomically, so that there is a lock at any time. Raises OSError.

    Call it for a path whose postmaster has ended and is not reaped yet: until then no other process gets its pid.
    """
    lines = (str(os.getpid()), data_dir, str(int(time.time())), str(port), os.path.dirname(path))
    # A name that nobody can guess, so that the file is certainly ours.
    new = f"{path}.lock.{os.urandom(8).hex()}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(descriptor, os.fsencode("\n".join(lines) + "\n"))
        finally:
            os.close(descriptor)
        os.rename(new, f"{path}.lock")
    except OSError:
        os.unlink(new)
        raise

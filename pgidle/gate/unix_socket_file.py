"""The file of a Unix socket, and the lock file beside it: whose they are, and that they stay.

The rule is Postgres's own (CreateLockFile in miscinit.c): `.s.PGSQL.5432.lock` names a process, and the path is that
process's for as long as it lives. A server takes no lock of its parent's for an obstacle, so that what the supervisor
holds while Postgres sleeps, Postgres can take over.
"""

from __future__ import annotations

import os
import stat
import time

from pgidle.base.record import record

TOUCH_EVERY = 3000.0
"""Seconds between two touches, for cleaners of /tmp: Postgres does it every 58 minutes."""


@record
class SocketFile:
    """The file of a Unix socket that is ours, known by its number: somebody else's may stand there one day."""

    path: str
    device: int
    inode: int
    mode: int
    group: int

    @property
    def lock(self) -> str:
        return f"{self.path}.lock"

    def is_in_place(self) -> bool:
        """Whether clients still come to us by it."""
        found = find(self.path)
        return found is not None and (found.device, found.inode) == (self.device, self.inode)

    def touch(self) -> None:
        """Keep both from being taken for old. Raises OSError where that is not allowed."""
        os.utime(self.lock)
        os.utime(self.path)

    def remove(self) -> None:
        """Take both away, each if it is ours. Raises OSError."""
        if self.is_in_place():
            os.unlink(self.path)
        release_lock(self.path)


def find(path: str) -> SocketFile | None:
    """The file that stands there, if any does. Raises OSError where that cannot be told."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return SocketFile(path, found.st_dev, found.st_ino, found.st_mode & 0o777, found.st_gid)


def owner(path: str) -> int | None:
    """The process that the lock of a socket's path names; None where there is no lock, or no number in it."""
    try:
        # Anybody may have put anything there, where the folder is anybody's: a pipe must hold nobody up.
        with open(os.open(f"{path}.lock", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            number = file.read(32).split(b"\n")[0].strip()
    except FileNotFoundError:
        return None
    try:
        return abs(int(number)) or None
    except ValueError:
        return None


def lock_owner(path: str) -> str:
    """Whose the lock of a socket's path is that cannot be made ours, for a person."""
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
    """Take the lock away, if it is ours. Raises OSError."""
    if owner(path) == os.getpid():
        os.unlink(f"{path}.lock")


def is_alive(pid: int) -> bool:
    """Whether a process of this number can be signalled by us: another user's holds no lock of ours."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def hold_lock(path: str, data_dir: str, port: int) -> None:
    """Name ourselves in the lock, whoever was there: all at once, so that nobody finds none. Raises OSError.

    For a path whose postmaster has ended and is not reaped yet; until then its number is nobody else's.
    """
    lines = (str(os.getpid()), data_dir, str(int(time.time())), str(port), os.path.dirname(path))
    # A name that nobody else can have taken, and a file that is ours.
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

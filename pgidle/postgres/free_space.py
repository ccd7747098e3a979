"""How much disk space Postgres has: statvfs(3) of its data directory and of its WAL."""

from __future__ import annotations

import os

from pgidle.idle.snapshot import FreeSpace


def room_of(postmaster: int) -> FreeSpace:
    """The space left for the postmaster's user on whichever file system has least. Raises OSError.

    Unknown if the postmaster has just ended, which is noticed elsewhere.
    """
    # Its working directory is the data directory (ChangeToDataDir in miscinit.c).
    try:
        return room_in(f"/proc/{postmaster}/cwd")
    except FileNotFoundError:
        return FreeSpace()


def room_in(data_dir: str) -> FreeSpace:
    """The space left in a data directory for any user but root. Raises OSError.

    A file system that reports no blocks has no known size (ramfs, tmpfs with size=0, some FUSE file systems), and one
    that reports no inodes does not count them (btrfs, tmpfs with nr_inodes=0). Space reserved for root does not count
    as free. Quotas cannot be seen.
    """
    systems = [os.statvfs(f"{data_dir}{part}") for part in ("", "/pg_wal")]
    return FreeSpace(
        free_bytes=min((one.f_bavail * one.f_frsize for one in systems if one.f_blocks), default=None),
        free_files=min((one.f_favail for one in systems if one.f_files), default=None),
        is_read_only=any(one.f_flag & os.ST_RDONLY for one in systems),
    )

"""How much room Postgres has: statvfs(3) of its data directory and of its WAL."""

from __future__ import annotations

import os

from pgidle.idle.snapshot import Room


def room_of(postmaster: int) -> Room:
    """What the postmaster's user may still write, where that is least. Raises OSError.

    Nothing is known where the postmaster has just ended, of which others tell.
    """
    # Its working directory is the data directory (ChangeToDataDir in miscinit.c).
    try:
        return room_in(f"/proc/{postmaster}/cwd")
    except FileNotFoundError:
        return Room()


def room_in(data_dir: str) -> Room:
    """The same of a data directory, for any user but root. Raises OSError.

    A file system without any blocks tells no size (ramfs, tmpfs with size=0, some of FUSE's), and one without any
    inodes does not count them (btrfs, tmpfs with nr_inodes=0). What is reserved for root is not free. A quota shows
    nowhere.
    """
    systems = [os.statvfs(f"{data_dir}{part}") for part in ("", "/pg_wal")]
    return Room(
        free_bytes=min((one.f_bavail * one.f_frsize for one in systems if one.f_blocks), default=None),
        free_files=min((one.f_favail for one in systems if one.f_files), default=None),
        is_read_only=any(one.f_flag & os.ST_RDONLY for one in systems),
    )

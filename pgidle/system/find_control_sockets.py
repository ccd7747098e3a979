"""The supervisors of this machine, found by their control sockets in the kernel's table of Unix sockets.

The table (/proc/net/unix: unix_seq_show in net/unix/af_unix.c) is that of this network namespace. It has the names
that sockets were bound under, which anybody may have chosen: so a name leads only to a folder that has a supervisor's
lock, and `control_socket.connect` looks at it once more.
"""

from __future__ import annotations

import os
from collections import Counter

from pgidle.base.record import record
from pgidle.system.control_socket import NAME
from pgidle.system.state_directory import LOCK, open_of_another, read_kept

TABLE = "/proc/net/unix"
MOST = 100
"""Supervisors that are asked: each takes a thread."""
ACCEPTS = 0x10000
"""The flag of a socket that listens: __SO_ACCEPTCON in include/linux/net.h."""


@record
class Found:
    """State directories of supervisors that may be asked, with their owners' uids; how many are `left_out`, as there
    are too many, and how many more there seem to be."""

    owned: tuple[tuple[str, int], ...]
    left_out: int
    hidden: int


def find() -> Found:
    """Those that run now. Raises OSError where the table cannot be read."""
    with open(TABLE, "rb") as table:
        return judged(names(table.read()))


def names(table: bytes) -> tuple[str, ...]:
    """The folders of sockets in the table that listen under the control socket's name. Pure."""
    found = set()
    for line in table.split(b"\n"):
        # Num RefCount Protocol Flags Type St Inode Path, which may have spaces.
        words = line.split(None, 7)
        folder, _, name = words[7].rpartition(b"/") if len(words) == 8 else (b"", b"", b"")
        if name == os.fsencode(NAME) and folder.startswith(b"/") and _flags(words[3]) & ACCEPTS:
            found.add(os.fsdecode(folder))
    return tuple(sorted(found))


def judged(folders: tuple[str, ...]) -> Found:
    """Which of these folders are a supervisor's state directory, by the lock in it."""
    owned: list[tuple[str, int]] = []
    hidden = 0
    for path in folders:
        if path.startswith("/proc/"):
            hidden += 1  # Its path was too long to be the socket's name.
            continue
        try:
            folder = open_of_another(path)
            try:
                first = read_kept(folder, LOCK).partition(b"\n")[0]
                owner = os.fstat(folder).st_uid
            finally:
                os.close(folder)
        except (PermissionError, FileNotFoundError):
            # Another user's, or in another mount namespace: a container in this network namespace.
            hidden += 1
        except OSError:
            continue
        else:
            if first.isdigit():
                owned.append((path, owner))
    kept = _fairly(owned)
    return Found(kept, len(owned) - len(kept), hidden)


def _fairly(owned: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """At most MOST of them, the same number of each owner's: no user can make so many that others' are left out."""
    of_owner: Counter[int] = Counter()
    ranked = []
    for path, owner in owned:
        of_owner[owner] += 1
        ranked.append((of_owner[owner], path, owner))
    return tuple(sorted((path, owner) for _, path, owner in sorted(ranked)[:MOST]))


def _flags(word: bytes) -> int:
    try:
        return int(word, 16)
    except ValueError:
        return 0

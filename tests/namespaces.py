"""A network namespace of a test's own, with loopback up, entered by the test's own thread and left again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from ctypes import CDLL
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
MIGRATION = Path("/proc/sys/net/ipv4/tcp_migrate_req")
# A command before another, by which that has not the right to set it: the user's, who runs Postgres.
UNPRIVILEGED = "setpriv --reuid={0.pw_uid} --regid={0.pw_gid} --clear-groups"


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Everything in the block, new child processes included, sees a network of its own. Needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a network namespace")
    libc = CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip("needs the right to make a network namespace (CAP_SYS_ADMIN)")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH", b"lo", IFF_UP))
            yield
        finally:
            assert libc.setns(home, CLONE_NEWNET) == 0
    finally:
        os.close(home)


def set_migration(on: bool) -> None:
    """Whether this network's kernel moves parked connections. /proc/sys/net is the reading thread's own network's."""
    if not MIGRATION.exists():
        pytest.skip("this kernel has no net.ipv4.tcp_migrate_req (Linux 5.14)")
    MIGRATION.write_text("1" if on else "0", encoding="ascii")


def migration_is_on() -> bool:
    """Whether `pgidle run` will find, or as root set, tcp_migrate_req=1 in this network."""
    if not MIGRATION.exists():
        return False
    return os.access(MIGRATION, os.W_OK) or MIGRATION.read_text(encoding="ascii").strip() == "1"

"""A network namespace for a test, with loopback up, entered and left by the test's own thread."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from ctypes import CDLL
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
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

"""If we are root, network and mount namespaces for the whole run, so that it touches nobody else's."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from harness.namespaces import IFF_UP, SIOCSIFFLAGS

INSIDE = "TORTURE_INSIDE"

SHARED_MEMORY = Path("/dev/shm")


def enter() -> bool:
    """Start this program again in namespaces of its own; whether we are there. False where we may not."""
    if os.geteuid() != 0:
        return False
    if os.environ.get(INSIDE):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH", b"lo", IFF_UP))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "torture", str(SHARED_MEMORY)], check=True)
        return True
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    if probe.returncode == 0:
        again = ["unshare", "--net", "--mount", sys.executable, "-m", "torture", *sys.argv[1:]]
        os.execvpe("unshare", again, os.environ | {INSIDE: "1"})
    return False


def forget_clocks() -> None:
    """Remove what libfaketime has left there of processes that were killed: it is named by the pid, and one that was
    root's ends whoever has that pid later and is not root."""
    for left in SHARED_MEMORY.glob("*faketime*") if os.environ.get(INSIDE) else ():
        left.unlink()

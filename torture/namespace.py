"""Network and mounts of our own, where we are root, for the whole run, so that nobody else's is touched."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys

from namespaces import IFF_UP, SIOCSIFFLAGS

INSIDE = "TORTURE_INSIDE"


def enter() -> bool:
    """Start this program again in namespaces of its own; whether we are there. False where we may not."""
    if os.geteuid() != 0:
        return False
    if os.environ.get(INSIDE):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH", b"lo", IFF_UP))
        return True
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    if probe.returncode == 0:
        again = ["unshare", "--net", "--mount", sys.executable, "-m", "torture", *sys.argv[1:]]
        os.execvpe("unshare", again, os.environ | {INSIDE: "1"})
    return False

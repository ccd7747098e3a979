"""The first process of a container: sets up its root as specified, and becomes the image's entrypoint.

    unshare --pid --mount --ipc --uts --fork python -I engine.py SPECIFICATION

It does what a container engine does, as far as that matters here: mounts, the capabilities that Docker leaves to root,
/proc/sys read-only. The network is whatever the caller is in.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = (
    *(1, 2, 4, 32, 4096, 8192, 16384, 1 << 18),
)
PR_CAPBSET_DROP = 24
# By number, linux/capability.h: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
# net_raw, sys_chroot, mknod, audit_write, setfcap.
DOCKERS_CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = (source.encode(), os.fsencode(target), kind.encode(), flags, data.encode())
    if LIBC.mount(*arguments):
        raise OSError(ctypes.get_errno(), f"mount {source} at {target}")


def bind(source: str, target: Path, *, read_only: bool = False) -> None:
    mount(source, target, flags=MS_BIND)
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def main() -> None:
    said = json.loads(sys.argv[1])
    mount("", "/", flags=MS_REC | MS_PRIVATE)
    work, root = Path(said["work"]), Path(said["work"], "root")
    mount("tmpfs", work, "tmpfs")
    for name in ("root", "upper", "workdir"):
        (work / name).mkdir()
    layers = f"lowerdir={said['image']},upperdir={work}/upper,workdir={work}/workdir"
    mount("overlay", root, "overlay", data=layers)
    for name in (*said["volumes"], *said["tmpfs"]):
        (root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    if said["read_only"]:
        mount("", root, flags=MS_REMOUNT | MS_RDONLY)
    mount("proc", root / "proc", "proc")
    bind(str(root / "proc/sys"), root / "proc/sys", read_only=True)
    mount("sysfs", root / "sys", "sysfs", MS_RDONLY)
    mount("tmpfs", root / "dev", "tmpfs")
    for name in DEVICES:
        (root / "dev" / name).touch()
        bind(f"/dev/{name}", root / "dev" / name)
    for link, target in (("fd", "/proc/self/fd"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (root / "dev" / link).symlink_to(target)
    (root / "dev/shm").mkdir()
    mount("tmpfs", root / "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m")
    for name in said["tmpfs"]:
        mount("tmpfs", root / name.lstrip("/"), "tmpfs", data="mode=1777")
    for name, source in said["volumes"].items():
        # One may be mounted inside another.
        (root / name.lstrip("/")).mkdir(exist_ok=True)
        bind(source, root / name.lstrip("/"))
    os.chdir(root)
    mount(".", "/", flags=MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    socket.sethostname("container")
    for number in set(range(64)) - DOCKERS_CAPABILITIES:
        LIBC.prctl(PR_CAPBSET_DROP, number)
    uid, gid = said["user"]
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o022)
    # The clock is one for all: when the container began, without what it took to lay it out.
    sys.stdout.write(f"engine: {time.monotonic()}\n")
    sys.stdout.flush()
    os.execvpe(said["command"][0], said["command"], said["env"])


main()

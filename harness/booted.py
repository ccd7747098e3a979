"""The real systemd as the first process in its own namespaces, on this machine's files, which it cannot change.

    with Booted(scratch) as machine:
        machine.install(folder)                       # units, as a user would copy them
        machine.run("systemctl", "start", "pgidle.socket")
        with machine.network():
            psycopg.connect(...)

Its root is an overlay on this machine's root: what it writes is in memory, and is gone when it ends. It cannot change
any kernel setting. `scratch` is a folder that it shares with this machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from ctypes import CDLL, get_errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LIBC = CDLL(None, use_errno=True)
SYSTEMD = Path("/usr/lib/systemd/systemd")
UNSHARE = ("unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--kill-child")
PATIENCE = 30.0

# What a machine does at boot that has nothing to do with the units under test, or that would cost seconds.
MASKED = (
    *("systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-clean.timer"),
    *(
        "systemd-sysusers.service",
        "systemd-modules-load.service",
        "systemd-remount-fs.service",
        "modprobe@.service",
    ),
    *("systemd-journal-flush.service", "systemd-journald-audit.socket", "systemd-update-utmp.service"),
    *("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-random-seed.service"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount"),
    *("dbus.socket", "dbus.service", "apparmor.service", "systemd-machine-id-commit.service"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path", "systemd-timesyncd.service"),
)

# $1: an empty folder. $2: the scratch folder. The rest are folders to show as they are, for what is mounted apart.
BOOT = """
set -eu
top=$1 scratch=$2 new=$1/new
shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$top"
mkdir "$top/upper" "$top/work" "$new"
mount -t overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" none "$new"
for folder; do
    mkdir -p "$new$folder"
    mount --bind "$folder" "$new$folder"
    mount -o remount,bind,ro "$new$folder"
done
mount --bind "$scratch" "$new$scratch"
mount -t proc none "$new/proc"
mount --bind "$new/proc/sys" "$new/proc/sys"
mount -o remount,bind,ro "$new/proc/sys"
mount -t sysfs none "$new/sys"
mount -t cgroup2 none "$new/sys/fs/cgroup"
mount -o remount,bind,ro "$new/sys"
mount -t tmpfs -o mode=755 none "$new/dev"
for name in null zero full random urandom tty; do
    : >"$new/dev/$name"
    mount --bind "/dev/$name" "$new/dev/$name"
done
mkdir "$new/dev/shm" "$new/dev/pts"
mount -t tmpfs -o mode=1777 none "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 none "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
mount -t tmpfs -o mode=755 none "$new/run"
mount -t tmpfs -o mode=755 none "$new/etc/systemd"
mkdir -p "$new/etc/systemd/system" "$new/run/postgresql" "$new/var/log/journal"
rm -rf "$new/var/log/journal" "$new/etc/machine-id" "$new/etc/fstab"
echo 0123456789abcdef0123456789abcdef >"$new/etc/machine-id"
if id postgres >/dev/null 2>&1; then chown postgres: "$new/run/postgresql"; fi
for unit in $MASKED; do ln -s /dev/null "$new/etc/systemd/system/$unit"; done
ln -s /usr/lib/systemd/system/basic.target "$new/etc/systemd/system/default.target"
mkdir "$new/old"
cd "$new"
pivot_root . old
umount -l /old
echo booted >/proc/sys/kernel/hostname 2>/dev/null || true
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=pgidle-test \
    /usr/lib/systemd/systemd --system
"""


def why_not() -> str | None:
    """What is missing here to boot a systemd, if anything is."""
    if os.geteuid() != 0:
        return "needs root, to boot systemd in namespaces"
    if not SYSTEMD.exists():
        return "no systemd here (apt-get install systemd)"
    missing = [name for name in ("unshare", "nsenter", "pivot_root", "mount") if shutil.which(name) is None]
    return f"no {missing[0]} here (apt-get install util-linux)" if missing else None


class Booted:
    """One running machine. Raises AssertionError, with what it said, where it does not come up."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        # Mounted over in there, and empty here.
        self._top = Path(tempfile.mkdtemp(prefix="root", dir=scratch))
        self._log = self._top.with_suffix(".log")
        shown = sorted({str(path) for path in self._apart()})
        env = {"PATH": os.environ["PATH"], "MASKED": " ".join(MASKED)}
        with self._log.open("wb") as log:
            self._unshare = subprocess.Popen(
                [*UNSHARE, "sh", "-c", BOOT, "boot", str(self._top), str(scratch), *shown],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                # Whatever ends the tests ends the machine (PR_SET_PDEATHSIG).
                preexec_fn=lambda: LIBC.prctl(1, signal.SIGKILL),
            )
        try:
            self._init = self._find_init()
            self._until(
                lambda: self.run("systemctl", "is-system-running", check=False) in ("running", "degraded")
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Booted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it with everything in it: the end of a namespace's first process is the end of all."""
        self._unshare.kill()
        self._unshare.wait()

    def run(self, *command: str | Path, check: bool = True, env: Mapping[str, str] | None = None) -> str:
        """What a command in there prints, on both streams, stripped."""
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", "--all", "--root", "--wd", "--", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=2 * PATIENCE,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER": ""}
            | dict(env or {}),
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}")
        return done.stdout.strip()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=short-precise", f"--unit={unit}")

    def wait_for(self, unit: str, patience: float = PATIENCE, **properties: str) -> None:
        """Wait until properties of a unit match regular expressions."""

        def fits() -> bool:
            shown = self.show(unit, *properties)
            return all(re.fullmatch(wanted, shown.get(name, "")) for name, wanted in properties.items())

        self._until(fits, lambda: f"{unit}: {self.run('systemctl', 'status', unit, check=False)}", patience)

    def install(self, units: Path) -> None:
        """Copy a folder of units to where an administrator's go, and have them read."""
        self.run("cp", "-r", f"{units}/.", "/etc/systemd/system/")
        self.run("systemctl", "daemon-reload")

    def wait_said(self, unit: str, pattern: str) -> None:
        """Wait until a regular expression is found in a unit's journal."""
        self._until(lambda: bool(re.search(pattern, self.journal(unit))), lambda: self.journal(unit))

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """In the block this thread, and what it starts, is in the machine's network."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/proc/{self._init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if LIBC.setns(there, 0):
                raise OSError(get_errno(), "cannot enter the machine's network")
            yield
        finally:
            LIBC.setns(home, 0)
            os.close(there)
            os.close(home)

    def signal(self, unit: str, number: int) -> None:
        """Send a signal to a unit's main process alone."""
        self.run("systemctl", "kill", "--kill-who=main", f"--signal={signal.Signals(number).name}", unit)

    def memory(self) -> int:
        """Proportional set size of the first process, in bytes."""
        found = re.search(
            r"^Pss:\s+(\d+) kB", Path(f"/proc/{self._init}/smaps_rollup").read_text(), re.MULTILINE
        )
        assert found
        return int(found[1]) * 1024

    def _apart(self) -> Iterator[Path]:
        """Folders that the tests need and that an overlay of / does not show, being mounted on their own."""
        for path in {Path(__file__).parents[1], Path(sys.prefix), Path(sys.base_prefix)}:
            if path.stat().st_dev != Path("/").stat().st_dev:
                yield path

    def _find_init(self) -> int:
        """This machine's pid of that machine's first process, once that is systemd."""
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        found: list[int] = []

        def is_up() -> bool:
            if self._unshare.poll() is not None:
                raise AssertionError(f"systemd did not boot:\n{self._log.read_text(errors='replace')}")
            found[:] = map(int, children.read_text().split())
            with contextlib.suppress(OSError):
                return bool(found) and Path(f"/proc/{found[0]}/exe").readlink() == SYSTEMD.resolve()
            return False

        self._until(is_up)
        return found[0]

    def _until(
        self,
        condition: Callable[[], bool],
        describe: Callable[[], str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                said = describe() if describe else self._log.read_text(errors="replace")
                raise AssertionError(f"{patience} s passed; {said}")
            time.sleep(0.02)


@contextlib.contextmanager
def booted(scratch: Path) -> Iterator[Booted]:
    """A machine, or a skipped test, but never skipped where everything must be tested."""
    if (reason := why_not()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with Booted(scratch) as machine:
        yield machine

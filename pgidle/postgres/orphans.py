"""Deals with what an earlier postmaster left behind: processes that hold its shared memory, and postmaster.pid.

A postmaster may outlive its supervisor for a while, and backends may outlive their postmaster. Postgres refuses to
start while one of them is there, so they have to end first.
"""

from __future__ import annotations

import os
import signal

from pgidle.postgres.data_directory import read_pidfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.system.log import Log

PATIENCE = ((3.0, signal.SIGKILL), (0.5, signal.SIGQUIT))
"""Signals, and after how many seconds each is sent. Backends that notice the postmaster's death end by themselves,
within milliseconds. Postgres refuses to start while any is attached to its shared memory, so killing one loses nothing.
"""

KILL_AFTER = 10.0
"""Seconds after an immediate shutdown: Postgres itself gives its processes five for that."""


def is_abandoned(pid: int) -> bool:
    """Whether a process is the postmaster of a pgidle supervisor that has died. False if that cannot be found out.

    The postmaster's environment names its supervisor, and a child whose parent dies gets another parent
    (proc_pid_environ(5), proc_pid_stat(5)).
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/stat", "rb") as stat:
            named = [
                word[18:] for word in environ.read().split(b"\0") if word.startswith(b"PGIDLE_SUPERVISOR=")
            ]
            parent = stat.read().rsplit(b")", 1)[1].split()[1]
    except OSError:
        return False
    return bool(named) and parent not in named


def find_orphans(data_dir: str) -> list[int]:
    """Pids of Postgres processes on the data directory, which is the working directory of every backend."""
    import psutil

    # Compared with the kernel's path of the directory, so without any links.
    ours = os.path.realpath(data_dir)
    found = []
    for process in psutil.process_iter(["pid", "name", "cwd"]):
        seen = process.info
        if seen["cwd"] == ours and (seen["name"] or "").startswith("postgres"):
            found.append(int(seen["pid"]))
    return found


def hasten(pids: Sequence[int], waited: float) -> None:
    """Signal orphans that have not ended after `waited` seconds."""
    number = next((number for seconds, number in PATIENCE if waited >= seconds), None)
    if number is not None:
        for pid in pids:
            _send(pid, number)


def hasten_postmaster(pid: int, waited: float, stop_timeout: float, log: Log) -> None:
    """Make the postmaster of a dead supervisor shut down: in fast mode, after `stop_timeout` seconds in immediate mode.

    The kernel has already sent it SIGINT (PR_SET_PDEATHSIG); another one changes nothing.
    """
    log.once("start", f"waiting for postmaster {pid} of an earlier supervisor to end")
    if waited < stop_timeout:
        _send(pid, signal.SIGINT)
    else:
        _send(pid, signal.SIGQUIT if waited < stop_timeout + KILL_AFTER else signal.SIGKILL)


def discard_stale_pidfile(data_dir: str) -> None:
    """Remove a postmaster.pid whose pid now belongs to another program. The caller has made sure that nothing runs
    here.

    Postgres only checks that the process lives and belongs to its own user, and would never start.
    """
    pidfile = read_pidfile(data_dir)
    # Postgres itself ignores a pid of its parent's, which is ours.
    if pidfile is not None and pidfile.pid != os.getpid() and os.path.exists(f"/proc/{pidfile.pid}"):
        os.unlink(f"{data_dir}/postmaster.pid")


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return

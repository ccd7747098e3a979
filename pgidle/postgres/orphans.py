"""What an earlier postmaster left behind: processes that hold its shared memory, and postmaster.pid.

A postmaster may outlive its supervisor for a while, and backends their postmaster. Postgres refuses to start
while one of them is there, so they must end first.
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
"""After so many seconds, which signal. Backends that notice the postmaster's death end by themselves, in
milliseconds; Postgres refuses to start while one is attached to its shared memory, so killing one loses nothing."""

KILL_AFTER = 10.0
"""Seconds after an immediate shutdown: Postgres itself gives its processes five for that."""


def is_abandoned(pid: int) -> bool:
    """Whether a process is the postmaster of a supervisor of ours that has died. False where that cannot be read.

    The supervisor is named in what the postmaster was executed with, and a child whose parent dies gets another one
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
    """Pids of Postgres's processes that have the data directory as theirs: the working directory of every backend."""
    import psutil

    # The kernel tells the directory, whatever links the setting goes through.
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
    """Have the postmaster of a supervisor that died shut down: fast, after `stop_timeout` seconds at once.

    It has been told by the kernel (PR_SET_PDEATHSIG); to be told again changes nothing.
    """
    log.once("start", f"waiting for postmaster {pid} of an earlier supervisor to end")
    if waited < stop_timeout:
        _send(pid, signal.SIGINT)
    else:
        _send(pid, signal.SIGQUIT if waited < stop_timeout + KILL_AFTER else signal.SIGKILL)


def discard_stale_pidfile(data_dir: str) -> None:
    """Remove a postmaster.pid whose number is now another program's. The caller made sure that nobody runs here.

    Postgres looks only whether the process lives and is of its own user, and would refuse to start for ever.
    """
    pidfile = read_pidfile(data_dir)
    # Above Postgres's own: it takes its parent, us, for no obstacle.
    if pidfile is not None and pidfile.pid != os.getpid() and os.path.exists(f"/proc/{pidfile.pid}"):
        os.unlink(f"{data_dir}/postmaster.pid")


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return

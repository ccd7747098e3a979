"""Work in a forked process that gets so much time, and of which nothing is left afterwards."""

from __future__ import annotations

import os
import select
import time

from pgidle.base.builtin_modules import close, signal
from pgidle.base.record import record
from pgidle.system.forked import fork, open_pidfd, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h: orphans among a process's descendants become its children."""

END_PATIENCE, PAUSE = 10.0, 0.005
"""Seconds for which killed processes are waited for at most, and between two looks at them."""

LONGEST = 1000
"""Bytes that are read of what is said about the work."""


@record
class Ended:
    """How it went: `status` as `os.waitstatus_to_exitcode` returns it, or None if it took too long; `said` is what the
    work said about itself."""

    status: int | None
    said: str


def run_bounded(
    work: Callable[[Callable[[str], None]], None], kept: Collection[int], seconds: float
) -> Ended:
    """Run `work` in a process of its own, in a session of its own; return once all of it has ended. Raises OSError.

    It may execute a program. It gets a function that says something about it, and of the descriptors `kept` and the
    standard three. Once its process has exited, or after `seconds`, whatever has come of it is killed, in other
    sessions, too. What has become another user's may not be killed, and is not waited for. Call it in a process that
    has no other children.
    """
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent = os.getpid()
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run() -> None:
        settle({*kept, writing}, parent, signal.SIGKILL)
        # Python ignores these two, and exec would leave them so.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        work(lambda text: _say(writing, text))
        os._exit(0)

    try:
        pid = fork(run)
        close(writing)
        writing = -1
        pidfd = open_pidfd(pid)
        status = None
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            has_exited = bool(poll.poll(seconds * 1000))
            # Before it is reaped: another process group might get its number then.
            _kill(os.killpg, pid)
            if has_exited:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            _end_children()
            close(pidfd)
        return Ended(status, _said(reading))
    finally:
        close(reading)
        if writing >= 0:
            close(writing)


def _end_children() -> None:
    """Kill and reap all children and, as they become children then, their descendants."""
    deadline = time.monotonic() + END_PATIENCE
    _reap()
    while [child for child in _children() if _kill(os.kill, child)] and time.monotonic() < deadline:
        time.sleep(PAUSE)
        _reap()


def _reap() -> None:
    """Reap the children that have exited."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _children() -> list[int]:
    """Pids of all children, zombies included (proc_pid_task_children(5)); none where the kernel does not tell."""
    try:
        with open("/proc/thread-self/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _kill(send: Callable[[int, int], None], pid: int) -> bool:
    """Whether there is one that may be killed."""
    try:
        send(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _say(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode(errors="replace")[:LONGEST])


def _said(descriptor: int) -> str:
    try:
        return os.read(descriptor, LONGEST).decode(errors="replace")
    except BlockingIOError:
        return ""

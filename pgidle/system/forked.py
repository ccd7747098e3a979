"""A forked copy of the supervisor, made a process of its own."""

from __future__ import annotations

import os

from pgidle.base.builtin_modules import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PR_SET_PDEATHSIG = 1
"""linux/prctl.h."""


class SupervisorGone(Exception):
    """It ended while its copy was being made."""


def fork(child: Callable[[], None]) -> int:
    """The pid of a copy of this process, in which `child` is called and no signal arrives yet. Raises OSError.

    Call it while there is one thread. The copy ends with status 1 where `child` returns or raises: everything above it
    on the stack is the supervisor's.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if pid := os.fork():
            return pid
        try:
            child()
        finally:
            os._exit(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def open_pidfd(pid: int) -> int:
    """A child's pidfd. Raises OSError, after killing the child."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def settle(kept: Collection[int], supervisor: int, death_signal: int) -> None:
    """In the copy: no handler, descriptor or terminal of the supervisor's. Raises SupervisorGone, and OSError.

    Descriptors in `kept` stay, and so do 0, 1 and 2. When the supervisor ends, `death_signal` comes (prctl(2)). Signals
    stay blocked. What the supervisor had open is closed by number: its objects must never be collected here, or they
    would close what has the number by then.
    """
    import ctypes

    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # That of the listing itself.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != supervisor:
        raise SupervisorGone


def reap_strangers(ours: Collection[int | None]) -> None:
    """PID 1 of a container adopts all orphans: reap those that have exited. Our own children are reaped when their
    pidfds become readable."""
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in ours:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)
    except ChildProcessError:
        return

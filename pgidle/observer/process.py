"""The observer: everything that watches Postgres and answers people, in a process that comes and goes.

It judges whether Postgres is in use, answers HTTP beyond health checks, takes orders, and notices changed files. It
holds no socket of Postgres's clients and no lock, and its memory ends with it, except for what it has sent or written.
"""

from __future__ import annotations

import os
import sys

from pgidle.base.builtin_modules import signal
from pgidle.base.errors import fault_text, place_text
from pgidle.base.record import record
from pgidle.system.forked import SupervisorGone, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.history.journal import RunClock
    from pgidle.observer.messages import Situation
    from pgidle.observer.socket_pair import PairEnd
    from pgidle.run.runtime import Runtime
    from pgidle.settings.resolve import Settings
    from pgidle.system.file_signature import Signature

COMM = b"pgidle-observer"
"""Its name in `ps -o comm`, of at most 15 bytes."""

LOWEST = 19
"""The nice value (setpriority(2)) of a thread, not of the process, so that it ends with the thread."""

PR_SET_NAME = 15
DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that a service manager or a terminal sends to every process: this one exits when the supervisor does."""


@record
class ObserverStart:
    """What an observer begins with. `holds`: the content of the holds' file as the observer before sent it;
    `postgres_files`: signatures of the files that Postgres has read, by name; `settings_file`: that of the settings
    file as it was read; `version`: the supervisor's, where that on disk is newer."""

    runtime: Runtime
    settings: Settings
    supervisor_pid: int
    situation: Situation
    holds: str | None
    looks: int
    looks_failed: int
    postgres_files: dict[str, Signature]
    settings_file: Signature
    journal_clock: RunClock
    version: str


def serve(begun: ObserverStart, end: PairEnd, *, is_urgent: bool) -> None:
    """Be the observer, in a fork of the supervisor, until the process exits. `is_urgent`: a request waits for it."""
    try:
        _become(begun, end)
        if is_urgent:
            _import_all()
        else:
            _at_leisure(_import_all)
        from pgidle.observer.main_loop import run

        run(begun, end)
    except SupervisorGone:
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - any error is logged in one line, and the supervisor notices the exit
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        begun.runtime.log.note("observer", f"failed: {fault_text(error)} ({place_text(error)})")
        os._exit(1)
    os._exit(0)


def _become(begun: ObserverStart, end: PairEnd) -> None:
    import ctypes

    kept = {end.fileno(), begun.runtime.state_dir.folder}
    settle(kept, begun.supervisor_pid, signal.SIGKILL)
    ctypes.CDLL(None).prctl(PR_SET_NAME, COMM)
    for number in DEAF_TO:
        # Not SIG_IGN, which its children would inherit.
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.stderr is not None:
        sys.stderr.flush()


def _import_all() -> None:
    """Import all that the observer needs."""
    from pgidle.observer.lean_imports import import_lean

    import_lean()
    import pgidle.observer.changed_files
    import pgidle.observer.main_loop
    import pgidle.observer.watcher  # noqa: F401


def _at_leisure(work: Callable[[], None]) -> None:
    """Run `work` at the lowest priority: clients are being served, and the first look is not urgent."""
    import threading

    def lowest() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        except OSError:
            pass  # Then at normal priority.
        work()

    thread = threading.Thread(target=lowest, name="imports")
    thread.start()
    thread.join()

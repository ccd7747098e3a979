"""The supervisor's side of `on-event`: starts a process that passes new lines of the journal on, one at a time.

It is started only once lines have been written, which is after clients have been served, and nothing waits for it but
an exit after a sleep, during which clients are served as while Postgres sleeps.
"""

from __future__ import annotations

import os
import select
import time

from pgidle.base.builtin_modules import close, signal
from pgidle.base.errors import FAULTS
from pgidle.history.journal import DELIVERED
from pgidle.system.forked import fork, open_pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.run.runtime import Runtime
    from pgidle.settings.resolve import Settings

PATIENCE = 60.0
"""Seconds until a delivery is killed. It limits the program or the web server by itself, to fewer."""

PAUSES = (5.0, 30.0, 120.0)
"""Seconds until another attempt, after each one that failed. After the last, the next event makes it."""

WAKING_PAUSE = 0.3
"""Seconds until another look whether clients still wait for Postgres."""

EXIT_PATIENCE = 10.0
"""Seconds for which an exit after a sleep is put off until the sleep has been told."""

STOP_PATIENCE = 2.0
"""Seconds for which any other exit waits."""


class EventDelivery:
    """`after` is the run and number of the journal's last line. `is_waking` tells whether clients wait for Postgres;
    `settled` is called when an exit need not wait any longer."""

    def __init__(
        self,
        runtime: Runtime,
        after: tuple[int, int],
        is_waking: Callable[[], bool],
        settled: Callable[[], None],
    ) -> None:
        self.pid: int | None = None
        self._runtime = runtime
        self._loop = runtime.loop
        self._receiver = runtime.settings.on_event
        self._after = after
        self._is_waking = is_waking
        self._settled = settled
        self._pidfd = -1
        self._is_new = False
        """Whether lines have been written since the delivery under way was started."""
        self._failures = 0
        self._is_forgotten = False

    @property
    def is_under_way(self) -> bool:
        """Whether events are being delivered, at the first attempt."""
        return self.pid is not None or (self._loop.is_set("events") and not self._failures)

    def adopt(self, settings: Settings, after: tuple[int, int]) -> None:
        """Use these settings from now on, for lines after that run and number."""
        if (self._receiver is None) is not (settings.on_event is None):
            self._is_forgotten = False
            self._forget()
            self._after = after
        self._receiver = settings.on_event
        self._failures = 0

    def written(self) -> None:
        """Lines have been written to the journal."""
        if self._receiver is None:
            self._forget()
            return
        self._is_new = True
        if self.pid is None and not self._loop.is_set("events"):
            self._failures = 0
            self._loop.after(0.0, "events", self._start_unless_waking)

    def settle(self) -> None:
        """An exit waits for the events so far, for EXIT_PATIENCE at most: call `settled` then."""
        if self.pid is None and self._failures and self._receiver is not None:
            # It is being put off after a failure: the exit is the last occasion.
            self._failures = 0
            self._loop.after(0.0, "events", self._start_unless_waking)
        if self.is_under_way:
            self._loop.after(EXIT_PATIENCE, "events exit", self._settled)
        else:
            self._settled()

    def leave(self, stop_timeout: float, since: float) -> None:
        """The supervisor exits: deliver the last lines, within what is left of the stop timeout, which began then
        (monotonic). What is not delivered is for the next run."""
        now = time.monotonic()
        deadline = min(since + stop_timeout, now + STOP_PATIENCE)
        if self._receiver is None or deadline <= now:
            return
        try:
            while self.pid is not None or self._is_new:
                if self.pid is None:
                    self._start()
                poll = select.poll()
                poll.register(self._pidfd, select.POLLIN)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000) or self._reap():
                    return
        except FAULTS:
            return

    def _forget(self) -> None:
        """Without a receiver nothing is left over for a later one."""
        if not self._is_forgotten:
            try:
                self._runtime.state_dir.forget(DELIVERED)
            except OSError:
                return  # The next line that is written makes another attempt.
            self._is_forgotten = True

    def _start_unless_waking(self) -> None:
        if self._is_waking():
            self._loop.after(WAKING_PAUSE, "events", self._start_unless_waking)
        else:
            self._start()

    def _start(self) -> None:
        self._loop.cancel("events")
        if self._receiver is None:
            return
        pid = fork(self._deliver)
        self._pidfd = open_pidfd(pid)
        self.pid = pid
        self._is_new = False
        self._loop.watch(self._pidfd, self._on_exit)
        self._loop.after(PATIENCE, "events limit", self._on_too_long)

    def _deliver(self) -> None:
        """What the fork does."""
        from pgidle.history.delivery_process import Delivery, deliver

        runtime = self._runtime
        assert self._receiver is not None
        deliver(
            Delivery(
                self._receiver,
                self._after,
                runtime.state_dir.folder,
                runtime.settings.data_dir,
                runtime.environ,
                runtime.log,
                runtime.supervisor_pid,
            )
        )

    def _on_too_long(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except OSError:
            return  # It has exited by itself.

    def _on_exit(self) -> None:
        if not self._reap():
            self._failures = 0
            if self._is_new:
                self._loop.after(0.0, "events", self._start_unless_waking)
        else:
            if self._failures < len(PAUSES):
                self._loop.after(PAUSES[self._failures], "events", self._start_unless_waking)
            self._failures += 1
        if not self.is_under_way:
            self._loop.cancel("events exit")
            self._settled()

    def _reap(self) -> int | None:
        """Its wait status; None if it was reaped already, as PID 1 of a container reaps every process."""
        pid, self.pid = self.pid, None
        self._loop.forget(self._pidfd)
        self._loop.cancel("events limit")
        close(self._pidfd)
        self._pidfd = -1
        try:
            return os.waitpid(pid or 0, os.WNOHANG)[1]
        except ChildProcessError:
            return None

"""Notifies the service manager (sd_notify(3)): ready, stopping, and a status line.

Nothing here blocks: a message that the manager's socket does not take at once is kept and sent again.
"""

from __future__ import annotations

import time

from pgidle.base.builtin_modules import socket
from pgidle.lifecycle.transitions import State
from pgidle.system.log import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.run.sd_listen import Manager
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log

EXTEND_EVERY, EXTEND_BY = 15.0, 60.0
"""Seconds. A start that takes long is recovery, which no timeout of the manager's may cut short: every EXTEND_EVERY,
its timeout is extended by EXTEND_BY."""

STOP_MARGIN = 10.0
"""Seconds that the manager waits beyond the time of a fast shutdown before it may kill."""

AGAIN_AFTER = 0.05
"""Seconds until a message that the manager's socket had no room for is sent again."""


class Notifier:
    """Sends messages to the manager; does nothing where there is none."""

    def __init__(self, manager: Manager | None, loop: Loop, log: Log) -> None:
        self._manager = manager
        self._loop = loop
        self._log = log
        self._pending: list[str] = []
        self._is_ready = False
        self._is_stopping = False
        if manager is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._ping()

    def entered(self, state: State, why: str, stop_timeout: float) -> None:
        """The state has changed. `stop_timeout` is how many seconds a fast shutdown may take.

        Ready means that clients are served for the first time, so that the manager notices a start that fails. Stopping
        means a stop that cannot be called off, unlike going to sleep or the last look before the exit.
        """
        if self._manager is None:
            return
        words = [f"STATUS={one_line(f'{state.noun}: {why}')}"]
        if state is State.AWAKE and not self._is_ready:
            self._is_ready = True
            self._loop.cancel("extend")
            words.append("READY=1")
        elif state is State.TERMINATING:
            self._loop.cancel("extend")
            words += ["STOPPING=1", _extend(stop_timeout + STOP_MARGIN)]
            self._is_stopping = True
        elif state is State.STARTING and not self._is_ready:
            words.append(_extend(EXTEND_BY))
            self._loop.after(EXTEND_EVERY, "extend", self._extend_start)
        self._notify(*words)

    def leaving(self, state: State, slept_because: str) -> None:
        """The process ends now. The last status is what `systemctl status` shows while nothing runs."""
        if state is State.LEAVING:
            self._notify("STOPPING=1", f"STATUS={one_line(f'asleep: {slept_because}')}")
        elif not self._is_stopping:
            self._notify("STOPPING=1")

    def reloading(self) -> None:
        """The settings are being read again (Type=notify-reload waits for `reloaded`)."""
        if self._is_ready and not self._is_stopping:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._notify("RELOADING=1", f"MONOTONIC_USEC={now}")

    def reloaded(self) -> None:
        if self._is_ready and not self._is_stopping:
            self._notify("READY=1")

    def _extend_start(self) -> None:
        self._notify(_extend(EXTEND_BY))
        self._loop.after(EXTEND_EVERY, "extend", self._extend_start)

    def _ping(self) -> None:
        if self._manager is not None and self._manager.ping_every is not None:
            if not self._pending:
                self._notify("WATCHDOG=1")
            self._loop.after(self._manager.ping_every, "watchdog", self._ping)

    def _notify(self, *words: str) -> None:
        if self._manager is not None:
            self._pending.append("\n".join(words))
            self._send()

    def _send(self) -> None:
        if self._manager is None:
            return
        while self._pending:
            try:
                self._socket.sendto(self._pending[0].encode(), self._manager.address)
            except BlockingIOError:
                self._loop.after(AGAIN_AFTER, "notify", self._send)
                return
            except OSError as error:
                self._log.once("notify", f"the service manager cannot be told: {error.strerror}")
            del self._pending[0]


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"

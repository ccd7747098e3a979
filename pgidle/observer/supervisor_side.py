"""The supervisor's handle on the observer process: starts it when wanted, exchanges messages with it, and ends it.

It is a fork of the supervisor, which has one thread: nothing has to be located or read again for it, and Python need
not be readable by another user. If it misbehaves in any way, it is killed, and restarted after a pause that grows: an
observer that dies, hangs or sends anything but a record is doubt, and doubt means busy.
"""

from __future__ import annotations

import errno
import os
import time

from pgidle.base.builtin_modules import close, signal
from pgidle.observer.messages import TO_OBSERVER, TO_SUPERVISOR, Connection, End, Ping, Pong, Ready
from pgidle.observer.record_encoding import WireError
from pgidle.observer.socket_pair import PairEnd, pair
from pgidle.system.forked import fork, open_pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.base.builtin_modules import socket
    from pgidle.observer.messages import ToObserver, ToSupervisor
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log

START_PATIENCE = 120.0
"""Seconds that it gets to import what it needs, at the lowest priority, on a machine that may be busy."""

PING_EVERY, PONG_PATIENCE = 30.0, 10.0
"""Seconds between two pings, and that it has to answer one."""

END_PATIENCE = 15.0
"""Seconds that it has to finish its answers once it is told to end."""

PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds from its exit to the next start, by the number of failures in a row."""

LIVED = 60.0
"""An observer that has lived this many seconds begins a new row of failures."""

MOST_WAITING = 64
"""Most connections that wait for it to be ready, for the control socket and for HTTP each: then the oldest is cut."""

LATE = 1.0
"""Seconds: a timer that is this late shows that we have been suspended ourselves, and perhaps the observer with us."""


class Observer:
    """At most one process. `serve` is what it runs, given its end of the pair; `heard` is called with each of its
    messages, and `lost` with the reason when it has exited without being told to."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        serve: Callable[[PairEnd, bool], None],
        heard: Callable[[ToSupervisor], None],
        lost: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._log = log
        self._serve = serve
        self._heard = heard
        self._lost = lost
        self.pid: int | None = None
        self.is_ready = False
        """Whether it reads its messages."""
        self.asked_at = -float("inf")
        """When the last request arrived that only it can answer (monotonic)."""
        self._end: PairEnd | None = None
        self._pidfd = -1
        self._since = 0.0
        self._is_ending = False
        self._fault = ""
        self._failures = 0
        self._not_before = 0.0
        self._is_wanted = False
        self._waiting: list[tuple[Connection, socket.socket]] = []
        """Requests that arrived while there was none."""

    def want(self) -> None:
        """Have one started, as soon as possible."""
        if self.pid is not None:
            self._is_wanted = self._is_ending
        elif not self._loop.is_set("observer"):
            self._is_wanted = True
            self._loop.after(max(0.0, self._not_before - time.monotonic()), "observer", self._start)

    def tell(self, message: ToObserver) -> bool:
        """Send it a message; False if there is none that reads it."""
        if not self.is_ready or self._is_ending or not self._send(message):
            return False
        self._ping()  # So that a hang is noticed soon after a message.
        return True

    def hand_over(self, message: Connection, connected: socket.socket) -> None:
        """Pass it a connection with a request, now or once it is ready."""
        self.asked_at = time.monotonic()
        alike = [one for one in self._waiting if one[0].is_control is message.is_control]
        if len(alike) >= MOST_WAITING:
            self._waiting.remove(alike[0])
            close(alike[0][1])
        self._waiting.append((message, connected))
        if self.is_ready:
            self._hand_over()
            self._ping()
        else:
            self.want()

    def give_up(self, why: str) -> None:
        """Kill it: it has not done what it was told."""
        if self.pid is not None:
            self._kill(why)

    def end(self) -> None:
        """Have it finish its answers, and exit."""
        if self.pid is not None and not self._is_ending:
            self._send(End(is_exit=False))
            self._is_ending = True
            self.is_ready = False
            for name in ("observer ping", "observer pong"):
                self._loop.cancel(name)
            self._loop.after(END_PATIENCE, "observer pong", lambda: self._kill("did not exit in time"))

    def leave(self, status: int, patience: float) -> None:
        """The supervisor exits: give the observer `patience` seconds to finish its answers, then kill it."""
        for _, connected in self._waiting:
            close(connected)
        self._waiting.clear()
        if self.pid is None or self._end is None:
            return
        import select

        self._send(End(is_exit=True, status=status))
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(patience * 1000):
            self._signal_kill()
            poll.poll(patience * 1000)
        self._reap()

    def receive(self) -> None:
        """Handle all messages that it has sent."""
        while self._end is not None:
            try:
                received = self._end.receive()
            except EOFError:
                self._forget_end()
                if not self._is_ending:
                    self._signal_kill()  # It may also have exited, which closes its end too.
                return
            except WireError as error:
                self._kill(str(error))
                return
            if received is None:
                return
            message, descriptor = received
            if descriptor is not None:
                close(descriptor)
            match message:
                case Ready():
                    self.is_ready = not self._is_ending
                    self._on_pong()
                case Pong():
                    self._on_pong()
            self._heard(message)
            if self.is_ready:
                # Connections that have waited follow after its first messages.
                self._hand_over()

    def _start(self) -> None:
        self._is_wanted = False
        ours, theirs = pair(TO_SUPERVISOR, TO_OBSERVER)
        is_urgent = bool(self._waiting)
        try:
            pid = fork(lambda: self._serve(theirs, is_urgent))
            self._pidfd = open_pidfd(pid)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid, self._end, self._since = pid, ours, time.monotonic()
        self._fault = ""
        self._is_ending = self.is_ready = False
        self._loop.watch(self._pidfd, self._on_exit)
        self._loop.watch(ours.fileno(), self.receive)
        self._loop.after(START_PATIENCE, "observer pong", lambda: self._kill("did not start in time"))

    def _hand_over(self) -> None:
        while self._waiting and self.is_ready:
            message, connected = self._waiting[0]
            if not self._send(message, connected.fileno()):
                return  # The next observer answers, or this one once it has read its backlog.
            del self._waiting[0]
            close(connected)

    def _send(self, message: ToObserver, descriptor: int | None = None) -> bool:
        if self._end is None:
            return False
        try:
            self._end.send(message, descriptor)
        except OSError as error:
            if descriptor is not None and error.errno in (errno.EAGAIN, errno.ETOOMANYREFS):
                return False  # Its backlog is full; a ping tells whether it works on it.
            self._kill(
                "did not read its messages" if isinstance(error, BlockingIOError) else str(error.strerror)
            )
            return False
        return True

    def _on_pong(self) -> None:
        if not self._is_ending:
            self._loop.cancel("observer pong")
            self._loop.after(PING_EVERY, "observer ping", self._ping)

    def _ping(self) -> None:
        if self._loop.is_set("observer pong"):
            return
        self._loop.cancel("observer ping")
        due = time.monotonic() + PONG_PATIENCE
        if self._end is not None and self._send(Ping()):
            self._loop.after(PONG_PATIENCE, "observer pong", lambda: self._on_silence(due))

    def _on_silence(self, due: float) -> None:
        self.receive()
        if self._end is None or self._loop.is_set("observer ping"):
            return  # It has answered, or has exited.
        if time.monotonic() - due > LATE:
            self._ping()
        else:
            self._kill("did not answer")

    def _kill(self, why: str) -> None:
        """Kill it; `_on_exit` carries on once it can be reaped."""
        self._fault = self._fault or why
        self._forget_end()
        self._signal_kill()

    def _signal_kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except OSError:
            return  # It has exited by itself.

    def _forget_end(self) -> None:
        self.is_ready = False
        if self._end is not None:
            self._loop.forget(self._end.fileno())
            self._end.close()
            self._end = None
        for name in ("observer ping", "observer pong"):
            self._loop.cancel(name)

    def _reap(self) -> int | None:
        """Its wait status; None if it was reaped already, as PID 1 of a container reaps every process."""
        pid, self.pid = self.pid, None
        self._forget_end()
        self._loop.forget(self._pidfd)
        close(self._pidfd)
        self._pidfd = -1
        try:
            return os.waitpid(pid or 0, os.WNOHANG)[1]
        except ChildProcessError:
            return None

    def _on_exit(self) -> None:
        self.receive()
        was_ending = self._is_ending
        status = self._reap()
        self._is_ending = False
        if self._fault or not was_ending or status:
            self._on_failed(status)
        else:
            self._failures = 0
        if self._waiting or self._is_wanted:
            self.want()

    def _on_failed(self, status: int | None) -> None:
        now = time.monotonic()
        self._failures = 1 if now - self._since > LIVED else self._failures + 1
        pause = PAUSES[min(self._failures, len(PAUSES) - 1)]
        self._not_before = now + pause
        why = self._fault or _how(status)
        self._log.note("observer", f"lost ({why}); restarting in {pause:g} s")
        self._lost(why)


def _how(status: int | None) -> str:
    """A wait status in words."""
    if status is None:
        return "exited"
    code = os.waitstatus_to_exitcode(status)
    return f"killed by signal {-code}" if code < 0 else f"exited with status {code}"

"""The observer's process, as the supervisor has it: started when it is wanted, told, heard, and ended.

It is a fork of the supervisor, which has one thread: nothing has to be found or read for it again, and no other user
has to be able to read Python. Whatever it does wrong, it is killed for, and started again after a pause that grows:
that it dies, hangs or says what is no record, is doubt, and doubt means busy.
"""

from __future__ import annotations

import errno
import os
import time

from pgidle.base.builtin_modules import close, signal
from pgidle.observer.messages import TO_OBSERVER, TO_SUPERVISOR, Connection, End, Ping, Pong, Ready
from pgidle.observer.pair import PairEnd, pair
from pgidle.observer.wire import WireError
from pgidle.system.forked import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.base.builtin_modules import socket
    from pgidle.observer.messages import ToObserver, ToSupervisor
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log

START_PATIENCE = 120.0
"""Seconds that it gets to import what it needs, at the lowest priority, on a machine with other things to do."""

PING_EVERY, PONG_PATIENCE = 30.0, 10.0
"""Seconds between two questions whether it is there, and that it has for the answer."""

END_PATIENCE = 15.0
"""Seconds that it has to answer who has asked, once it is told to end."""

PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds from its end to the next start, after so many that have failed in a row."""

LIVED = 60.0
"""Seconds after which one that fails is no longer in a row with those before it."""

MOST_WAITING = 64
"""Connections, of the control socket and of all others, that wait for it to be there: then the oldest is cut."""

LATE = 1.0
"""Seconds: a timer that comes so late tells that we have been stopped ourselves, and it, perhaps, with us."""


class Observer:
    """At most one process. `serve` is what it does, with its end of the pair; `heard` gets what it says, and `lost` why
    it is there no more, where nobody had told it to end."""

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
        """Whether it hears what it is told."""
        self.asked_at = -float("inf")
        """When somebody has asked last for what only it can answer (monotonic)."""
        self._end: PairEnd | None = None
        self._pidfd = -1
        self._since = 0.0
        self._is_ending = False
        self._fault = ""
        self._failures = 0
        self._not_before = 0.0
        self._is_wanted = False
        self._waiting: list[tuple[Connection, socket.socket]] = []
        """Who has asked while there was none."""

    def want(self) -> None:
        """Have one, as soon as may be."""
        if self.pid is not None:
            self._is_wanted = self._is_ending
        elif not self._loop.is_set("observer"):
            self._is_wanted = True
            self._loop.after(max(0.0, self._not_before - time.monotonic()), "observer", self._start)

    def tell(self, message: ToObserver) -> bool:
        """Tell it; False where there is none that hears."""
        if not self.is_ready or self._is_ending or not self._send(message):
            return False
        self._ping()  # That it hangs is known soon after it was told anything.
        return True

    def hand_over(self, message: Connection, connected: socket.socket) -> None:
        """Give it somebody who has asked, now or when it is there."""
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
        """It has not done what it was told."""
        if self.pid is not None:
            self._kill(why)

    def end(self) -> None:
        """Have it answer who has asked, and end."""
        if self.pid is not None and not self._is_ending:
            self._send(End(is_exit=False))
            self._is_ending = True
            self.is_ready = False
            for name in ("observer ping", "observer pong"):
                self._loop.cancel(name)
            self._loop.after(END_PATIENCE, "observer pong", lambda: self._kill("it does not end"))

    def leave(self, status: int, patience: float) -> None:
        """The supervisor ends: wait so many seconds for it to answer who has asked, then end it."""
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
        """Hear all that it has said."""
        while self._end is not None:
            try:
                received = self._end.receive()
            except EOFError:
                self._forget_end()
                if not self._is_ending:
                    self._signal_kill()  # Unless it has ended, and this says so.
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
                # Those who have waited come after what it is told first.
                self._hand_over()

    def _start(self) -> None:
        self._is_wanted = False
        ours, theirs = pair(TO_SUPERVISOR, TO_OBSERVER)
        is_urgent = bool(self._waiting)
        try:
            pid = fork(lambda: self._serve(theirs, is_urgent))
            self._pidfd = _opened(pid)
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
        self._loop.after(START_PATIENCE, "observer pong", lambda: self._kill("it has not begun"))

    def _hand_over(self) -> None:
        while self._waiting and self.is_ready:
            message, connected = self._waiting[0]
            if not self._send(message, connected.fileno()):
                return  # The next one answers, or this one when it has read what it has.
            del self._waiting[0]
            close(connected)

    def _send(self, message: ToObserver, descriptor: int | None = None) -> bool:
        if self._end is None:
            return False
        try:
            self._end.send(message, descriptor)
        except OSError as error:
            if descriptor is not None and error.errno in (errno.EAGAIN, errno.ETOOMANYREFS):
                return False  # It has many to take already: whether it does, a ping tells.
            self._kill("it does not hear" if isinstance(error, BlockingIOError) else str(error.strerror))
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
            return  # It has answered, or has ended.
        if time.monotonic() - due > LATE:
            self._ping()
        else:
            self._kill("it does not answer")

    def _kill(self, why: str) -> None:
        """It goes on when it has been reaped."""
        self._fault = self._fault or why
        self._forget_end()
        self._signal_kill()

    def _signal_kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except OSError:
            return  # It has ended by itself.

    def _forget_end(self) -> None:
        self.is_ready = False
        if self._end is not None:
            self._loop.forget(self._end.fileno())
            self._end.close()
            self._end = None
        for name in ("observer ping", "observer pong"):
            self._loop.cancel(name)

    def _reap(self) -> int | None:
        """Its wait status; None if it is gone already. Whoever is a container's first process reaps everybody."""
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
        self._log.note(
            "observer",
            f"the process that looks at Postgres has ended, and is started again in {pause:g} s: {why}",
        )
        self._lost(why)


def _opened(pid: int) -> int:
    """A child's pidfd. Raises OSError, with the child ended."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _how(status: int | None) -> str:
    """A wait status, as a person would say it."""
    if status is None:
        return "it has ended"
    code = os.waitstatus_to_exitcode(status)
    return f"ended by signal {-code}" if code < 0 else f"ended with status {code}"

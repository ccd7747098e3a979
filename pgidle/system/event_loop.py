"""What the supervisor waits on: descriptors, timers and signals, in one epoll(7), in one thread."""

from __future__ import annotations

import os
import select
import time

from pgidle.base.builtin_modules import signal
from pgidle.base.errors import FAULTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

LONGEST = 86400.0
"""Seconds that one epoll_wait(2) may last: its timeout is an int of milliseconds."""

PAUSES = (0.05, 5.0)
"""Seconds until what the machine did not let happen is tried again: at first, and doubled each time, at most."""

BRAKE = 0.005
"""Seconds for which the loop rests after a fault: the descriptor that told of it may still be readable."""


class Loop:
    """Callbacks for descriptors, timers by name, and signals. Time is `time.monotonic()`.

    A callback that fails because the machine lacks something (FAULTS) is called again after a pause. So each callback
    must be able to start over: nothing else does its work.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: dict[Hashable, tuple[float, Callable[[], None]]] = {}
        self._signal_callback: Callable[[int], None] = lambda _: None
        self._fault_callback: Callable[[BaseException | None], None] = lambda _: None
        self._pauses: dict[Hashable, float] = {}
        """Of what is to be tried again: how long it waits for that."""
        self._signals, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._writing = writing
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self.watch(self._signals, self._read_signals)

    def catch(self, numbers: tuple[int, ...]) -> None:
        """Turn signals into wake-ups. From here on none of them ends the process by itself."""
        for number in numbers:
            signal.signal(number, _nothing)

    def on_signal(self, callback: Callable[[int], None]) -> None:
        """Call back once for every signal that was caught, those from before this call too."""
        self._signal_callback = callback

    def on_fault(self, callback: Callable[[BaseException | None], None]) -> None:
        """Call back with what has failed and is tried again, and with None when nothing is any more."""
        self._fault_callback = callback

    def attempt(self, name: Hashable, callback: Callable[[], None]) -> None:
        """Do something now, or as soon as the machine lets it; until then there is a timer of that name."""
        try:
            callback()
        except FAULTS as error:
            self._fault_callback(error)
            pause = self._pauses[name] = min(2 * self._pauses.get(name, PAUSES[0] / 2), PAUSES[1])
            self._timers.setdefault(name, (time.monotonic() + pause, callback))
            time.sleep(BRAKE)
        else:
            if self._pauses.pop(name, None) is not None and not self._pauses:
                self._fault_callback(None)

    def watch(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        """Call back when a descriptor is readable, as soon as the kernel has room to watch it; `edge`: once for each
        change, not for as long as it is."""
        self._callbacks[fd] = callback
        events = select.EPOLLIN | (select.EPOLLET if edge else 0)

        def register() -> None:
            try:
                self._epoll.register(fd, events)
            except FileExistsError:
                self._epoll.modify(fd, events)

        self.attempt(("watch", fd), register)

    def forget(self, fd: int) -> None:
        """Stop watching, before the descriptor is closed."""
        if self._callbacks.pop(fd, None) is None:
            return
        for name in (("watch", fd), ("called", fd)):
            self.cancel(name)
        try:
            self._epoll.unregister(fd)
        except OSError:
            return  # What it tells from now on is for nobody.

    def after(self, seconds: float, name: Hashable, callback: Callable[[], None]) -> None:
        """Call back once after some seconds; a timer of the same name is replaced."""
        self._timers[name] = (time.monotonic() + seconds, callback)

    def cancel(self, name: Hashable) -> None:
        self._timers.pop(name, None)
        self._pauses.pop(name, None)

    def is_set(self, name: Hashable) -> bool:
        return name in self._timers

    def turn(self) -> None:
        """Wait for something to happen, and call back for all that has."""
        wait = min((at for at, _ in self._timers.values()), default=None)
        # epoll counts in milliseconds: round up, or the last one is spun away.
        timeout = -1.0 if wait is None else min(max(0.0, wait - time.monotonic() + 0.0005), LONGEST)
        try:
            happened = self._epoll.poll(timeout)
        except FAULTS as error:
            self._fault_callback(error)
            time.sleep(BRAKE)
            happened = []
        for fd, _ in happened:
            if (callback := self._callbacks.get(fd)) is not None:
                self.attempt(("called", fd), callback)
        now = time.monotonic()
        for name, (at, callback) in list(self._timers.items()):
            if at <= now and self._timers.get(name) == (at, callback):
                del self._timers[name]
                self.attempt(name, callback)

    def _read_signals(self) -> None:
        for number in os.read(self._signals, 4096):
            self._hear(number)

    def _hear(self, number: int) -> None:
        self.attempt(("signal", number), lambda: self._signal_callback(number))


def _nothing(_number: int, _frame: object) -> None:
    """The byte that set_wakeup_fd() wrote is all that is wanted of a signal."""

"""Copies the stderr of a postmaster that follows a failed start to our stderr, and remembers the end of it.

Normally Postgres writes to our stderr by itself. A copy is made only for a postmaster whose predecessor never became
ready, and then for as long as it lives, because its processes cannot be given another stderr. If the reader of our
stderr stops, Postgres waits as it would without us: what cannot be written is not read.
"""

from __future__ import annotations

import os
import select

from pgidle.base.builtin_modules import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.system.event_loop import Loop

STDERR = 2
ONCE = 4096
"""Bytes: PIPE_BUF (linux/limits.h). A pipe that polls writable takes as much without waiting."""
PIPE = 65536
"""Bytes that a pipe holds (pipe(7)). Whatever a process of the postmaster's writes later comes after them."""
KEPT = 16384
"""Bytes at the end of the output that are remembered."""
AGAIN = 0.05
"""Seconds until another attempt to write what stderr had no room for."""


class ErrorCopy:
    """A pipe from one postmaster. `writing` is what it gets as its stderr; give it up with `spawned`."""

    def __init__(self, loop: Loop, to: int = STDERR) -> None:
        """Raises OSError."""
        self._loop = loop
        self._to = to
        reading, self.writing = os.pipe2(os.O_CLOEXEC)
        self._reading: int | None = reading
        self._unwritten = b""
        self._is_paused = False
        self.said = b""
        """The end of it."""
        try:
            os.set_blocking(reading, False)
            loop.watch(reading, self._on_said)
        except OSError:
            close(reading)
            self.spawned()
            raise

    def spawned(self) -> None:
        """The postmaster has it, or there is none."""
        close(self.writing)

    def drain(self) -> None:
        """The postmaster has ended: take all that it has said, a pipe's length at most."""
        for _ in range(PIPE // ONCE):
            if not self._read():
                break
        self._write()

    def give_up(self) -> None:
        """Another start follows: what stderr still has no room for is lost, or each would leave some behind."""
        self._loop.cancel(self)
        self._unwritten = b""
        self._write()

    def _on_said(self) -> None:
        if self._read():
            self._write()

    def _read(self) -> bool:
        """Whether there was something."""
        if self._reading is None:
            return False
        try:
            more = os.read(self._reading, ONCE)
        except BlockingIOError:
            return False
        if not more:
            self._loop.forget(self._reading)
            close(self._reading)
            self._reading = None
            return False
        self._unwritten += more
        self.said = (self.said + more)[-KEPT:]
        return True

    def _write(self) -> None:
        """As much as there is room for, at the ends of lines. The rest later; until then nothing more is read."""
        poll = select.poll()
        poll.register(self._to, select.POLLOUT)
        while self._unwritten:
            end = self._unwritten.rfind(b"\n", 0, ONCE) + 1 or ONCE
            try:
                if not any(event & select.POLLOUT for _, event in poll.poll(0)):
                    self._pause()
                    return
                written = os.write(self._to, self._unwritten[:end])
            except OSError:
                written = end  # Lost, as if Postgres had written it: the disk is full, or the reader gone.
            self._unwritten = self._unwritten[written:]
        if self._is_paused and self._reading is not None:
            self._loop.watch(self._reading, self._on_said)
        self._is_paused = False

    def _pause(self) -> None:
        if self._reading is not None and not self._is_paused:
            self._loop.forget(self._reading)
        self._is_paused = True
        self._loop.after(AGAIN, self, self._write)

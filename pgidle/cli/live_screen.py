"""Text that is drawn again and again in place, on the terminal's alternate screen, until a key or a signal ends it.

The terminal is restored whatever happens: at the end, on an error, by a signal that ends the program, and while it is
stopped (Ctrl-Z). Signals are read from a pipe (signal.set_wakeup_fd), so that none arrives in the middle of a change.
Sequences are those of xterm's control sequences document, which every terminal of today understands.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pgidle.cli.text_width import fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

IN, OUT = 0, 1
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
HEARD = (*ENDING, signal.SIGTSTP, signal.SIGWINCH)
BEGIN, END = b"\x1b[?1049h\x1b[?25l\x1b[?7l", b"\x1b[?7h\x1b[?25h\x1b[?1049l"
"""Alternate screen, no cursor, no wrapping of lines; and back."""
KEY = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
QUIT = (b"q", b"Q", b"\x03", b"\x04")
TOP, BOTTOM = -(10**9), 10**9
MOVES = {
    **dict.fromkeys((b"j", b"\x1b[B", b"\x1bOB"), 1),
    **dict.fromkeys((b"k", b"\x1b[A", b"\x1bOA"), -1),
    **dict.fromkeys((b"g", b"\x1b[H", b"\x1bOH", b"\x1b[1~"), TOP),
    **dict.fromkeys((b"G", b"\x1b[F", b"\x1bOF", b"\x1b[4~"), BOTTOM),
}
PAGES = {b" ": 1, b"\x1b[6~": 1, b"b": -1, b"\x1b[5~": -1}
"""Keys that move by lines, and by screens."""


class Size(NamedTuple):
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """`head` stays where it is; `body` can be moved through if the screen is too small for it."""

    head: Sequence[str]
    body: Sequence[str]


class _Ended(Exception):
    """A signal has arrived that ends the program."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def is_possible() -> bool:
    """Whether standard output is a terminal on which anything can be drawn."""
    return os.isatty(OUT) and os.environ.get("TERM", "dumb") != "dumb"


def show(draw: Callable[[Size], Drawn], news: int, every: float) -> None:
    """Draw until somebody quits: whenever a byte arrives at the descriptor `news`, every so many seconds, and in
    another size. A signal that ends the program does so, Ctrl-C excepted."""
    try:
        with _Terminal() as terminal:
            _draw_again_and_again(terminal, draw, news, every)
    except _Ended as ended:
        if ended.number != signal.SIGINT:
            signal.signal(ended.number, signal.SIG_DFL)
            os.kill(os.getpid(), ended.number)


def _draw_again_and_again(
    terminal: _Terminal, draw: Callable[[Size], Drawn], news: int, every: float
) -> None:
    first = 0
    while True:
        size = _size()
        drawn = draw(size)
        room = max(1, size.height - len(drawn.head))
        first = max(0, min(first, len(drawn.body) - room))
        terminal.draw(_lines(drawn, first, size), size)
        keys = terminal.wait(news, every)
        for key in keys:
            if key in QUIT:
                return
            first = max(0, min(first + MOVES.get(key, 0) + PAGES.get(key, 0) * room, len(drawn.body)))


def _lines(drawn: Drawn, first: int, size: Size) -> list[str]:
    """The lines that fit, the last one a count of those that do not."""
    lines = [*drawn.head, *drawn.body[first:]]
    if (left := len(lines) - size.height) > 0 and size.height > 1:
        lines = [*lines[: size.height - 1], f"… {left + 1} more lines (arrow keys, space)"]
    return lines[: size.height]


def _size() -> Size:
    try:
        size = os.get_terminal_size(OUT)
    except OSError:
        return Size(80, 24)
    return Size(size.columns or 80, size.lines or 24)


class _Terminal:
    """In use within a `with`."""

    def __init__(self) -> None:
        self._keys = IN if os.isatty(IN) else None
        self._before: list[int | list[bytes | int]] | None = None
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> _Terminal:
        with contextlib.ExitStack() as ends:
            self._signals, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            ends.callback(os.close, self._signals)
            ends.callback(os.close, told)
            ends.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(told, warn_on_full_buffer=False))
            for number in HEARD:
                was = signal.getsignal(number)
                # One that is ignored (nohup) stays so.
                if was is not signal.SIG_IGN:
                    signal.signal(number, _heard)
                    ends.callback(signal.signal, number, was)
            if self._keys is not None:
                self._before = termios.tcgetattr(self._keys)
            ends.callback(self._restore)
            self._take()
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def draw(self, lines: Sequence[str], size: Size) -> None:
        """Replace everything at once; nothing is erased before it is overwritten, so nothing flickers."""
        encoding = sys.stdout.encoding
        shown = [fitted(line, size.width).encode(encoding, "replace") + b"\x1b[0m\x1b[K" for line in lines]
        self._write(b"\x1b[H" + b"\r\n".join(shown) + b"\x1b[J")

    def wait(self, news: int, seconds: float) -> list[bytes]:
        """The keys that were pressed; none after so many seconds, at a byte of `news`, or in another size. Raises
        _Ended."""
        until = time.monotonic() + seconds
        while True:
            watched = [self._signals, news, *([self._keys] if self._keys is not None else [])]
            ready, _, _ = select.select(watched, [], [], max(0.0, until - time.monotonic()))
            if self._signals in ready:
                self._obey(os.read(self._signals, 4096))
            if news in ready:
                os.read(news, 4096)
            if self._keys in ready:
                keys = self._read_keys()
                if keys:
                    return keys
            elif ready or time.monotonic() >= until:
                return []

    def _read_keys(self) -> list[bytes]:
        try:
            data = os.read(IN, 256)
        except OSError:
            data = b""
        # A terminal that has gone is at its end for ever.
        return KEY.findall(data) if data else [QUIT[0]]

    def _obey(self, numbers: bytes) -> None:
        for number in numbers:
            if number in ENDING:
                raise _Ended(number)
        if signal.SIGTSTP in numbers:
            self._restore()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            # It goes on here once it is continued.
            signal.signal(signal.SIGTSTP, _heard)
            self._take()

    def _take(self) -> None:
        if self._keys is not None:
            tty.setcbreak(self._keys, termios.TCSANOW)
        self._write(BEGIN)

    def _restore(self) -> None:
        if self._before is not None and self._keys is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSANOW, self._before)
        with contextlib.suppress(OSError):
            self._write(END)

    def _write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def _heard(_number: int, _frame: FrameType | None) -> None:
    """A handler, as without one the signal would not reach the pipe."""

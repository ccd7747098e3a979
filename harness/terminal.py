"""A program on a terminal of its own, as a person uses it: what it shows, keys, another size, and how it leaves it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PATIENCE = 30.0
ALTERNATE, NORMAL = "\x1b[?1049h", "\x1b[?1049l"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HOME = "\x1b[H"

BEHIND_A_SHELL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = subprocess.Popen(sys.argv[1:], preexec_fn=lambda: (
    os.setpgid(0, 0), os.tcsetpgrp(0, os.getpid()), *(signal.signal(one, signal.SIG_DFL) for one in (2, 22))))
while True:
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(0, os.getpgrp())
    print("STOPPED", flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, child.pid)
    os.killpg(child.pid, signal.SIGCONT)
os.tcsetpgrp(0, os.getpgrp())
print(f"ENDED {os.waitstatus_to_exitcode(status)}", flush=True)
"""
"""The part of a shell that matters here: it gives the terminal to a job, takes it back when that stops, and continues
it after a line."""


class Terminal:
    """Use it as a context. `said` is everything written so far."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        width: int = 80,
        height: int = 24,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._far, near = pty.openpty()
        self.resize(width, height)
        self.modes = termios.tcgetattr(near)
        """Of the terminal, before the program began."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PG", "POSTGRES_", "NO_COLOR"))
        }
        self.process = subprocess.Popen(
            command,
            stdin=near,
            stdout=near,
            stderr=near,
            env=clean | {"TERM": "xterm-256color"} | dict(env or {}),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._near = near
        self.said = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._far)
        os.close(self._near)

    def press(self, keys: str) -> None:
        os.write(self._far, keys.encode())

    def resize(self, width: int, height: int) -> None:
        """The kernel tells the program (SIGWINCH)."""
        fcntl.ioctl(self._far, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, seconds: float) -> None:
        """Read what is written within so many seconds, up to a pause."""
        until = time.monotonic() + seconds
        while select.select([self._far], [], [], max(0.0, until - time.monotonic()))[0]:
            self.said += os.read(self._far, 65536).decode(errors="replace")
            until = min(until, time.monotonic() + 0.05)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, f"never came: {self.said[-3000:]!r}"
            self.read(0.2)

    def wait_for(self, text: str) -> None:
        """Until the screen shows it."""
        self.wait_until(lambda: text in "\n".join(self.screen()))

    def wait(self) -> int:
        """The exit status, with everything read."""
        self.wait_until(lambda: self.process.poll() is not None)
        self.read(0.2)
        return self.process.returncode

    def screen(self) -> list[str]:
        """The lines of what was drawn last, without escapes."""
        drawn = self.said.rpartition(HOME)[2] if HOME in self.said else self.said
        return [ESCAPE.sub("", line).rstrip("\r") for line in drawn.split("\n")]

    def is_restored(self) -> bool:
        """Whether the terminal is as it was: its modes, the normal screen, a visible cursor, wrapped lines."""
        shown = all(
            self.said.rfind(on) > self.said.rfind(off)
            for on, off in ((NORMAL, ALTERNATE), ("\x1b[?25h", "\x1b[?25l"), ("\x1b[?7h", "\x1b[?7l"))
        )
        return shown and termios.tcgetattr(self._near) == self.modes

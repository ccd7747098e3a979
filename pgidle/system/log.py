"""The log on stderr: a line for every change of state, and for whatever else is worth one.

A line is one write(2) of at most PIPE_BUF bytes, so that lines of several processes do not mix in one pipe (pipe(7)).
Logging never blocks: a line that stderr does not take at once is dropped and counted.
"""

from __future__ import annotations

import os
import time

from pgidle.base.errors import FAULTS
from pgidle.base.json_text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.base.json_text import Value
    from pgidle.lifecycle.transitions import State
    from pgidle.settings.options import LogFormat

STDERR = 2
# PIPE_BUF on Linux (linux/limits.h). A pipe that polls writable has room for as much.
LONGEST = 4096


def one_line(text: str) -> str:
    """The text with escapes in place of characters that could end the line or control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def goes_to_journal(environ: Mapping[str, str]) -> bool:
    """Whether stderr is a stream of the journal's (systemd.exec(5), JOURNAL_STREAM)."""
    found = os.fstat(STDERR)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Log:
    """Writes lines as text or JSON, as the setting says."""

    def __init__(self, format: LogFormat, *, is_stamped: bool = True) -> None:
        """`is_stamped`: text lines begin with time and pid, which a journal adds by itself."""
        self._as_json = format.name == "JSON"
        self._is_stamped = is_stamped
        self._failing: dict[str, str] = {}
        self._lost = 0

    def line(self, state: State, reason: str, before: State | None = None, **fields: Value) -> None:
        """A change of state, from the one before. `fields` show in JSON only."""
        known: dict[str, Value] = {
            "state": state.noun,
            "from": before.noun if before else None,
            "reason": reason,
        }
        self._write(state.noun, reason, known | fields)

    def note(self, topic: str, text: str, **fields: Value) -> None:
        """A line about anything but a change of state."""
        self._write(topic, text, {"topic": topic, "reason": text} | fields)

    def once(self, topic: str, text: str) -> None:
        """Log a failure, once for as long as it fails in the same way."""
        if self._failing.get(topic) != text:
            self._failing[topic] = text
            self.note(topic, text)

    def forget(self, topic: str) -> None:
        """A failure logged by `once` is over: log that, if there was one."""
        if (text := self._failing.pop(topic, None)) is not None:
            self.note(topic, f"that is over: {text}")

    def _write(self, topic: str, text: str, fields: dict[str, Value]) -> None:
        try:
            self._put_line(topic, text, fields)
        except FAULTS:
            self._lost += 1  # No memory or descriptor for it.

    def _put_line(self, topic: str, text: str, fields: dict[str, Value]) -> None:
        now = time.time()
        if self._lost:
            text += f" ({self._lost} lines before this one were lost)"
            fields |= {"lost": self._lost}
        data = self._format(now, topic, text, fields)
        while len(data) >= LONGEST and text:
            text = text[: len(text) // 2]
            data = self._format(now, topic, f"{text}...", fields)
        self._lost = 0 if _put(data[: LONGEST - 1] + b"\n") else self._lost + 1

    def _format(self, now: float, topic: str, text: str, fields: dict[str, Value]) -> bytes:
        moment = time.gmtime(now)
        # Truncated: rounding could name a second that has not begun.
        millisecond = int(now * 1000) % 1000
        if self._as_json:
            stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{millisecond:03}Z"
            content: dict[str, Value] = {"time": stamp, "pid": os.getpid(), **fields, "reason": text}
            return encode(content).encode()
        if not self._is_stamped:
            return one_line(f"{topic}: {text}").encode()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', moment)}.{millisecond:03} UTC"
        return one_line(f"{stamp} [{os.getpid()}] pgidle: {topic}: {text}").encode()


def _put(data: bytes) -> bool:
    """Write without waiting, or not at all: a reader that has stopped must not block the supervisor."""
    import select

    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    try:
        if not any(event & select.POLLOUT for _, event in poll.poll(0)):
            return False
        return os.write(STDERR, data) == len(data)
    except OSError:
        return False

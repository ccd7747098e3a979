"""Leaving: the listeners end with this process, and nobody may be left in their queues.

TCP is plugged first: who begins to connect gets no answer, and tries again a second later, by when somebody else
listens or nobody does. Handshakes under way complete. When none is left and nobody has come, a second look some
milliseconds later sees what was in the kernel's hands during the first. Unix sockets come last, because nobody there
tries again: their files are out of the way for as long as it takes to see that nobody waits (microseconds), then they
are ended, which no connection can straddle, and are looked at once more.

Inherited listeners stay as they are. Somebody else has them, too.
"""

from __future__ import annotations

import time

from pgidle.base.record import Enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.gate.listeners import Listener

SETTLING = 0.005
"""Seconds between two looks of which both must find nobody."""

HANDSHAKE_PATIENCE = 1.0
"""Seconds for handshakes under way. Whoever begins one and does not complete it (a port scan) must not keep those out
who come meanwhile."""


class Outcome(Enum):
    """What a look at the queues has come to."""

    NOBODY = "nobody"
    SOMEBODY = "somebody"
    NOT_YET = "not yet"
    """Look again after SETTLING."""
    NOT_NOW = "not now"
    """Handshakes do not end: unplug, and leave another time."""


class Leaving:
    """One attempt. After NOBODY the process ends; after anything else but NOT_YET call `call_off`."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        """Plug. Raises OSError where the kernel refuses to: some may be plugged then."""
        self._listeners = [one for one in listeners if not one.is_inherited]
        self._since = time.monotonic()
        self._quiet = 0
        for one in self._tcp():
            one.plug()

    def look(self) -> Outcome:
        """Once. Raises OSError where the kernel does not tell."""
        # In this order: who completes a handshake between the two is in the queue by then.
        handshakes = sum(one.handshakes() for one in self._tcp())
        if any(one.parked() for one in self._listeners):
            return Outcome.SOMEBODY
        if handshakes:
            self._quiet = 0
            is_late = time.monotonic() - self._since > HANDSHAKE_PATIENCE
            return Outcome.NOT_NOW if is_late else Outcome.NOT_YET
        self._quiet += 1
        if self._quiet < 2:
            return Outcome.NOT_YET
        # There could be no other at an abstract name before this one is closed.
        unix = [one for one in self._listeners if one.path is not None and not one.is_ended]
        try:
            for one in unix:
                one.hide()
            # Before there is no way back: who is there calls it off, and the next comes to the same socket.
            if any(one.has_parked() for one in unix):
                return Outcome.SOMEBODY
            for one in unix:
                one.end()
        finally:
            for one in unix:
                one.show()
        return Outcome.SOMEBODY if any(one.parked() for one in self._listeners) else Outcome.NOBODY

    def call_off(self) -> list[Listener]:
        """Let clients come again. What is returned has ended with somebody in its queue: make another at its address,
        and give both to the next postmaster, the new one first."""
        for one in self._tcp():
            one.unplug()
        return [one for one in self._listeners if one.is_ended]

    def _tcp(self) -> list[Listener]:
        return [one for one in self._listeners if not one.is_unix]

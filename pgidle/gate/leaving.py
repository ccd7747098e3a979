"""Leaving: the listeners end with this process, and no client may be left in their queues.

TCP is plugged first: a client that begins to connect gets no answer and tries again a second later, when either
somebody else listens or nobody does. Handshakes under way complete. When none is left and no client is in a queue, a
second look some milliseconds later catches what the kernel was still processing during the first. Unix sockets come
last, because their clients do not try again: the files are renamed away for the microseconds that it takes to see that
nobody waits. Then the sockets are ended, atomically for every connection, and looked at once more.

Inherited listeners stay as they are: somebody else has them, too.
"""

from __future__ import annotations

import time

from pgidle.base.record import Enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.gate.listeners import Listener

SETTLING = 0.005
"""Seconds between two looks, both of which must find nobody."""

HANDSHAKE_PATIENCE = 1.0
"""Seconds for handshakes under way. A client that never completes one (a port scan) must not keep out others that come
in the meantime."""


class Outcome(Enum):
    """The result of a look at the queues."""

    NOBODY = "nobody"
    SOMEBODY = "somebody"
    NOT_YET = "not yet"
    """Look again after SETTLING."""
    NOT_NOW = "not now"
    """Handshakes do not complete: unplug, and leave at another time."""


class Leaving:
    """One attempt. After NOBODY the process ends; after anything else but NOT_YET call `call_off`."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        """Plug the TCP listeners. Raises OSError if the kernel refuses; some may be plugged then."""
        self._listeners = [one for one in listeners if not one.is_inherited]
        self._since = time.monotonic()
        self._quiet = 0
        for one in self._tcp():
            one.plug()

    def look(self) -> Outcome:
        """Look at the queues once. Raises OSError where the kernel does not tell."""
        # In this order: a handshake that completes in between shows up in the queue.
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
        # Not those at abstract names: no replacement could be bound there until the old one is closed.
        unix = [one for one in self._listeners if one.path is not None and not one.is_ended]
        try:
            for one in unix:
                one.hide()
            # Ending cannot be undone. If somebody waits, call it off now, and later clients use the same socket.
            if any(one.has_parked() for one in unix):
                return Outcome.SOMEBODY
            for one in unix:
                one.end()
        finally:
            for one in unix:
                one.show()
        return Outcome.SOMEBODY if any(one.parked() for one in self._listeners) else Outcome.NOBODY

    def call_off(self) -> list[Listener]:
        """Let clients connect again. Returns the listeners that have ended with clients in their queues: make a new
        one at the address of each, and pass both to the next postmaster, the new one first."""
        for one in self._tcp():
            one.unplug()
        return [one for one in self._listeners if one.is_ended]

    def _tcp(self) -> list[Listener]:
        return [one for one in self._listeners if not one.is_unix]


class Draining:
    """A stop that somebody asked for, while Postgres serves: no client can begin to connect any more, and those who
    have begun are still accepted. Unlike leaving it cannot be called off."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        """Plug the TCP listeners and remove the files of Unix sockets. Where that fails, clients go on coming, and
        those who come after the last look are cut.

        A Unix listener is not ended here: Postgres, which still polls it, would accept from it in vain.
        """
        self._listeners = [one for one in listeners if not one.is_inherited]
        self._quiet = 0
        for one in self._listeners:
            try:
                if one.is_unix:
                    one.remove_file()
                else:
                    one.plug()
            except OSError:
                continue  # Such as a folder that has become read-only. Clients of the others are served all the same.

    def is_over(self) -> bool:
        """Whether two looks in a row have found nobody on the way; look again after SETTLING. Raises OSError."""
        # In this order: a handshake that completes in between shows up in the queue.
        handshakes = sum(one.handshakes() for one in self._listeners if not one.is_unix)
        is_quiet = not handshakes and not any(one.parked() for one in self._listeners)
        self._quiet = self._quiet + 1 if is_quiet else 0
        return self._quiet >= 2

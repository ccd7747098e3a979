"""The gate: which listeners there are, whether Postgres accepts from them, and who waits.

Postgres accepts only between an order to open and the answer to one to shut; the answers are what counts. An alarm (the
postmaster ends a child, or is told to stop) shuts the gate without an order.
"""

from __future__ import annotations

import os

from pgidle.gate_shared.channel import (
    Answer,
    Channel,
    ChildSignalled,
    SocketMade,
    StopSignalled,
    Waits,
)
from pgidle.gate_shared.listeners import Listener
from pgidle.light import signal, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.gate_shared.channel import Told
    from pgidle.gate_shared.listeners import Waiting


class Gate:
    """All calls are for the supervisor alone."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = list(listeners)
        self.is_open = False
        """Whether Postgres accepts, as far as it has answered."""
        self.is_shared = False
        """Whether the running postmaster waits for clients as it is told to."""
        self.is_ending = False
        """Whether the running postmaster has begun to end."""
        self._channel: Channel | None = None
        self._data_dir = ""
        self._awaited: int | None = None
        self._background_writer: int | None = None

    def began(self, end: socket.socket, data_dir: str) -> Channel:
        """A postmaster was started, with our end of its channel. A relative socket path is this data directory's."""
        self.gone()
        self._channel = Channel(end)
        self._data_dir = data_dir
        return self._channel

    def gone(self) -> None:
        """The postmaster has ended; who waits, waits on."""
        self.is_open = self.is_shared = self.is_ending = False
        self._awaited = self._background_writer = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for one in [one for one in self.listeners if one.is_ended and not one.parked()]:
            self.listeners.remove(one)
            one.close()

    def knows(self, background_writer: int) -> None:
        """Its pid: it lives as long as Postgres serves, and a stop signals it with all others (postmaster.c)."""
        self._background_writer = background_writer

    def open(self) -> bool:
        """Have Postgres accept who waits and who comes; whether that could be ordered."""
        self._awaited = self._channel.order_open() if self._channel is not None else None
        return self._awaited is not None

    def shut(self) -> bool:
        """Have Postgres accept nobody any more; whether that could be ordered."""
        self._awaited = self._channel.order_shut() if self._channel is not None else None
        return self._awaited is not None

    @property
    def is_answered(self) -> bool:
        """Whether the last order was: until then, `is_open` is what was before it."""
        return self._awaited is None

    def receive(self) -> Told | None:
        """What the postmaster has told next, already minded; None if nothing more. Raises EOFError when its end is
        closed, and ChannelError."""
        if self._channel is None:
            return None
        told = self._channel.receive()
        match told:
            case SocketMade():
                self._keep(told.descriptor)
            case Waits():
                self.is_shared = True
            case Answer() if told.order == self._awaited:
                self.is_open = told.is_open
                self._awaited = None
            case StopSignalled():
                self.is_open = False
                self.is_ending = True
            case ChildSignalled():
                self.is_open = False
                ends = told.signal != signal.SIGTERM or told.pid == self._background_writer
                self.is_ending = self.is_ending or ends
        return told

    def parked(self) -> int:
        """How many wait."""
        return sum(one.parked() for one in self.listeners)

    def who(self) -> list[Waiting]:
        """Who waits, as far as the kernel tells. Raises OSError."""
        return [waiting for one in self.listeners for waiting in one.who()]

    def _keep(self, descriptor: int) -> None:
        """A Unix socket that Postgres has made outlives it from now on."""
        made = Listener(socket.socket(fileno=descriptor), is_inherited=False)
        if made.path is not None:
            made.name = os.path.join(self._data_dir, made.path)
        # What stood at the address before is another file's, or nobody's.
        for one in [one for one in self.listeners if one.name == made.name and not one.is_inherited]:
            self.listeners.remove(one)
            one.close()
        self.listeners.append(made)

"""The gate: which listeners there are, whether Postgres accepts from them, and who waits.

Postgres accepts only between an order to open and the answer to one to shut; the answers are what counts. An alarm (the
postmaster ends a child, or is told to stop) shuts the gate without an order.

Where nothing can be preloaded (mode `none`), Postgres listens by itself, as without pgidle: nobody waits while it is
not ready, and only while it sleeps are there listeners here, to notice who comes.
"""

from __future__ import annotations

import os

from pgidle.base.builtin_modules import signal, socket
from pgidle.base.record import Enum
from pgidle.gate.channel import (
    Answer,
    Channel,
    ChildSignalled,
    Loaded,
    SocketMade,
    StopSignalled,
    Waits,
)
from pgidle.gate.listeners import Listener, listen_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.gate.channel import Told
    from pgidle.gate.listeners import Address, Waiting


class Mode(Enum):
    """What happens to a client that comes while Postgres is not ready: `SHARED`, it waits; `NONE`, it is refused."""

    SHARED = "shared"
    NONE = "none"


class Gate:
    """All calls are for the supervisor alone. `addresses` are those of TCP."""

    def __init__(
        self, listeners: Sequence[Listener], addresses: Sequence[Address] = (), mode: Mode = Mode.SHARED
    ) -> None:
        self.mode = mode
        self.addresses = tuple(addresses)
        self.listeners = list(listeners)
        self.is_open = False
        """Whether Postgres accepts, as far as it has answered."""
        self.is_shared = False
        """Whether the running postmaster waits for clients as it is told to."""
        self.is_ending = False
        """Whether the running postmaster has begun to end."""
        self.is_loaded = False
        """Whether the library is in the running postmaster."""
        self.left_out: list[Listener] = []
        """What it was given and does not listen on."""
        self._channel: Channel | None = None
        self._data_dir = ""
        self._awaited: int | None = None
        self._background_writer: int | None = None
        self._given: tuple[Listener, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The TCP addresses as numbers, each once."""
        return tuple(dict.fromkeys(address[1][0] for address in self.addresses))

    def began(self, end: socket.socket, data_dir: str) -> Channel:
        """A postmaster was started, with our end of its channel. A relative socket path is this data directory's."""
        self.gone()
        self._channel = Channel(end)
        self._data_dir = data_dir
        return self._channel

    def gone(self) -> None:
        """The postmaster has ended; who waits, waits on."""
        self.is_open = self.is_shared = self.is_ending = self.is_loaded = False
        self.left_out = []
        self._awaited = self._background_writer = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        names = [one.name for one in self.listeners if not one.is_ended]
        try:
            done = [
                one
                for one in self.listeners
                if one.is_ended and (one.is_given_up or one.name in names) and not one.parked()
            ]
        except OSError:
            return  # Another time.
        for one in done:
            self.listeners.remove(one)
            one.close()

    def to_share(self) -> list[int]:
        """What the next postmaster inherits. Of two at one address the later one is on its way out."""
        self._given = tuple(sorted(self.listeners, key=lambda one: one.is_ended))
        return [one.fileno() for one in self._given]

    def make_way(self) -> None:
        """Before Postgres binds: in mode `none` stop listening. Who knocked is refused."""
        if self.mode is Mode.NONE:
            for one in self.listeners:
                one.close()
            self.listeners = []

    def notice(self) -> None:
        """Postgres sleeps: in mode `none` only now is there somebody to listen for. Raises PgidleError."""
        if self.mode is Mode.NONE and not self.listeners:
            self.listeners, _ = listen_on(self.addresses)

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
        closed, ChannelError, and OSError where it may be had another time."""
        if self._channel is None:
            return None
        told = self._channel.receive()
        match told:
            case SocketMade() if told.descriptor is not None:
                self._keep(told.descriptor)
            case Loaded():
                self.is_loaded = True
            case Waits():
                self.is_shared = True
                left = [self._given[at] for at in told.left_out if at < len(self._given)]
                self.left_out = [one for one in left if not one.is_ended]
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

    def paths(self) -> list[str]:
        """The Unix sockets' files, a service manager's too: the lock beside each is ours to look after."""
        return [one.path for one in self.listeners if one.path is not None]

    def _keep(self, descriptor: int) -> None:
        """A Unix socket that Postgres has made outlives it from now on."""
        made = Listener(socket.socket(fileno=descriptor), is_inherited=False)
        if made.path is not None:
            made.name = os.path.join(self._data_dir, made.path)
            try:
                made.note_file()
            except OSError:
                pass  # Noted when it can be seen; until then nobody knows whether it is lost.
        # What stood at the address before is another file's, or nobody's; who waits there still is served.
        former = [one for one in self.listeners if one.name == made.name and not one.is_ended]
        for one in [one for one in former if not one.is_inherited]:
            self.listeners.remove(one)
            one.close()
        self.listeners.append(made)

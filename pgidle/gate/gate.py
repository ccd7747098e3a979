"""The gate: its listeners, whether Postgres accepts from them, and who waits there.

Postgres accepts only between an order to open and the answer to an order to shut; only the answers count. An alarm (the
postmaster ends a child, or gets a signal to stop) shuts the gate without an order.

If nothing can be preloaded (mode `none`), Postgres listens by itself, as without pgidle: clients are refused while it
is not ready, and the gate has listeners only while it sleeps, to notice clients that wake it.
"""

from __future__ import annotations

import os

from pgidle.base.builtin_modules import signal, socket
from pgidle.base.record import Enum
from pgidle.gate.listeners import Listener, listen_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.gate.channel import Channel, Told
    from pgidle.gate.listeners import Address, Waiting


class Mode(Enum):
    """What happens to a client while Postgres is not ready: with `SHARED` it waits, with `NONE` it is refused."""

    SHARED = "shared"
    NONE = "none"


class Gate:
    """Used by the supervisor alone. `addresses` are the TCP addresses."""

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
        """Listeners that it inherited and does not listen on."""
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
        # Not before: until the first postmaster is spawned, what is imported adds to the wake.
        from pgidle.gate.channel import Channel

        self.gone()
        self._channel = Channel(end)
        self._data_dir = data_dir
        return self._channel

    def gone(self) -> None:
        """The postmaster has ended. Clients that wait go on waiting."""
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
        """Descriptors for the next postmaster to inherit. Of two listeners at one address, the one that has ended is
        last."""
        self._given = tuple(sorted(self.listeners, key=lambda one: one.is_ended))
        return [one.fileno() for one in self._given]

    def make_way(self) -> None:
        """Call before Postgres binds: in mode `none`, stop listening. The client that came is refused."""
        if self.mode is Mode.NONE:
            for one in self.listeners:
                one.close()
            self.listeners = []

    def notice(self) -> None:
        """Postgres sleeps: in mode `none`, start to listen. Raises PgidleError."""
        if self.mode is Mode.NONE and not self.listeners:
            self.listeners, _ = listen_on(self.addresses)

    def knows(self, background_writer: int) -> None:
        """Remember the background writer's pid. It lives as long as Postgres serves, and a stop signals it with all
        others (postmaster.c)."""
        self._background_writer = background_writer

    def open(self) -> bool:
        """Order Postgres to accept clients; whether the order could be sent."""
        self._awaited = self._channel.order_open() if self._channel is not None else None
        return self._awaited is not None

    def shut(self) -> bool:
        """Order Postgres to accept nobody any more; whether the order could be sent."""
        self._awaited = self._channel.order_shut() if self._channel is not None else None
        return self._awaited is not None

    @property
    def is_answered(self) -> bool:
        """Whether the last order was answered. Until then `is_open` is what it was before the order."""
        return self._awaited is None

    def receive(self) -> Told | None:
        """The postmaster's next record, which the gate has already taken into account; None if there is no more now.

        Raises EOFError when the other end is closed, ChannelError, and OSError if a later attempt may succeed.
        """
        from pgidle.gate.channel import Answer, ChildSignalled, Loaded, SocketMade, StopSignalled, Waits

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
        """The number of clients that wait. Raises OSError."""
        return sum(one.parked() for one in self.listeners)

    def who(self, most: int | None = None) -> list[Waiting]:
        """Who waits, as far as the kernel tells; of each Unix socket's, `most` at the most. Raises OSError."""
        return [waiting for one in self.listeners for waiting in one.who(most)]

    def paths(self) -> list[str]:
        """The files of all Unix sockets, also of a service manager's: we look after the lock file beside each."""
        return [one.path for one in self.listeners if one.path is not None]

    def _keep(self, descriptor: int) -> None:
        """Keep a Unix socket that Postgres has made, so that it outlives Postgres."""
        made = Listener(socket.socket(fileno=descriptor), is_inherited=False)
        if made.path is not None:
            made.name = os.path.join(self._data_dir, made.path)
            try:
                made.note_file()
            except OSError:
                pass  # Tried again later; until then it cannot be seen whether the file is lost.
        # A former listener at this address has no file any more, or another one. Clients in its queue are still served.
        former = [one for one in self.listeners if one.name == made.name and not one.is_ended]
        for one in [one for one in former if not one.is_inherited]:
            self.listeners.remove(one)
            one.close()
        self.listeners.append(made)

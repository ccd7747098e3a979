"""The gate's listening sockets: one for each address, for as long as pgidle runs.

TCP sockets are made here. A Unix socket is made by Postgres, which knows its folder, permissions and group, and kept
from then on. A service manager may pass either kind. All are as Postgres's own would be (SO_REUSEADDR, one IP version
each), do not block, and have as long a queue as the kernel allows.
"""

from __future__ import annotations

import errno
import os
import select
import struct

from pgidle.base.builtin_modules import close, socket
from pgidle.base.errors import PgidleError
from pgidle.base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    from pgidle.gate.port_table import Entry
    from pgidle.gate.unix_socket_file import SocketFile

    Address: TypeAlias = tuple[int, tuple[str, int]]

WIDE = 65535
"""A backlog that leaves the limit to net.core.somaxconn."""
_TCPI_UNACKED = 24
"""Offset of tcpi_unacked in struct tcp_info (linux/tcp.h). For a listener it is the number of connections that wait to
be accepted; tcpi_sacked, which follows, is the most that may (tcp_get_info() in net/ipv4/tcp.c)."""
_CROWDED = 0.5
"""A queue has little room left when this share of its places is taken."""
_FARTHEST = 255
_LEAST_HOPS = {socket.AF_INET: (socket.IPPROTO_IP, 21), socket.AF_INET6: (socket.IPPROTO_IPV6, 73)}
"""IP_MINTTL (linux/in.h) and IPV6_MINHOPCOUNT (linux/in6.h): packets with fewer hops left are dropped. Most start with
64 or 128."""


@record
class Waiting:
    """A client that waits: an address and a port, or the user of a Unix socket's client (None if the kernel does not
    tell)."""

    address: str
    port: int
    uid: int | None = None


class Listener:
    """One listening socket. `is_inherited`: a service manager has it too, and keeps it when we exit."""

    def __init__(self, made: socket.socket, *, is_inherited: bool) -> None:
        self.socket = made
        self.is_inherited = is_inherited
        self._hidden = ""
        self.is_unix = made.family == socket.AF_UNIX
        self.is_ended = False
        """Nobody can connect to it any more; clients that came before are still in its queue."""
        self.is_given_up = False
        """Ended because Postgres no longer listens at its address, which is not ours then."""
        made.setblocking(False)
        name = made.getsockname()
        self.name = os.fsdecode(name) if self.is_unix else _zoned(name)
        """An address as a number, a path, or an abstract name with a NUL in front."""
        self.port = 0 if self.is_unix else int(name[1])
        self.inode = os.fstat(made.fileno()).st_ino
        self.file: SocketFile | None = None
        """Of a Unix socket: its file, once that is known. No other file gets that inode while the socket listens."""

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def path(self) -> str | None:
        """Of a Unix socket that has a file."""
        return self.name if self.is_unix and not (self.is_given_up or self.name.startswith("\0")) else None

    def parked(self) -> int:
        """The number of clients that wait to be accepted; 1 for any number if the kernel does not count. Raises
        OSError."""
        if not self.is_unix:
            return self._queue()[0]
        # Imported here: nobody asks before the first spawn, and until then what is imported adds to the wake.
        from pgidle.gate import port_table

        try:
            return port_table.unix_queue(self.inode)
        except OSError:
            return _is_readable(self.socket)

    def places(self) -> int:
        """The most clients that may wait to be accepted: listen(2)'s backlog, limited by net.core.somaxconn. TCP
        only."""
        return self._queue()[1]

    def is_crowded(self) -> bool:
        """Whether little room is left for others. At a Unix socket nobody waits for long."""
        return not self.is_unix and self.parked() >= _CROWDED * self.places()

    def who(self, most: int | None = None) -> list[Waiting]:
        """The clients that wait to be accepted, as far as the kernel tells. Raises OSError where it tells nothing.
        `most`: of how many of a Unix socket's it is asked, which takes a question for each."""
        from pgidle.gate import port_table

        if self.is_unix:
            return [Waiting(self.name, 0, peer.uid) for peer in port_table.unix_peers(self.inode, most)]
        return [
            Waiting(one.address, one.port)
            for one in self._connections()
            if one.state == port_table.ESTABLISHED and one.inode == 0
        ]

    def handshakes(self) -> int:
        """The number of handshakes under way, which will be in the queue next. Raises OSError."""
        from pgidle.gate.port_table import SYN_RECV

        return 0 if self.is_unix else sum(one.state == SYN_RECV for one in self._connections())

    def plug(self) -> None:
        """Let nobody begin to connect any more: SYNs are dropped without an answer, so that their senders try again.

        Handshakes under way complete: tcp_v4_rcv and tcp_v6_rcv look for those first. The resulting connections
        inherit the limit and receive nothing until it is lifted, which the preloaded library does when it accepts
        them. TCP only. Raises OSError.
        """
        self._hear(_FARTHEST)

    def unplug(self) -> None:
        """Let them come again. Raises OSError."""
        self._hear(0)

    def hide(self) -> None:
        """Unix only: rename the file away until `show`, so that nobody can connect. If that fails, nothing is
        changed."""
        try:
            self.note_file()
            if self.file is not None and self.file.is_in_place():
                self._hidden = f"{self.file.path}.{os.urandom(8).hex()}"
                os.rename(self.file.path, self._hidden)
        except OSError:
            self._hidden = ""

    def show(self) -> None:
        """Undo `hide`. If that fails the file is lost, and is made again like any other that is."""
        hidden, self._hidden = self._hidden, ""
        try:
            if hidden and self.file is not None:
                os.rename(hidden, self.file.path)
        except OSError:
            return

    def remove_file(self) -> None:
        """Unix only: remove the file if it is ours, so that later clients find none. Raises OSError."""
        self.note_file()
        if self.file is not None and self.file.is_in_place():
            os.unlink(self.file.path)

    def has_parked(self) -> bool:
        """Whether anybody waits to be accepted, found out as fast as possible. Not for a listener that has ended."""
        return _is_readable(self.socket)

    def knock(self) -> None:
        """Connect and disconnect at once, so that whoever accepts from it looks. If the queue is too full for that, the
        clients in it have the same effect."""
        with socket.socket(self.socket.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as caller:
            caller.setblocking(False)
            try:
                caller.connect(self.path or self.socket.getsockname())
            except OSError:
                return

    def end(self) -> None:
        """Unix only: refuse every connection from now on, with no instant in between (unix_shutdown() and
        unix_stream_connect() in net/unix/af_unix.c take the same lock). This cannot be undone."""
        self.is_ended = True
        self.socket.shutdown(socket.SHUT_RD)

    def listen_as_ourselves(self) -> None:
        """Make a Unix socket's clients see this process's user as its owner: SO_PEERCRED, which libpq's requirepeer
        checks, names the process that called listen() last (net/unix/af_unix.c). Raises OSError."""
        self.socket.listen(WIDE)

    def note_file(self) -> None:
        """Remember the file of a Unix socket as it is now, with mode and group. Raises OSError."""
        from pgidle.gate.unix_socket_file import find

        if self.path is not None and (self.file is None or self.file.is_in_place()):
            self.file = find(self.path)

    def is_lost(self) -> bool:
        """Whether the file of a Unix socket was removed, or another stands in its place. Raises OSError."""
        return self.file is not None and not self.file.is_in_place()

    def close(self) -> None:
        close(self.socket)

    def _queue(self) -> tuple[int, int]:
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_UNACKED + 8)
        parked, places = struct.unpack_from("@II", info, _TCPI_UNACKED)
        return int(parked), int(places)

    def _hear(self, least_hops: int) -> None:
        level, option = _LEAST_HOPS[self.socket.family]
        self.socket.setsockopt(level, option, least_hops)

    def _connections(self) -> list[Entry]:
        from pgidle.gate.port_table import connections

        everywhere = self.name in ("0.0.0.0", "::")
        found = connections(self.socket.family, self.port)
        return [one for one in found if everywhere or one.local == self.name.partition("%")[0]]


def replace_ended(ended: Listener) -> Listener:
    """A new listener in place of a Unix socket that has ended, with the same permissions. Raises OSError."""
    if ended.path is None:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    ended.note_file()
    if ended.file is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return listen_at(ended.file)


def listen_at(file: SocketFile) -> Listener:
    """A new listener at the path of a socket file of ours, with the same permissions, in place of anything that is
    there now. Raises OSError."""
    try:
        os.unlink(file.path)
    except FileNotFoundError:
        pass
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        made.bind(file.path)
        # The group first: changing it can take permissions away.
        os.chown(file.path, -1, file.group)
        os.chmod(file.path, file.mode)
        made.listen(WIDE)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(mask)
    listener = Listener(made, is_inherited=False)
    listener.note_file()
    return listener


def resolve(listen_addresses: str, port: int) -> list[Address]:
    """The addresses that Postgres would bind for its listen_addresses, as numbers, each once.

    Raises OSError (socket.gaierror) for a name that cannot be resolved.
    """
    found: list[Address] = []
    for entry in (name.strip() for name in listen_addresses.split(",")):
        for name in ("0.0.0.0", "::") if entry == "*" else (entry,) if entry else ():
            # As bytes: for a str Python imports a codec, which takes longer than all sockets here.
            host = name.encode("ascii") if name.isascii() else name
            for family, _, _, _, where in socket.getaddrinfo(
                host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
            ):
                address = (family, (_zoned(where), int(where[1])))
                if address not in found:
                    found.append(address)
    return found


def listen_on(addresses: Sequence[Address]) -> tuple[list[Listener], list[str]]:
    """A listener on each, and why there is none on which of them: those that this machine does not have are left out,
    as Postgres does, if there is any other. Raises PgidleError."""
    made: list[Listener] = []
    missing = []
    try:
        for address in addresses:
            try:
                made.append(Listener(_make(address), is_inherited=False))
            except OSError as error:
                host, port = address[1]
                if error.errno == errno.EADDRINUSE:
                    raise PgidleError(
                        f"port {port} on {host} is taken", "stop what listens there, or set --port"
                    ) from error
                why = f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}"
                if error.errno == errno.EINVAL and host.startswith("fe80:"):
                    raise PgidleError(
                        why, f"a link-local address needs its interface: {host}%eth0"
                    ) from error
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise PgidleError(why, "set --listen-addresses and --port") from error
                missing.append(why)
        if addresses and not made:
            raise PgidleError(missing[0], "set --listen-addresses")
    except PgidleError:
        for one in made:
            one.close()
        raise
    return made, missing


def _make(address: Address) -> socket.socket:
    family, where = address
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(_sockaddr(where))
        made.listen(WIDE)
    except OSError:
        made.close()
        raise
    return made


def _zoned(where: tuple[Any, ...]) -> str:
    """The host of a socket address, with the name of its zone, if it has one."""
    host = str(where[0]).partition("%")[0]
    if len(where) < 4 or not where[3]:
        return host
    try:
        return f"{host}%{socket.if_indextoname(where[3])}"
    except OSError:
        return f"{host}%{where[3]}"


def _sockaddr(where: tuple[str, int]) -> tuple[str, int] | tuple[str, int, int, int]:
    """An address as bind(2) takes it. Raises OSError where its zone, the interface behind %, is not there.

    The zone goes where IPv6 has it, in sin6_scope_id (ipv6(7)): Python keeps what stands there, and drops the other.
    """
    bare, _, zone = where[0].partition("%")
    if not zone:
        return where
    return bare, where[1], 0, int(zone) if zone.isdigit() else socket.if_nametoindex(zone)


def _is_readable(one: socket.socket) -> bool:
    poll = select.poll()
    poll.register(one.fileno(), select.POLLIN)
    return bool(poll.poll(0))

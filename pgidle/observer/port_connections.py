"""One TCP port's connections, handshakes under way, and accept queues, as a look at Postgres needs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgidle.gate.port_table import ESTABLISHED, LISTEN, SYN_RECV, entries
from pgidle.idle.snapshot import Peer

if TYPE_CHECKING:
    from collections.abc import Collection

MAPPED = "::ffff:"


@dataclass(frozen=True, slots=True)
class Connection:
    """An established connection, seen from the port's side. `inode` is 0 until it is accepted; `unread`: bytes that
    have arrived but have not been read; `heard`: seconds since the last bytes arrived, if known."""

    peer: Peer
    inode: int
    unread: int = 0
    heard: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Queue:
    """A listening socket, and how many connections wait to be accepted from it."""

    inode: int
    length: int


@dataclass(frozen=True, slots=True)
class Table:
    """The port at one moment. `handshakes` counts connections whose handshake is not complete."""

    connections: tuple[Connection, ...]
    listeners: tuple[Queue, ...]
    handshakes: int


def scan(port: int, addresses: Collection[str] = ()) -> Table:
    """The port's sockets at these local addresses (empty: at all). Raises OSError if the kernel does not tell.

    Another server may have the same port of another address. `0.0.0.0` and `::` stand for all of their family.
    """
    rows = entries(None, port, (ESTABLISHED, SYN_RECV, LISTEN), is_heard_wanted=True)
    if addresses:
        # The kernel reports a link-local address and its zone separately: the same one in another zone is counted too.
        ours = {address.partition("%")[0] for address in addresses}
        rows = [row for row in rows if {row.local, "0.0.0.0" if "." in row.local else "::"} & ours]
    return Table(
        tuple(
            Connection(Peer(row.address, row.port), row.inode, row.waiting, row.heard)
            for row in rows
            if row.state == ESTABLISHED
        ),
        tuple(Queue(row.inode, row.waiting) for row in rows if row.state == LISTEN),
        sum(row.state == SYN_RECV for row in rows),
    )


def plain(address: str) -> str:
    """An address without the `::ffff:` that an IPv6 socket puts before an IPv4 client's."""
    return address.removeprefix(MAPPED) if "." in address else address

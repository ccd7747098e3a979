"""What the kernel has on one TCP port: connections, handshakes under way, and accept queues.

Asked of the kernel by netlink (sock_diag(7), linux/inet_diag.h), which takes half a millisecond where
/proc/net/tcp and tcp6 take ten: those walk the same table, sized by the machine's memory, far more slowly.
They are read where netlink is not to be had (a sandbox, a kernel without inet_diag). Either way it is this
process's network namespace. Of a listener both tell sk_ack_backlog: the connections that wait to be accepted.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop
from typing import TYPE_CHECKING

from pgidle.snapshot import Peer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# enum in include/net/tcp_states.h
ESTABLISHED = 1
SYN_RECV = 3
LISTEN = 10

# linux/netlink.h, linux/sock_diag.h
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR = 2
NLMSG_DONE = 3

NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
# inet_diag_req_v2: family, protocol, extensions, pad, states
REQUEST = struct.Struct("=BBBBI")
# inet_diag_sockid: source and destination port, source and destination address, interface and cookie
SOCKID = struct.Struct("!HH16s16s12s")
# inet_diag_msg: family, state, timer, retransmissions; sockid; expires, rqueue, wqueue, uid, inode
REPLY_HEAD = struct.Struct("=BBBB")
REPLY_TAIL = struct.Struct("=IIIII")

ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
INET_DIAG_INFO = 2
# Of tcpi_last_data_recv in struct tcp_info (linux/tcp.h): milliseconds, an uint32.
LAST_DATA_RECV = 52

MAPPED = "::ffff:"


@dataclass(frozen=True, slots=True)
class Connection:
    """An established connection, seen from the port's side. `inode` is 0 until somebody accepts it; `unread` are
    bytes that have come and that nobody has read; `heard` is how many seconds ago the last bytes came, if known."""

    peer: Peer
    inode: int
    unread: int = 0
    heard: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Queue:
    """A listening socket: how many connections wait to be accepted from it."""

    inode: int
    length: int


@dataclass(frozen=True, slots=True)
class Table:
    """One reading of the port. `handshakes` counts connections whose last packet has yet to come."""

    connections: tuple[Connection, ...]
    listeners: tuple[Queue, ...]
    handshakes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One socket. `waiting` is rx_queue: bytes, or for a listener connections."""

    state: int
    local: str
    peer: Peer
    waiting: int
    inode: int
    heard: float | None = None


def scan(port: int, addresses: Collection[str] = ()) -> Table:
    """The port's sockets at these local addresses, else at all. Raises OSError if the kernel tells nothing.

    Another server may have the same port of another address. `0.0.0.0` and `::` are all of their family.
    """
    try:
        rows = [*_ask(AF_INET, port), *_ask(AF_INET6, port)]
    except OSError:
        rows = read_proc(port)
    if addresses:
        # The kernel tells a link-local address and its zone apart; who has the same one in another zone is counted too.
        ours = {address.partition("%")[0] for address in addresses}
        rows = [row for row in rows if {row.local, "0.0.0.0" if "." in row.local else "::"} & ours]
    return Table(
        tuple(
            Connection(row.peer, row.inode, row.waiting, row.heard)
            for row in rows
            if row.state == ESTABLISHED
        ),
        tuple(Queue(row.inode, row.waiting) for row in rows if row.state == LISTEN),
        sum(row.state == SYN_RECV for row in rows),
    )


def _ask(family: int, port: int) -> Iterator[Row]:
    """One address family's sockets by netlink; OSError if it is not to be had."""
    states = 1 << ESTABLISHED | 1 << SYN_RECV | 1 << LISTEN
    extensions = 1 << (INET_DIAG_INFO - 1)
    body = REQUEST.pack(family, socket.IPPROTO_TCP, extensions, 0, states) + SOCKID.pack(
        port, 0, b"", b"", b""
    )
    head = NLMSGHDR.pack(NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(head + body)
        while True:
            data = kernel.recv(1 << 16)
            at = 0
            while at < len(data):
                length, kind, *_ = NLMSGHDR.unpack_from(data, at)
                message = data[at + NLMSGHDR.size : at + length]
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", message)[0], "sock_diag")
                yield _row(message)
                at += (length + 3) & ~3


def _row(message: bytes) -> Row:
    family, state, *_ = REPLY_HEAD.unpack_from(message)
    _, port, near, far, _ = SOCKID.unpack_from(message, REPLY_HEAD.size)
    local, remote = (_address(end[:4] if family == AF_INET else end) for end in (near, far))
    _, waiting, _, _, inode = REPLY_TAIL.unpack_from(message, REPLY_HEAD.size + SOCKID.size)
    heard = (
        _heard(message[REPLY_HEAD.size + SOCKID.size + REPLY_TAIL.size :]) if state == ESTABLISHED else None
    )
    return Row(state, local, Peer(remote, port), waiting, inode, heard)


def _heard(attributes: bytes) -> float | None:
    """Seconds since the last bytes came, from the attributes behind a reply (rtnetlink(3))."""
    at = 0
    while at + ATTRIBUTE.size <= len(attributes):
        length, kind = ATTRIBUTE.unpack_from(attributes, at)
        if kind == INET_DIAG_INFO and length >= ATTRIBUTE.size + LAST_DATA_RECV + 4:
            (milliseconds,) = struct.unpack_from("=I", attributes, at + ATTRIBUTE.size + LAST_DATA_RECV)
            return float(milliseconds) / 1000
        at += max(ATTRIBUTE.size, (length + 3) & ~3)
    return None


def read_proc(port: int) -> list[Row]:
    """The same from /proc/net/tcp and tcp6 (proc_net_tcp.rst), absent without IPv6. Raises OSError.

    Addresses are hexadecimal words of the machine's byte order; the queues are tx_queue:rx_queue.
    """
    rows = []
    ours = f":{port:04X}"
    for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if path.name == "tcp6" and not path.exists():
            continue
        for line in path.read_text("ascii").splitlines()[1:]:
            _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
            if local.endswith(ours) and int(state, 16) in (ESTABLISHED, SYN_RECV, LISTEN):
                rows.append(
                    Row(
                        int(state, 16),
                        _hex_peer(local).address,
                        _hex_peer(remote),
                        int(queues.partition(":")[2], 16),
                        int(inode),
                    )
                )
    return rows


def plain(address: str) -> str:
    """An address without the dress of an IPv6 socket that serves an IPv4 client."""
    return address.removeprefix(MAPPED) if "." in address else address


def _hex_peer(text: str) -> Peer:
    digits, _, port = text.partition(":")
    words = [int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8)]
    return Peer(_address(b"".join(words)), int(port, 16))


def _address(raw: bytes) -> str:
    return plain(inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw))

"""The kernel's tables of sockets: clients that wait to be accepted, handshakes, and how long a connection has been
quiet.

They are read through netlink (sock_diag(7), linux/inet_diag.h, linux/unix_diag.h), for this process's network
namespace. Where netlink is not available (a sandbox, a kernel without inet_diag), TCP falls back to /proc/net/tcp and
tcp6, which walk the same table more slowly.
"""

from __future__ import annotations

import os
import struct
import sys

from pgidle.base.builtin_modules import socket
from pgidle.base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# enum in include/net/tcp_states.h
ESTABLISHED, SYN_RECV, LISTEN = 1, 3, 10

# linux/netlink.h, linux/sock_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_TCPDIAG_GETSOCK = 18  # of all families
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type

# linux/inet_diag.h: inet_diag_req_v2, inet_diag_req and inet_diag_msg
_INET_REQUEST = struct.Struct("=BBBBI")  # family, protocol, extensions, pad, states
_FIRST_REQUEST = struct.Struct("=BBBB")  # family, lengths of source and destination, extensions
_FIRST_TAIL = struct.Struct("=II")  # states, dbs
_SOCKID = struct.Struct("!HH16s16s12s")  # ports and addresses of both ends, interface and cookie
_INET_ANSWER = struct.Struct("=BBBB")  # family, state, timer, retransmissions
_INET_TAIL = struct.Struct("=IIIII")  # expires, rqueue, wqueue, uid, inode
_INET_INFO = 2  # INET_DIAG_INFO
# Offsets in struct tcp_info (linux/tcp.h): tcpi_last_data_recv in milliseconds, tcpi_bytes_received, tcpi_data_segs_in
_LAST_DATA_RECV, _BYTES_RECEIVED, _DATA_SEGMENTS = 52, 128, 152

# linux/unix_diag.h: unix_diag_req and unix_diag_msg
_UNIX_REQUEST = struct.Struct("=BBHIII8s")  # family, protocol, pad, states, inode, show, cookie
_UNIX_ANSWER = 16  # bytes of unix_diag_msg
_NO_COOKIE = b"\xff" * 8
_SHOW_ICONS, _SHOW_RQLEN, _SHOW_UID = 0x08, 0x10, 0x40
_ICONS, _RQLEN, _UID = 3, 4, 7  # UNIX_DIAG_*

_MAPPED = b"\0" * 10 + b"\xff\xff"


@record
class Entry:
    """One socket on the port, seen from this side; `inode` is 0 until it is accepted.

    `waiting` is the number of received bytes that are unread, or of connections that a listener has yet to accept.
    `heard` is how many seconds ago the last bytes came, and `received` how many segments with data have come, and how
    many bytes, if that was asked for and is known.
    """

    address: str
    port: int
    state: int
    inode: int
    local: str
    waiting: int = 0
    heard: float | None = None
    received: tuple[int, int] | None = None


@record
class UnixPeer:
    """Somebody who waits at a Unix socket: the inode of the client's own socket, and its user if the kernel tells."""

    inode: int
    uid: int | None


def connections(family: int, port: int) -> list[Entry]:
    """Every connection to a port of ours that is established or in a handshake. Raises OSError if nobody tells."""
    return entries(family, port, (ESTABLISHED, SYN_RECV))


def entries(
    family: int | None, port: int, states: tuple[int, ...], *, is_heard_wanted: bool = False
) -> list[Entry]:
    """Every socket on a port of ours that is in one of these states; of a family, or of both. Raises OSError if nobody
    tells.

    The kernel walks its whole table for each question, which is as large as the machine's memory: one about both
    families costs half of two.
    """
    try:
        return list(_ask(family, port, states, is_heard_wanted))
    except OSError:
        return _read_proc(family, port, states)


def unix_queue(inode: int) -> int:
    """How many wait at a listening Unix socket. Raises OSError where the kernel does not tell."""
    for kind, value in _ask_unix(inode, _SHOW_RQLEN):
        if kind == _RQLEN:
            return int(struct.unpack_from("=I", value)[0])
    raise OSError(0, "unix_diag tells no queue")


def unix_peers(inode: int, most: int | None = None) -> list[UnixPeer]:
    """Who waits at a listening Unix socket, or so many of them. Raises OSError where the kernel does not tell."""
    waiting = [value for kind, value in _ask_unix(inode, _SHOW_ICONS) if kind == _ICONS]
    found = []
    numbers = struct.unpack(f"={len(waiting[0]) // 4}I", waiting[0]) if waiting else ()
    for number in numbers[:most]:
        if number:
            try:
                told = dict(_ask_unix(number, _SHOW_UID))
            except OSError:
                told = {}  # It has gone meanwhile.
            found.append(UnixPeer(number, struct.unpack("=I", told[_UID])[0] if _UID in told else None))
    return found


def _messages(request: bytes, flags: int, kind: int = _SOCK_DIAG_BY_FAMILY) -> Iterator[bytes]:
    """The kernel's answers to one request. Raises OSError."""
    head = _HEADER.pack(_HEADER.size + len(request), kind, _REQUEST | flags, 1, 0)
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    with kernel:
        kernel.settimeout(1.0)
        kernel.send(head + request)
        while True:
            data = kernel.recv(1 << 16)
            at = 0
            while at < len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _DONE:
                    return
                body = data[at + _HEADER.size : at + length]
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, f"sock_diag: {os.strerror(number)}")
                yield body
                at += (length + 3) & ~3
            if not flags & _DUMP:
                return


def _ask(family: int | None, port: int, states: tuple[int, ...], is_heard_wanted: bool) -> Iterator[Entry]:
    wanted = sum(1 << state for state in states)
    extensions = is_heard_wanted << (_INET_INFO - 1)
    sockid = _SOCKID.pack(port, 0, b"", b"", b"")
    if family is None:
        # inet_diag_dump_compat() in net/ipv4/inet_diag.c: this kind of question asks for no family.
        request = _FIRST_REQUEST.pack(0, 0, 0, extensions) + sockid + _FIRST_TAIL.pack(wanted, 0)
        answers = _messages(request, _DUMP, _TCPDIAG_GETSOCK)
    else:
        request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, extensions, 0, wanted) + sockid
        answers = _messages(request, _DUMP)
    for body in answers:
        found, state, *_ = _INET_ANSWER.unpack_from(body)
        _, far_port, near, far, _ = _SOCKID.unpack_from(body, _INET_ANSWER.size)
        at = _INET_ANSWER.size + _SOCKID.size
        _, waiting, _, _, inode = _INET_TAIL.unpack_from(body, at)
        size = 4 if found == socket.AF_INET else 16
        info = _info(body, at + _INET_TAIL.size) if state == ESTABLISHED else b""
        yield Entry(
            *(_text(far[:size]), far_port, state, inode, _text(near[:size]), waiting),
            _heard(info),
            _received(info),
        )


def _info(body: bytes, at: int) -> bytes:
    """The kernel's struct tcp_info, as long as this kernel has it; empty if it is not there."""
    return next((value for kind, value in _attributes(body, at) if kind == _INET_INFO), b"")


def _heard(info: bytes) -> float | None:
    """Seconds since the last bytes came."""
    if len(info) < _LAST_DATA_RECV + 4:
        return None
    return float(struct.unpack_from("=I", info, _LAST_DATA_RECV)[0]) / 1000


def _received(info: bytes) -> tuple[int, int] | None:
    """Segments with data, and bytes, that have come."""
    if len(info) < _DATA_SEGMENTS + 4:
        return None
    (octets,), (segments,) = (
        struct.unpack_from("=Q", info, _BYTES_RECEIVED),
        struct.unpack_from("=I", info, _DATA_SEGMENTS),
    )
    return segments, octets


def _ask_unix(inode: int, show: int) -> Iterator[tuple[int, bytes]]:
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode & 0xFFFFFFFF, show, _NO_COOKIE)
    for body in _messages(request, 0):
        yield from _attributes(body, _UNIX_ANSWER)


def _attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """What stands behind an answer (rtnetlink(3))."""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        yield kind, body[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)


def _read_proc(family: int | None, port: int, states: tuple[int, ...]) -> list[Entry]:
    """The same from proc_net_tcp.rst: addresses are hexadecimal words of the machine's byte order, and the queues are
    tx_queue:rx_queue."""
    if family is None:
        found = _read_proc(socket.AF_INET, port, states)
        try:
            return [*found, *_read_proc(socket.AF_INET6, port, states)]
        except FileNotFoundError:
            return found  # A kernel without IPv6.
    found = []
    with open("/proc/net/tcp" if family == socket.AF_INET else "/proc/net/tcp6", encoding="ascii") as file:
        lines = file.read().splitlines()[1:]
    for line in lines:
        _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
        if local.endswith(f":{port:04X}") and int(state, 16) in states:
            address, _, far_port = remote.partition(":")
            found.append(
                Entry(
                    _hex(address),
                    int(far_port, 16),
                    int(state, 16),
                    int(inode),
                    _hex(local.partition(":")[0]),
                    int(queues.partition(":")[2], 16),
                )
            )
    return found


def _hex(digits: str) -> str:
    words = [int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8)]
    return _text(b"".join(words))


def _text(raw: bytes) -> str:
    """An address without the dress of an IPv6 socket that serves an IPv4 client."""
    if raw[:12] == _MAPPED:
        raw = raw[12:]
    return str(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))

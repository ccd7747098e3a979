"""Sockets of one reuseport group, and who in it gets the next connection.

What the kernel does (net/core/sock_reuseport.c, net/ipv4/inet_connection_sock.c, socket(7), tcp(7)):

- A group's members are numbered in the order in which they began to listen. When one stops, the last one takes its
  number.
- A classic BPF program attached to the group (SO_ATTACH_REUSEPORT_CBPF, no privilege) returns the number of the
  member that gets a new SYN. A number that no member has falls back to hashing over the members that are left.
- With net.ipv4.tcp_migrate_req=1, connections that wait in the accept queue of a listener that stops move to another
  member of its group.
- A listener whose queue is longer than its backlog drops SYNs without an answer; the client's kernel resends after 1 s.
- A packet with fewer hops left than a socket's IP_MINTTL (IPV6_MINHOPCOUNT) is dropped without an answer, before
  anything else is done with it (tcp_v4_rcv in net/ipv4/tcp_ipv4.c). Most begin with 64 or 128, and none with more than
  255.
- TCP_INFO of a listener: tcpi_unacked is the length of its accept queue.
"""

from __future__ import annotations

import errno
import os
import struct

from pgidle.light import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Address: TypeAlias = tuple[int, tuple[str, int]]
    """Family, and host and port. A link-local host has its zone behind it: fe80::1%eth0."""
    SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h
SO_MEMINFO = 55  # asm-generic/socket.h, linux/sock_diag.h
_BPF_RET_K = 0x06  # BPF_RET | BPF_K
_BPF_LDH_ABS = 0x28  # BPF_LD | BPF_H | BPF_ABS
_BPF_JEQ_K = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_SKF_NET_OFF = 0xFFF00000  # linux/filter.h: offsets from here count from the network header
_HEADER_BYTES = {socket.AF_INET: 20, socket.AF_INET6: 40}
_FARTHEST = 255
# Per family: the hops that a socket gives what it sends, and those that what it hears must have left (linux/in.h and
# linux/in6.h).
_HOPS = {socket.AF_INET: (socket.IPPROTO_IP, 2, 21), socket.AF_INET6: (socket.IPPROTO_IPV6, 16, 73)}
_TCPI_UNACKED = 24  # offset of tcpi_unacked in struct tcp_info

WIDE = 65535
"""A backlog that leaves the limit to net.core.somaxconn."""


def make_socket(family: int) -> socket.socket:
    """A TCP socket that may join a reuseport group and speaks one IP version only, as Postgres's own do."""
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def steer(member: socket.socket, number: int, from_port: int = 0, port_number: int = 0) -> None:
    """Send every new connection of the member's group to `number`; those from `from_port`, if given, elsewhere.

    Raises OSError where the kernel or the container does not allow it.
    """
    program = [(_BPF_RET_K, 0, 0, number)]
    if from_port:
        source_port = _SKF_NET_OFF + _HEADER_BYTES[member.family]
        program = [
            (_BPF_LDH_ABS, 0, 0, source_port),
            (_BPF_JEQ_K, 0, 1, from_port),
            (_BPF_RET_K, 0, 0, port_number),
            *program,
        ]
    instructions = b"".join(struct.pack("=HBBI", *line) for line in program)
    # Where CPython keeps them: behind the object's header, whose size counts the NUL at the end (bytesobject.h).
    address = id(instructions) + bytes.__basicsize__ - 1
    member.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(program), address))


def hear_only(listener: socket.socket, one: socket.socket) -> None:
    """Have a listener drop whatever comes, from before it listens on, but what `one` sends: that has all hops left."""
    level, unicast, least = _HOPS[listener.family]
    one.setsockopt(level, unicast, _FARTHEST)
    listener.setsockopt(level, least, _FARTHEST)


def hear_all(listener: socket.socket) -> None:
    level, _, least = _HOPS[listener.family]
    listener.setsockopt(level, least, 0)


def queue_length(listener: socket.socket) -> int:
    """How many connections wait in a listener's accept queue."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_UNACKED + 4)
    return int(struct.unpack_from("@I", info, _TCPI_UNACKED)[0])


def dropped(listener: socket.socket) -> int:
    """How many connection attempts a listener has dropped so far: the last field of SO_MEMINFO, sk_drops."""
    return int(struct.unpack("@9I", listener.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[8])


def resolve(listen_addresses: str, port: int) -> list[Address]:
    """The addresses that Postgres would bind for its listen_addresses, as numbers; a link-local one with its zone.

    Raises OSError (socket.gaierror) for a name that cannot be resolved.
    """
    found: list[Address] = []
    for entry in (name.strip() for name in listen_addresses.split(",")):
        if not entry:
            continue
        names = ["0.0.0.0", "::"] if entry == "*" else [entry]
        for name in names:
            # As bytes: for a str Python imports a codec, which takes longer than all sockets here.
            host = name.encode("ascii") if name.isascii() else name
            for family, _, _, _, where in socket.getaddrinfo(
                host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
            ):
                address = (family, (_zoned(where), int(where[1])))
                if address not in found:
                    found.append(address)
    return [one for one in found if listen_addresses.strip() != "*" or is_supported(one)]


def is_supported(address: Address) -> bool:
    """Whether this machine has the address's family at all: Postgres skips what it has not."""
    family, (host, _) = address
    try:
        with make_socket(family) as probe:
            probe.bind(sockaddr((family, (host, 0))))
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return False
        raise
    return True


def near(address: Address) -> SockAddr:
    """Where this machine reaches itself at a listening address: loopback for a wildcard."""
    family, (host, port) = address
    return sockaddr((family, ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)))


def sockaddr(address: Address) -> SockAddr:
    """An address as bind(2) takes it. Raises OSError where its zone, the interface behind %, is not there.

    The zone goes where IPv6 has it, in sin6_scope_id (ipv6(7)): Python keeps what stands there, and drops the other.
    """
    _, (host, port) = address
    bare, _, zone = host.partition("%")
    if not zone:
        return host, port
    return bare, port, 0, int(zone) if zone.isdigit() else socket.if_nametoindex(zone)


def bound_to(one: socket.socket) -> Address:
    """Where a socket is bound, as `resolve` writes it."""
    where = one.getsockname()
    return one.family, (_zoned(where), where[1])


def _zoned(where: tuple[Any, ...]) -> str:
    """The host of a socket address, with the name of its zone, if it has one."""
    host = str(where[0]).partition("%")[0]
    if len(where) < 4 or not where[3]:
        return host
    try:
        return f"{host}%{socket.if_indextoname(where[3])}"
    except OSError:
        return f"{host}%{where[3]}"


def can_migrate(family: int) -> bool:
    """Try on two sockets of our own whether waiting connections move when their listener stops.

    Raises OSError where steering itself is refused.
    """
    loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
    with make_socket(family) as first, make_socket(family) as second, make_socket(family) as reserve:
        # A port that the kernel chose is given back when the listener stops, so bind to it by number.
        reserve.bind((loopback, 0))
        where = (loopback, reserve.getsockname()[1])
        first.bind(where)
        second.bind(where)
        first.listen(WIDE)
        steer(first, 0)
        second.listen(WIDE)
        with make_socket(family) as client:
            client.settimeout(1)
            client.connect(where)
            first.shutdown(socket.SHUT_RD)
            if queue_length(second) != 1:
                return False
            # It must also be able to come back, behind the other's back.
            first.listen(WIDE)
            steer(first, 0)
            with make_socket(family) as another:
                another.settimeout(1)
                another.connect(where)
                return (queue_length(first), queue_length(second)) == (0, 2)


def try_shim(shim: int) -> Callable[[], bool]:
    """Begin to find out whether a program that this user starts can preload the shim; what is returned waits for that.

    The shim ends a program with 1 where the parent is not the promised one, so a `true` that fails has loaded it.
    """
    true = next((path for path in ("/bin/true", "/usr/bin/true") if os.access(path, os.X_OK)), None)
    if true is None:
        return lambda: os.access(f"/proc/self/fd/{shim}", os.R_OK)
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    environment = {"LD_PRELOAD": f"/proc/self/fd/{shim}", "PGIDLE_SUPERVISOR": "0"}
    pid = os.posix_spawn(true, [true], environment, file_actions=[*quiet, (os.POSIX_SPAWN_DUP2, shim, shim)])
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

"""What the kernel says about a port, on real sockets, by both ways of asking it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.installations import free_port
from harness.postgres_fixture import wait_until
from pgidle.gate import port_table
from pgidle.idle.snapshot import Peer
from pgidle.observer import port_connections
from pgidle.observer.port_connections import Connection, Queue, scan

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["netlink", "proc"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By netlink, and as where there is none: a protocol that does not exist fails as a sandbox does."""
    if request.param == "proc":
        monkeypatch.setattr(port_table, "_NETLINK_SOCK_DIAG", 1 << 20)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


pytestmark = pytest.mark.usefixtures("_way")


def listener(stack: ExitStack, address: str, port: int) -> tuple[socket.socket, int]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = stack.enter_context(socket.create_server((address, port), family=family, backlog=16))
    return server, int(Path(f"/proc/self/fd/{server.fileno()}").stat().st_ino)


def connect(stack: ExitStack, address: str, port: int) -> socket.socket:
    return stack.enter_context(socket.create_connection((address, port)))


def peer(client: socket.socket) -> Peer:
    return Peer(*client.getsockname()[:2])


def test_nobody_on_a_port() -> None:
    assert scan(free_port()) == port_connections.Table((), (), 0)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_client_waits_in_the_queue_until_it_is_accepted(stack: ExitStack, address: str) -> None:
    port = free_port()
    server, inode = listener(stack, address, port)
    assert scan(port).listeners == (Queue(inode, 0),)
    clients = [connect(stack, address, port) for _ in range(3)]
    wait_until(lambda: scan(port).listeners == (Queue(inode, 3),))
    table = scan(port)
    assert sorted(table.connections, key=repr) == sorted((Connection(peer(c), 0) for c in clients), key=repr)

    accepted = [stack.enter_context(server.accept()[0]) for _ in clients]
    table = scan(port)
    assert table.listeners == (Queue(inode, 0),)
    inodes = {Path(f"/proc/self/fd/{one.fileno()}").stat().st_ino for one in accepted}
    assert {connection.inode for connection in table.connections} == inodes


def test_listeners_are_told_apart(stack: ExitStack) -> None:
    port = free_port()
    queues = []
    for address in ("127.0.0.1", "127.0.0.2", "::1"):
        _, inode = listener(stack, address, port)
        queues.append(Queue(inode, len(queues)))
        for _ in range(queues[-1].length):
            connect(stack, address, port)
    wait_until(lambda: sorted(scan(port).listeners, key=repr) == sorted(queues, key=repr))


def test_an_ipv4_client_of_an_ipv6_socket_looks_like_one(stack: ExitStack) -> None:
    port = free_port()
    stack.enter_context(socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True))
    client = connect(stack, "127.0.0.1", port)
    wait_until(lambda: [c.peer for c in scan(port).connections] == [peer(client)])


def test_only_this_side_of_the_port_counts(stack: ExitStack) -> None:
    """A client's own end is in the same tables, the other way round."""
    port = free_port()
    listener(stack, "127.0.0.1", port)
    client = connect(stack, "127.0.0.1", port)
    own_port = client.getsockname()[1]
    assert scan(own_port).connections == (
        Connection(Peer("127.0.0.1", port), scan(own_port).connections[0].inode),
    )
    wait_until(lambda: len(scan(port).connections) == 1)


def test_a_handshake_under_way_is_no_connection_yet(stack: ExitStack) -> None:
    """TCP_DEFER_ACCEPT keeps one in SYN_RECV until data comes (tcp(7))."""
    port = free_port()
    server, _ = listener(stack, "127.0.0.1", port)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    client = connect(stack, "127.0.0.1", port)
    wait_until(lambda: scan(port).handshakes == 1)
    assert scan(port).connections == ()
    client.sendall(b"x")
    wait_until(lambda: scan(port).handshakes == 0)
    assert len(scan(port).connections) == 1


def test_addresses_are_compared_in_their_plain_form() -> None:
    assert port_connections.plain("::ffff:10.0.0.1") == "10.0.0.1"
    assert port_connections.plain("10.0.0.1") == "10.0.0.1"
    assert port_connections.plain("fdaa::3") == "fdaa::3"


def test_another_server_on_the_same_port_of_another_address_is_left_out(stack: ExitStack) -> None:
    port = free_port()
    for address in ("127.0.0.1", "127.0.0.2"):
        listener(stack, address, port)
        connect(stack, address, port)
    assert len(scan(port).listeners) == 2
    assert len(scan(port, ["127.0.0.1"]).listeners) == 1
    assert len(scan(port, ["127.0.0.1"]).connections) == 1
    assert len(scan(port, ["0.0.0.0"]).connections) == 2
    assert scan(port, ["::"]).listeners == ()

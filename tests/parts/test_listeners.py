"""The gate's listeners, on real sockets: where they are made, and mode `none`, which has some only while asleep."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from harness.installations import free_port
from harness.postgres_fixture import wait_until
from pgidle.base.errors import PgidleError
from pgidle.gate.gate import Gate, Mode
from pgidle.gate.listeners import Listener, Waiting, listen_on, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

FAMILIES = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def address(request: pytest.FixtureRequest) -> tuple[socket.AddressFamily, tuple[str, int]]:
    family, host = request.param
    return family, (host, free_port())


def made(stack: ExitStack, *addresses: tuple[int, tuple[str, int]]) -> list[Listener]:
    found, missing = listen_on(addresses)
    for one in found:
        stack.callback(one.close)
    assert missing == []
    return found


def come(stack: ExitStack, where: tuple[str, int]) -> socket.socket:
    return stack.enter_context(socket.create_connection(where, timeout=5))


def test_addresses_are_what_postgres_would_bind() -> None:
    assert resolve("127.0.0.1, ::1", 1) == [(socket.AF_INET, ("127.0.0.1", 1)), (socket.AF_INET6, ("::1", 1))]
    assert resolve("*", 1) == [(socket.AF_INET, ("0.0.0.0", 1)), (socket.AF_INET6, ("::", 1))]
    assert resolve("127.0.0.1,,127.0.0.1", 1) == [(socket.AF_INET, ("127.0.0.1", 1))]
    assert resolve("", 1) == []
    with pytest.raises(OSError, match=r"known|resol|name"):
        resolve("no.such.host.invalid", 1)


def test_all_of_both_families_listen_at_one_port(stack: ExitStack) -> None:
    port = free_port()
    listeners = made(stack, *resolve("*", port))
    come(stack, ("127.0.0.1", port))
    come(stack, ("::1", port))
    assert [one.parked() for one in listeners] == [1, 1]


def test_who_waits_is_known(address: tuple[int, tuple[str, int]], stack: ExitStack) -> None:
    [listener] = made(stack, address)
    clients = [come(stack, address[1]) for _ in range(3)]
    wait_until(lambda: listener.parked() == 3)
    expected = [Waiting(address[1][0], one.getsockname()[1]) for one in clients]
    assert sorted(listener.who(), key=lambda one: one.port) == sorted(expected, key=lambda one: one.port)
    served, _ = listener.socket.accept()
    served.close()
    assert (listener.parked(), len(listener.who())) == (2, 2)


@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_somebody_listens_on_is_refused_even_if_it_could_be_shared(
    address: tuple[int, tuple[str, int]], stack: ExitStack, shares: bool
) -> None:
    taken = stack.enter_context(socket.socket(address[0]))
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
    taken.bind(address[1])
    taken.listen()
    with pytest.raises(PgidleError, match="is taken"):
        listen_on([address])


def test_where_one_is_refused_none_is_left_behind(stack: ExitStack) -> None:
    taken = stack.enter_context(socket.create_server(("127.0.0.2", free_port())))
    port = taken.getsockname()[1]
    addresses = resolve("127.0.0.1,127.0.0.2", port)
    with pytest.raises(PgidleError, match="is taken"):
        listen_on(addresses)
    assert len(made(stack, addresses[0])) == 1


def test_an_address_that_this_machine_does_not_have_is_left_out_if_there_is_another(stack: ExitStack) -> None:
    port = free_port()
    found, missing = listen_on(resolve("127.0.0.1,192.0.2.1", port))
    for one in found:
        stack.callback(one.close)
    assert [one.name for one in found] == ["127.0.0.1"]
    assert missing == [f"cannot listen on 192.0.2.1 port {port}: {os.strerror(errno.EADDRNOTAVAIL)}"]
    with pytest.raises(PgidleError, match=r"192\.0\.2\.1"):
        listen_on(resolve("192.0.2.1", port))


def test_who_knocks_in_mode_none_is_heard_only_while_postgres_sleeps(
    address: tuple[int, tuple[str, int]], stack: ExitStack
) -> None:
    gate = Gate(made(stack, address), [address], Mode.NONE)
    gate.make_way()
    with pytest.raises(ConnectionRefusedError):
        come(stack, address[1])
    gate.notice()
    stack.callback(gate.make_way)
    come(stack, address[1])
    wait_until(lambda: gate.parked() == 1)
    gate.make_way()
    assert gate.parked() == 0
    with pytest.raises(ConnectionRefusedError):
        come(stack, address[1])


def test_a_shared_gate_keeps_its_listeners_when_postgres_is_about_to_start(
    address: tuple[int, tuple[str, int]], stack: ExitStack
) -> None:
    gate = Gate(made(stack, address), [address])
    come(stack, address[1])
    gate.make_way()
    wait_until(lambda: gate.parked() == 1)

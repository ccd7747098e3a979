"""The gate against a stand-in for Postgres: a listener of ours in the same group that accepts when it is told to.

Real sockets in a network namespace of the test's own, where tcp_migrate_req can be turned on and off.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from namespaces import own_network, set_migration

from pgidle import gate as gate_module
from pgidle.errors import PgidleError
from pgidle.gate import Gate, Mode, open_shim, refuse_taken, try_mode
from pgidle.steering import can_migrate, make_socket, near, queue_length, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgidle.steering import Address

PORT = 5432
TCP_REPAIR = 19  # linux/tcp.h
ADDRESSES = {
    "IPv4": (socket.AF_INET, ("127.0.0.1", PORT)),
    "IPv6": (socket.AF_INET6, ("::1", PORT)),
    "all IPv4": (socket.AF_INET, ("0.0.0.0", PORT)),
    "all IPv6": (socket.AF_INET6, ("::", PORT)),
}


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        set_migration(True)
        yield


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=ADDRESSES.values(), ids=ADDRESSES)
def address(request: pytest.FixtureRequest) -> tuple[socket.AddressFamily, tuple[str, int]]:
    return request.param


class Clients:
    """Connections to the gate's address, with an answer to whom each ended up with."""

    def __init__(self, family: socket.AddressFamily, stack: ExitStack) -> None:
        self._stack = stack
        self.where = ("127.0.0.1" if family == socket.AF_INET else "::1", PORT)
        self.all: list[socket.socket] = []

    def come(self, count: int = 1) -> None:
        for _ in range(count):
            self.all.append(self._stack.enter_context(socket.create_connection(self.where, timeout=5)))

    def knock(self) -> socket.socket:
        """A connection that is not waited for."""
        family = socket.AF_INET6 if ":" in self.where[0] else socket.AF_INET
        one = self._stack.enter_context(socket.socket(family))
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.connect(self.where)
        return one

    def are_served_by(self, listener: socket.socket) -> int:
        """How many of all can talk to whoever accepts at the listener."""
        for index, client in enumerate(self.all):
            client.sendall(struct.pack("I", index))
        listener.setblocking(False)
        answered = set()
        while True:
            try:
                served, _ = listener.accept()
            except BlockingIOError:
                return len(answered)
            with served:
                served.settimeout(5)
                if said := served.recv(4):
                    answered.add(said)


def make_gate(address, mode: Mode, stack: ExitStack) -> tuple[Gate, Clients]:
    gate = Gate([address], mode, ())
    stack.callback(gate.shut)
    gate.listen()
    return gate, Clients(address[0], stack)


def postgres(address: tuple[socket.AddressFamily, tuple[str, int]]) -> socket.socket:
    listener = make_socket(address[0])
    listener.bind(address[1])
    listener.listen(200)
    return listener


def test_who_parks_is_handed_over_and_who_comes_later_is_not_held(address, stack: ExitStack) -> None:
    gate, clients = make_gate(address, Mode.HANDOFF, stack)
    clients.come(30)
    with postgres(address) as server:
        clients.come(30)
        assert gate.parked() == 60
        assert queue_length(server) == 0
        gate.open()
        assert gate.parked() == 0
        clients.come(30)
        assert gate.parked() == 0
        assert clients.are_served_by(server) == 90


def test_a_postgres_that_dies_leaves_its_clients_to_the_gate_with_no_instant_between(
    address, stack: ExitStack
) -> None:
    gate, clients = make_gate(address, Mode.HANDOFF, stack)
    server = postgres(address)
    gate.open()
    clients.come(20)
    server.close()
    clients.come(20)
    gate.postgres_gone()
    clients.come(20)
    # The hand-off's own nudge waits in the queue of a server that never accepted, and moves with the others.
    assert gate.parked() in (60, 61)
    with postgres(address) as successor:
        clients.come(20)
        assert queue_length(successor) == 0, "Postgres got a client before it was ready"
        gate.open()
        assert clients.are_served_by(successor) == 80


def test_it_closes_before_postgres_stops_and_opens_again_any_number_of_times(
    address, stack: ExitStack
) -> None:
    gate, clients = make_gate(address, Mode.HANDOFF, stack)
    for cycle in range(5):
        with postgres(address) as server:
            gate.open()
            clients.come(3)
            gate.close()
            clients.come(2)
            assert gate.parked() == 2, cycle
            gate.open()
            clients.come(1)
            assert gate.parked() == 0, cycle
            assert clients.are_served_by(server) == 6
            clients.all.clear()
            gate.close()
        gate.postgres_gone()


def test_a_plugged_gate_lets_nobody_finish_a_handshake(address, stack: ExitStack) -> None:
    gate, clients = make_gate(address, Mode.HANDOFF, stack)
    gate.plug()
    late = clients.knock()
    assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert state(late) == SYN_SENT
    assert gate.parked() == 0
    gate.unplug()
    late.setblocking(True)
    late.settimeout(10)
    wait_connected(late)
    assert gate.parked() >= 1


def test_who_parked_before_the_plug_is_seen(address, stack: ExitStack) -> None:
    gate, clients = make_gate(address, Mode.HANDOFF, stack)
    clients.come()
    gate.plug()
    assert gate.parked() == 1


def test_without_migration_nobody_parks_and_the_next_syn_is_served(address, stack: ExitStack) -> None:
    set_migration(False)
    gate, clients = make_gate(address, Mode.SYNHOLD, stack)
    early = clients.knock()
    assert state(early) == SYN_SENT
    assert gate.parked() == 0
    with postgres(address) as server:
        early_too = clients.knock()
        assert state(early_too) == SYN_SENT
        gate.open()
        clients.come(5)
        assert clients.are_served_by(server) == 5
        clients.all.clear()
        gate.close()
        assert state(clients.knock()) == SYN_SENT
    gate.postgres_gone()
    assert state(clients.knock()) == SYN_SENT


def test_without_migration_a_plugged_gate_keeps_newcomers_from_postgres(address, stack: ExitStack) -> None:
    set_migration(False)
    gate, clients = make_gate(address, Mode.SYNHOLD, stack)
    with postgres(address) as server:
        gate.open()
        clients.come()
        gate.plug()
        assert state(clients.knock()) == SYN_SENT
        assert queue_length(server) == 1


def test_who_comes_while_a_gate_where_nobody_may_park_is_set_up_is_not_let_in(
    address, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_migration(False)
    clients, early = Clients(address[0], stack), []

    def after_somebody_has_come(where: Address) -> tuple[str, int]:
        """Where the plug is to go to: the gate listens, and nobody is in its queue."""
        if not early:
            early.append(clients.knock())
        return near(where)

    monkeypatch.setattr(gate_module, "near", after_somebody_has_come)
    gate, _ = make_gate(address, Mode.SYNHOLD, stack)
    assert [state(one) for one in early] == [SYN_SENT]
    assert gate.parked() == 0
    assert gate.dropped() == 1


def test_where_nobody_may_park_who_was_connected_to_a_server_that_is_no_more_is_told_so(
    address, stack: ExitStack
) -> None:
    set_migration(False)
    gate, clients = make_gate(address, Mode.SYNHOLD, stack)
    with postgres(address) as server:
        gate.open()
        clients.come()
        served, _ = server.accept()
        # Closed without a word: as if the client had been out of reach for long.
        served.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        served.close()
    gate.postgres_gone()
    clients.all[0].sendall(b"?")
    with pytest.raises(ConnectionResetError):
        clients.all[0].recv(1)
    assert gate.dropped() == 0


@pytest.mark.parametrize("migrates", [True, False])
def test_the_mode_is_tried_not_guessed(migrates: bool) -> None:
    set_migration(migrates)
    assert can_migrate(socket.AF_INET) is migrates
    assert can_migrate(socket.AF_INET6) is migrates
    shim = open_shim()
    if shim is None:
        pytest.skip("the shim is not compiled")
    mode, why = try_mode(socket.AF_INET, shim)
    assert mode is (Mode.HANDOFF if migrates else Mode.SYNHOLD)
    assert migrates or "tcp_migrate_req" in why


def test_without_a_shim_that_can_be_preloaded_there_is_no_gate(tmp_path) -> None:
    assert try_mode(socket.AF_INET, None)[0] is Mode.NONE
    broken = tmp_path / "_reuseport.so"
    broken.write_bytes(b"not a library")
    with broken.open() as file:
        mode, why = try_mode(socket.AF_INET, file.fileno())
    assert mode is Mode.NONE
    assert str(broken) in why


def test_a_port_that_somebody_listens_on_is_refused_even_if_it_could_be_shared(address) -> None:
    with postgres(address):
        with pytest.raises(PgidleError, match="is taken"):
            refuse_taken([address])


def test_a_second_gate_is_refused_before_either_listens(address, stack: ExitStack) -> None:
    first = Gate([address], Mode.HANDOFF, ())
    stack.callback(first.shut)
    with pytest.raises(PgidleError, match="another pgidle"):
        Gate([address], Mode.HANDOFF, ())


def test_a_port_that_cannot_be_shared_is_refused() -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        with pytest.raises(PgidleError, match="is taken"):
            Gate([(socket.AF_INET, ("127.0.0.1", PORT))], Mode.HANDOFF, ())


def test_addresses_are_what_postgres_would_bind() -> None:
    assert resolve("127.0.0.1, ::1", 1) == [(socket.AF_INET, ("127.0.0.1", 1)), (socket.AF_INET6, ("::1", 1))]
    assert resolve("*", 1) == [(socket.AF_INET, ("0.0.0.0", 1)), (socket.AF_INET6, ("::", 1))]
    with pytest.raises(OSError, match=r"known|resol|name"):
        resolve("no.such.host.invalid", 1)


def test_knocks_in_mode_none_are_heard_only_while_asleep(stack: ExitStack) -> None:
    gate, clients = make_gate(ADDRESSES["IPv4"], Mode.NONE, stack)
    with pytest.raises(ConnectionRefusedError):
        clients.come()
    gate.await_knock()
    clients.come()
    assert gate.parked() == 1
    gate.make_way()
    with pytest.raises(ConnectionRefusedError):
        clients.come()


SYN_SENT = 2  # net/tcp_states.h


def state(one: socket.socket) -> int:
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def wait_connected(one: socket.socket) -> None:
    """The kernel resends the SYN after a second."""
    assert select.select([], [one], [], 10)[1], "never connected"
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.EISCONN)


def test_handshakes_in_the_very_instant_of_a_hand_off() -> None:
    """Clients that never rest, each at another instant of hundreds of hand-offs, so that some meet the worst."""
    gate = Gate([ADDRESSES["IPv4"]], Mode.HANDOFF, ())
    gate.listen()
    with ExitStack() as stack:
        stack.callback(gate.shut)
        postgres = stack.enter_context(make_socket(socket.AF_INET))
        postgres.bind(("127.0.0.1", PORT))
        postgres.listen(200)
        pause = threading.Event()

        def answer(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                if client.recv(1):
                    client.sendall(b"!")

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(postgres.accept()[0],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        command = [sys.executable, Path(__file__).with_name("hammer.py"), str(PORT)]
        clients = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(3)
        ]
        for _ in range(1000):
            gate.open()
            pause.wait(0.004)
            gate.close()
            pause.wait(0.002)
        gate.open()
        assert [client.communicate("")[0] for client in clients] == ["0"] * 3
        postgres.shutdown(socket.SHUT_RD)

"""Leaving: a process that holds the only listeners ends, over and over, under clients that come and go.

Whoever completes a handshake is served; who comes while nobody listens is refused, as where no process is."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.installations import free_port
from harness.postgres_fixture import wait_until
from harness.restless import Restless
from pgidle.base.builtin_modules import socket as light
from pgidle.gate import leaving as leaving_module
from pgidle.gate.leaving import SETTLING, Leaving, Outcome
from pgidle.gate.listeners import _LEAST_HOPS, Listener, listen_on, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

READY = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\5I"
DONE = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\5I"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class StandIn:
    """Listens, serves, and leaves when it has served those who were there; then begins again."""

    def __init__(self, port: int, path: str, seed: int) -> None:
        self.port = port
        self.path = path
        self.chance = random.Random(seed)
        self.exits = 0
        self.called_back = 0
        self.listeners: list[Listener] = []
        self.stop = threading.Event()

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.begin()
            while not self.leaves():
                self.called_back += 1
            self.exits += 1
            time.sleep(self.chance.choice((0.0, 0.003)))
        self.begin()
        while not self.stop.is_set():
            self.serve(0.01)
        self.close()

    def begin(self) -> None:
        self.listeners = [*listen_on(resolve("127.0.0.1,::1", self.port))[0], unix_listener(self.path)]

    def close(self) -> None:
        for one in self.listeners:
            one.close()
        Path(self.path).unlink()

    def leaves(self) -> bool:
        self.serve(self.chance.choice((0.0, 0.001, 0.01)))
        leaving = Leaving(self.listeners)
        while (outcome := leaving.look()) is Outcome.NOT_YET:
            time.sleep(SETTLING)
        if outcome is Outcome.NOBODY:
            self.close()
            return True
        # Whoever was in the queue of a Unix socket that has ended is served from there.
        for ended in leaving.call_off():
            self.serve_one(ended)
            ended.close()
            self.listeners.remove(ended)
            Path(self.path).unlink()
            self.listeners.append(unix_listener(self.path))
        return False

    def serve(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select(self.listeners, [], [], max(0.0, until - time.monotonic()))
            if not ready and time.monotonic() >= until:
                return
            for one in ready:
                self.serve_one(one)

    def serve_one(self, listener: Listener) -> None:
        while True:
            try:
                client = accept(listener)
            except OSError:
                return
            with client:
                client.recv(1000)
                client.sendall(READY)
                client.recv(1000)
                client.sendall(DONE)
                client.recv(1000)  # Its farewell.


def accept(listener: Listener) -> socket.socket:
    """As the library does it."""
    fd, _ = listener.socket._accept()  # type: ignore[attr-defined]
    client = socket.socket(fileno=fd)
    client.settimeout(10)
    if client.family != socket.AF_UNIX:
        level, option = _LEAST_HOPS[client.family]
        client.setsockopt(level, option, 0)
    return client


def unix_listener(path: str) -> Listener:
    made = light.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    made.listen(128)
    return Listener(made, is_inherited=False)


def live(stand_in: StandIn, clients: Restless, seconds: float) -> None:
    """Run it under the clients; it serves on until the last of them has gone."""
    thread = threading.Thread(target=stand_in.run, args=(seconds,))
    with clients:
        thread.start()
        thread.join(seconds)
    stand_in.stop.set()
    thread.join()


@pytest.mark.parametrize("seed", range(2))
def test_it_leaves_under_load_and_nobody_is_left_behind(tmp_path: Path, seed: int) -> None:
    stand_in = StandIn(free_port(), str(tmp_path / ".s.PGSQL.1"), seed)
    where = [("127.0.0.1", stand_in.port), ("::1", stand_in.port), stand_in.path]
    clients = Restless(where, each=2, rest=0.4)
    live(stand_in, clients, 10.0)
    assert clients.met.failed == []
    assert clients.met.cut == 0
    assert clients.met.served > 0
    assert stand_in.exits > 20


def tcp(stack: ExitStack, host: str = "127.0.0.1") -> Listener:
    made, _ = listen_on(resolve(host, free_port()))
    stack.callback(made[0].close)
    return made[0]


def begin_to_connect(stack: ExitStack, listener: Listener) -> socket.socket:
    client = stack.enter_context(socket.socket(listener.socket.family))
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.connect((listener.name, listener.port))
    return client


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_comes_while_it_is_plugged_gets_no_answer_and_is_served_once_it_is_called_off(
    stack: ExitStack, host: str
) -> None:
    listener = tcp(stack, host)
    leaving = Leaving([listener])
    client = begin_to_connect(stack, listener)
    assert leaving.look() is Outcome.NOT_YET
    assert select.select([], [client], [], 0)[1] == []
    leaving.call_off()
    # Its kernel tries again after a second.
    wait_until(lambda: listener.parked() == 1)
    with accept(listener) as served:
        served.sendall(b"!")
        client.setblocking(True)
        assert client.recv(1) == b"!"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_handshake_under_way_is_waited_for_and_then_somebody_is_there(stack: ExitStack, host: str) -> None:
    listener = tcp(stack, host)
    # Keeps a handshake from ending until data comes (tcp(7)).
    listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    client = stack.enter_context(socket.create_connection((listener.name, listener.port)))
    wait_until(lambda: listener.handshakes() == 1)
    leaving = Leaving([listener])
    assert [leaving.look() for _ in range(3)] == [Outcome.NOT_YET] * 3
    client.sendall(b"x")
    wait_until(lambda: leaving.look() is Outcome.SOMEBODY)


def test_a_handshake_that_never_ends_keeps_it_only_so_long(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving_module, "HANDSHAKE_PATIENCE", 0.05)
    listener = tcp(stack)
    listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    stack.enter_context(socket.create_connection((listener.name, listener.port)))
    wait_until(lambda: listener.handshakes() == 1)
    leaving = Leaving([listener])
    wait_until(lambda: leaving.look() is Outcome.NOT_NOW)
    leaving.call_off()
    stack.enter_context(socket.create_connection((listener.name, listener.port), timeout=0.9))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_was_in_the_queue_calls_it_off(stack: ExitStack, host: str) -> None:
    listener = tcp(stack, host)
    stack.enter_context(socket.create_connection((listener.name, listener.port)))
    assert Leaving([listener]).look() is Outcome.SOMEBODY


def test_one_quiet_look_is_not_enough(stack: ExitStack) -> None:
    leaving = Leaving([tcp(stack)])
    assert leaving.look() is Outcome.NOT_YET
    assert leaving.look() is Outcome.NOBODY


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_born_while_it_was_plugged_works_like_any(stack: ExitStack, host: str) -> None:
    listener = tcp(stack, host)
    listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    client = stack.enter_context(socket.create_connection((listener.name, listener.port)))
    wait_until(lambda: listener.handshakes() == 1)
    leaving = Leaving([listener])
    client.sendall(b"a")
    wait_until(lambda: listener.parked() == 1)
    leaving.call_off()
    with accept(listener) as served:
        client.settimeout(5)
        for _ in range(3):
            client.sendall(b"b" * 70000)
            got = 0
            while got < 70000:
                got += len(served.recv(70000))
            served.sendall(b"c")
            assert client.recv(1) == b"c"


def test_a_unix_socket_ends_in_one_instant(stack: ExitStack, tmp_path: Path) -> None:
    listener = unix_listener(str(tmp_path / ".s.PGSQL.1"))
    stack.callback(listener.close)
    leaving = Leaving([listener])
    assert leaving.look() is Outcome.NOT_YET
    assert leaving.look() is Outcome.NOBODY
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(listener.name)


def test_who_was_in_the_queue_of_a_unix_socket_that_has_ended_can_be_served(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = unix_listener(str(tmp_path / ".s.PGSQL.1"))
    stack.callback(listener.close)
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    # It has found the file before that was out of the way, and comes between the look and the end.
    end = listener.end

    def end_late() -> None:
        client.connect(listener._hidden)
        end()

    monkeypatch.setattr(listener, "end", end_late)
    leaving = Leaving([listener])
    assert leaving.look() is Outcome.NOT_YET
    assert leaving.look() is Outcome.SOMEBODY
    assert leaving.call_off() == [listener]
    with accept(listener) as served:
        served.sendall(b"!")
    assert client.recv(1) == b"!"


def test_who_comes_to_a_unix_socket_in_the_last_instant_leaves_it_as_it_was(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = [unix_listener(str(tmp_path / name)) for name in (".s.PGSQL.1", ".s.PGSQL.2")]
    for one in listeners:
        stack.callback(one.close)
    clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
    hide = listeners[1].hide

    def hide_late() -> None:
        clients[0].connect(listeners[1].name)
        hide()

    monkeypatch.setattr(listeners[1], "hide", hide_late)
    leaving = Leaving(listeners)
    assert leaving.look() is Outcome.NOT_YET
    assert leaving.look() is Outcome.SOMEBODY
    assert sorted(one.name for one in tmp_path.iterdir()) == [".s.PGSQL.1", ".s.PGSQL.2"]
    # Nothing has ended: who comes before it is called off is one more in the queue.
    for client, listener in zip(clients[1:], listeners, strict=True):
        client.connect(listener.name)
    assert leaving.call_off() == []
    for client, listener in zip(clients, (listeners[1], *listeners), strict=True):
        with accept(listener) as served:
            served.sendall(b"!")
        assert client.recv(1) == b"!"


def test_the_file_of_a_unix_socket_that_has_ended_is_there_to_be_removed(
    stack: ExitStack, tmp_path: Path
) -> None:
    listener = unix_listener(str(tmp_path / ".s.PGSQL.1"))
    stack.callback(listener.close)
    leaving = Leaving([listener])
    assert [leaving.look(), leaving.look()] == [Outcome.NOT_YET, Outcome.NOBODY]
    assert [str(one) for one in tmp_path.iterdir()] == [listener.name]


def test_an_inherited_listener_is_left_alone(stack: ExitStack) -> None:
    listener = tcp(stack)
    listener.is_inherited = True
    leaving = Leaving([listener])
    leaving.look()
    assert leaving.look() is Outcome.NOBODY
    stack.enter_context(socket.create_connection((listener.name, listener.port), timeout=0.9))


def test_a_listener_at_an_abstract_name_is_not_ended(stack: ExitStack) -> None:
    """There is no way back, and nobody could take the name before this process has left it."""
    made = stack.enter_context(socket.socket(socket.AF_UNIX))
    made.bind(f"\0pgidle-test-{free_port()}")
    made.listen()
    listener = Listener(light.socket(fileno=made.detach()), is_inherited=False)
    stack.callback(listener.close)
    leaving = Leaving([listener])
    assert [leaving.look(), leaving.look()] == [Outcome.NOT_YET, Outcome.NOBODY]
    assert leaving.call_off() == []
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(listener.socket.getsockname())
    assert listener.parked() == 1

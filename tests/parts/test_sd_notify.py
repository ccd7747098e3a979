"""What the service manager hears, at a real socket of each kind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgidle.run.sd_listen import take_manager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Launch

PATIENCE = 30.0


class Manager:
    """A notification socket, and every message that came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        if address.startswith("/"):
            Path(address).chmod(0o666)

    def read(self, seconds: float = 0.0) -> None:
        """What is there, or comes within so many seconds."""
        self._socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                self.messages.append(self._socket.recv(4096).decode().split("\n"))
                self._socket.settimeout(0)

    def wait_for(self, word: str, since: int = 0) -> list[str]:
        """The first message with a line that begins so."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for message in self.messages[since:]:
                if any(line.startswith(word) for line in message):
                    return message
            self.read(0.1)
        raise AssertionError(f"no {word}: {self.messages}")

    def said(self, word: str) -> bool:
        self.read()
        return any(line.startswith(word) for message in self.messages for line in message)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, place: Place) -> Iterator[Manager]:
    folder = place.folder("notify")
    one = Manager(f"{folder}/n" if request.param == "path" else f"@{folder}/n")
    yield one
    one.close()


def test_a_life_as_the_manager_hears_it(manager: Manager, newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="exit", idle_timeout="1s", env={"NOTIFY_SOCKET": manager.address})
    ready = manager.wait_for("READY=1")
    assert ready[0].startswith("STATUS=awake: Postgres accepts connections after")
    assert manager.messages[0] == ["STATUS=starting: pgidle started", "EXTEND_TIMEOUT_USEC=60000000"]
    assert one.postmaster_pid
    assert b"NOTIFY_SOCKET" not in Path(f"/proc/{one.postmaster_pid}/environ").read_bytes()
    one.signal(signal.SIGHUP)
    reloading = manager.wait_for("RELOADING=1")
    assert int(reloading[1].removeprefix("MONOTONIC_USEC=")) * 1000 <= time.monotonic_ns()
    assert manager.wait_for("READY=1", since=manager.messages.index(reloading)) == ["READY=1"]
    assert one.wait() == 0
    assert manager.wait_for("STOPPING=1")[1].startswith("STATUS=asleep: idle ")
    assert sum("STOPPING=1" in message for message in manager.messages) == 1
    assert not manager.said("WATCHDOG")


def test_asked_to_stop(manager: Manager, newest: Installation, launch: Launch) -> None:
    one = launch(newest, env={"NOTIFY_SOCKET": manager.address}, stop_timeout="20s")
    manager.wait_for("READY=1")
    assert one.stop() == 0
    stopping = manager.wait_for("STOPPING=1")
    assert stopping == ["STATUS=terminating: SIGTERM received", "STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000"]
    manager.read()
    assert sum("STOPPING=1" in message for message in manager.messages) == 1


def test_one_that_stays_is_not_stopping_when_it_sleeps(
    manager: Manager, newest: Installation, launch: Launch
) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="300ms", env={"NOTIFY_SOCKET": manager.address})
    manager.wait_for("STATUS=asleep: Postgres shut down cleanly")
    assert not manager.said("STOPPING")
    one.pgidle("wake")
    mark = len(manager.messages)
    manager.wait_for("STATUS=awake", since=mark)
    assert sum("READY=1" in message for message in manager.messages) == 1


def test_a_start_that_fails_is_never_ready(manager: Manager, newest: Installation, launch: Launch) -> None:
    one = launch(newest, env={"NOTIFY_SOCKET": manager.address}, postgres=("-c", "shared_buffers=nonsense"))
    assert one.wait() == 1
    manager.wait_for("STATUS=failed: ")
    assert manager.said("STOPPING")
    assert not manager.said("READY")


def test_a_watchdog_is_fed(manager: Manager, newest: Installation, launch: Launch) -> None:
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
    one = launch(newest, when_idle="stay", idle_timeout="300ms", env=env)
    manager.wait_for("STATUS=asleep")
    mark = len(manager.messages)
    manager.wait_for("WATCHDOG=1", since=mark)
    manager.wait_for("WATCHDOG=1", since=len(manager.messages))
    assert one.stop() == 0


def test_a_manager_that_hears_nothing_holds_nothing_up(
    place: Place, newest: Installation, launch: Launch
) -> None:
    """Its queue is full, then it is gone."""
    manager = Manager(f"{place.folder('notify')}/n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as noise:
        noise.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                noise.sendto(b"X=1", manager.address)
        one = launch(newest, env={"NOTIFY_SOCKET": manager.address})
        one.wait_for_state("awake")
        assert one.pgidle("health").returncode == 0
    assert "READY=1" in manager.wait_for("READY=1")
    manager.close()
    assert one.stop() == 0
    one.wait_log("the service manager cannot be told")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "@"}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, None),
        ({"NOTIFY_SOCKET": "/run/n"}, ("/run/n", None)),
        ({"NOTIFY_SOCKET": "@n"}, ("\0n", None)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000"}, ("/n", 1.5)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, ("/n", None)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": f"{os.getpid()}"}, ("/n", 1.5)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, ("/n", None)),
    ],
)
def test_what_the_environment_says(
    environ: dict[str, str], expected: tuple[str, float | None] | None
) -> None:
    left = dict(environ)
    found = take_manager(left)
    assert (found and (found.address, found.ping_every)) == expected
    assert left == {}

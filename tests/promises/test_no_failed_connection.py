"""The heart: clients come at any instant of hundreds of sleeps and wakes, and none of them notices.

Three ways to be woken: a proxy that starts the exited machine, a supervisor that stayed, and a service manager's
socket. Every acknowledged commit must be there in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import shutil
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness.clients import Habits, Ledger, Load, run_clients
from harness.flycast import Flycast
from harness.installations import conninfo, free_port, server_user
from pgidle.base.errors import PgidleError
from pgidle.control.client import request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.installations import Installation, Place
    from harness.supervised import Supervised

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

SHORT = "250ms"
"""The idle time: shorter than many of the clients' pauses, so that they meet every step of a sleep."""

HABITS = Habits(short=0.3, long=1.2, dozes=0.5, statements=3, cut_after=0.25)
WORKERS, SESSIONS = 4, 24


MOST_ROUNDS = 6
"""Clients come again, with pauses of twice the length, until there were sleeps enough: on a busy machine a sleep takes
its time."""


def check(loads: list[Load], missing: list[tuple[int, int]]) -> None:
    for load in loads:
        assert load.failures == []
        assert load.connections == WORKERS * SESSIONS
        assert load.commits > 0
    assert missing == []


def both_ways(one: Supervised) -> list[str]:
    """Half of the clients come over TCP, half over the Unix socket."""
    return [one.conninfo(), one.unix_conninfo()]


async def visit(
    ways: str | Sequence[str], ledger: Ledger, seed: int, is_enough: Callable[[], bool]
) -> list[Load]:
    loads: list[Load] = []
    while not loads or (not is_enough() and len(loads) < MOST_ROUNDS):
        habits = replace(HABITS, long=HABITS.long * 2 ** len(loads))
        loads.append(
            await run_clients(
                ways,
                ledger,
                workers=WORKERS,
                sessions=SESSIONS,
                seed=seed + len(loads),
                habits=habits,
            )
        )
    return loads


def test_staying_supervisor(installation: Installation, launch) -> None:
    one = launch(installation, when_idle="stay", idle_timeout=SHORT)
    one.wait_for_state("awake")
    ledger = Ledger()
    ledger.create(one.conninfo())
    loads = asyncio.run(
        visit(both_ways(one), ledger, installation.major, lambda: one.states.count("asleep") >= 3)
    )
    check(loads, ledger.missing(one.conninfo()))
    assert one.states.count("asleep") >= 3
    assert one.stop() == 0


def test_exiting_supervisor_behind_a_proxy(installation: Installation, place: Place, launch) -> None:
    one = launch(installation, start=False, when_idle="exit", idle_timeout=SHORT)
    ledger = Ledger()

    async def scenario() -> tuple[list[Load], list[tuple[int, int]], Flycast]:
        async with Flycast(one, one.port) as fly:
            await asyncio.to_thread(ledger.create, conninfo(fly.port))
            loads = await visit(
                conninfo(fly.port), ledger, installation.major, lambda: fly.counts.exits.get(0, 0) >= 2
            )
            return loads, await asyncio.to_thread(ledger.missing, conninfo(fly.port)), fly

    loads, missing, fly = asyncio.run(scenario())
    check(loads, missing)
    assert fly.counts.exits[0] >= 2
    assert set(fly.counts.exits) <= {0}
    assert fly.counts.give_ups == 0


class Sandman:
    """Has Postgres put to sleep again and again, whatever its clients do, until it has happened so often."""

    def __init__(self, service: Supervised, sleeps: int) -> None:
        self.service, self.sleeps = service, sleeps
        self.done = threading.Event()
        self._chance = random.Random(sleeps)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sandman:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sleeps = 0
        self._thread.join()

    def _run(self) -> None:
        while self.service.states.count("asleep") < self.sleeps:
            # Refused while it sleeps or starts, and nobody there while it has exited.
            with contextlib.suppress(PgidleError, OSError):
                request(str(self.service.data_dir / "pgidle"), "POST", "/sleep?force=1")
            time.sleep(self._chance.uniform(0, 0.03))
        self.done.set()


RESTLESS = Habits(short=0.05, long=0.3, dozes=0.2, statements=2, cut_after=0)
"""Forced sleeps cut sessions in the middle of a statement: that is no failure, but every failed connection is."""


async def visit_until(
    done: threading.Event, ways: str | Sequence[str], ledger: Ledger, seed: int
) -> list[Load]:
    loads = []
    while not done.is_set():
        loads.append(
            await run_clients(ways, ledger, workers=4, sessions=5, seed=seed + len(loads), habits=RESTLESS)
        )
    return loads


def test_a_hundred_forced_sleeps_of_one_that_stays(installation: Installation, launch) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    ledger = Ledger()
    ledger.create(one.conninfo())
    with Sandman(one, 100) as sandman:
        loads = asyncio.run(visit_until(sandman.done, both_ways(one), ledger, installation.major))
    assert [failure for load in loads for failure in load.failures] == []
    assert sum(load.commits for load in loads) > 0
    assert ledger.missing(one.conninfo()) == []
    assert one.stop() == 0


def test_fifty_forced_exits_behind_a_proxy(installation: Installation, launch) -> None:
    one = launch(installation, start=False, when_idle="exit", idle_timeout="off")
    ledger = Ledger()

    async def scenario() -> tuple[list[Load], list[tuple[int, int]], Flycast]:
        async with Flycast(one, one.port) as fly:
            await asyncio.to_thread(ledger.create, conninfo(fly.port))
            with Sandman(one, 50) as sandman:
                loads = await visit_until(sandman.done, conninfo(fly.port), ledger, installation.major)
            return loads, await asyncio.to_thread(ledger.missing, conninfo(fly.port)), fly

    loads, missing, fly = asyncio.run(scenario())
    assert [failure for load in loads for failure in load.failures] == []
    assert missing == []
    assert set(fly.counts.exits) <= {0}
    assert fly.counts.give_ups == 0


class ServiceManager:
    """Keeps listening sockets open and starts the service whenever a connection waits in one, as systemd does."""

    def __init__(self, service: Supervised) -> None:
        self.service = service
        self.starts = 0
        self.statuses: list[int] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self.service.running:
            self.service.stop()
        self._thread.join()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in self.service.listen:
                selector.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if selector.select(0.1):
                    self.starts += 1
                    self.service.start()
                    self.statuses.append(self.service.wait(timeout=300))


def listening(listener: socket.socket, address: object) -> socket.socket:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as systemd does
    listener.bind(address)
    listener.listen(4096)
    return listener


def test_inherited_sockets(installation: Installation, launch) -> None:
    port = free_port()
    service = launch(installation, start=False, when_idle="exit", idle_timeout=SHORT, port=port)
    path = service.socket_dir / f".s.PGSQL.{port}"
    with (
        listening(socket.socket(), ("127.0.0.1", port)) as tcp,
        listening(socket.socket(socket.AF_UNIX), str(path)) as unix,
    ):
        if os.getuid() == 0:
            shutil.chown(path, server_user().pw_name)
        service.listen = (tcp, unix)
        manager = ServiceManager(service)
        try:
            ledger = Ledger()
            ledger.create(conninfo(port))
            ways = both_ways(service)
            loads = asyncio.run(visit(ways, ledger, installation.major, lambda: manager.starts >= 3))
            check(loads, ledger.missing(conninfo(port)))
        finally:
            manager.stop()
    assert manager.starts >= 3
    assert set(manager.statuses) == {0}
    assert path.is_socket(), "it is the service manager's, and outlives the service"

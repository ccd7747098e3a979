"""The heart: clients come at any instant of hundreds of sleeps and wakes, and none of them notices.

Three ways to be woken: a proxy that starts the exited machine, a supervisor that stayed, and a service manager's
socket. Every acknowledged commit must be there in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from clients import Habits, Ledger, Load, run_clients
from flycast import Flycast
from installations import conninfo, free_port
from namespaces import migration_is_on

from pgidle.client import request
from pgidle.errors import PgidleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from installations import Installation, Place
    from supervised import Supervised

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


async def visit(port: int, ledger: Ledger, seed: int, is_enough: Callable[[], bool]) -> list[Load]:
    loads: list[Load] = []
    while not loads or (not is_enough() and len(loads) < MOST_ROUNDS):
        habits = replace(HABITS, long=HABITS.long * 2 ** len(loads))
        loads.append(
            await run_clients(
                conninfo(port),
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
    loads = asyncio.run(visit(one.port, ledger, installation.major, lambda: one.states.count("asleep") >= 3))
    check(loads, ledger.missing(one.conninfo()))
    assert one.states.count("asleep") >= 3
    assert one.stop() == 0


def test_exiting_supervisor_behind_a_proxy(installation: Installation, place: Place, launch) -> None:
    one = launch(installation, start=False, when_idle="exit", idle_timeout=SHORT)
    ledger = Ledger()

    async def scenario() -> tuple[list[Load], list[tuple[int, int]], Flycast]:
        async with Flycast(one, one.port) as fly:
            await asyncio.to_thread(ledger.create, conninfo(fly.port))
            loads = await visit(fly.port, ledger, installation.major, lambda: fly.counts.exits.get(0, 0) >= 2)
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


async def visit_until(done: threading.Event, port: int, ledger: Ledger, seed: int) -> list[Load]:
    loads = []
    while not done.is_set():
        loads.append(
            await run_clients(
                conninfo(port), ledger, workers=4, sessions=5, seed=seed + len(loads), habits=RESTLESS
            )
        )
    return loads


def test_a_hundred_forced_sleeps_of_one_that_stays(installation: Installation, launch) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="off")
    one.wait_for_state("awake")
    ledger = Ledger()
    ledger.create(one.conninfo())
    with Sandman(one, 100) as sandman:
        loads = asyncio.run(visit_until(sandman.done, one.port, ledger, installation.major))
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
                loads = await visit_until(sandman.done, fly.port, ledger, installation.major)
            return loads, await asyncio.to_thread(ledger.missing, conninfo(fly.port)), fly

    loads, missing, fly = asyncio.run(scenario())
    assert [failure for load in loads for failure in load.failures] == []
    assert missing == []
    assert set(fly.counts.exits) <= {0}
    assert fly.counts.give_ups == 0


class ServiceManager:
    """Keeps a listening socket open and starts the service whenever a connection waits in it, as systemd does."""

    def __init__(self, listener: socket.socket, service: Supervised) -> None:
        self.listener, self.service = listener, service
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
            selector.register(self.listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if selector.select(0.1):
                    self.starts += 1
                    self.service.start()
                    self.statuses.append(self.service.wait(timeout=300))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as systemd does
        one.bind(("127.0.0.1", free_port()))
        one.listen(4096)
        yield one


def test_inherited_socket(installation: Installation, launch, listener: socket.socket) -> None:
    if not migration_is_on():
        pytest.skip("clients of an inherited socket need net.ipv4.tcp_migrate_req=1")
    port = listener.getsockname()[1]
    service = launch(
        installation, start=False, when_idle="exit", idle_timeout=SHORT, listen=[listener], port=port
    )
    manager = ServiceManager(listener, service)
    try:
        ledger = Ledger()
        ledger.create(conninfo(port))
        loads = asyncio.run(visit(port, ledger, installation.major, lambda: manager.starts >= 3))
        check(loads, ledger.missing(conninfo(port)))
    finally:
        manager.stop()
    assert manager.starts >= 3
    assert set(manager.statuses) == {0}

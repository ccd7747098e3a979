"""The HTTP of both processes over real sockets, in one thread; a fixed report takes the supervisor's place."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from pgidle.control.api import Application
from pgidle.control.health_checks import HttpListener
from pgidle.control.http_server import HttpServer
from pgidle.control.memory_use import MemoryReader
from pgidle.control.status import Report
from pgidle.history.totals import Totals
from pgidle.lifecycle.transitions import State
from pgidle.observer.timers import Timers
from pgidle.system import control_socket

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pgidle.control.orders import Requested
    from pgidle.history.totals import Counted

# Seconds after which a test gives up waiting for what must happen.
PATIENCE = 20.0


def make_report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "state": State.AWAKE,
        "since": time.monotonic() - 90,
        "why": "Postgres accepts connections",
        "reasons": (),
        "sleeps_at": None,
        "gate_mode": "shared",
        "gate_why": "clients are handed over by the kernel",
        "parked": 0,
        "sessions": None,
        "leases": (),
        "data_dir": "/var/lib/postgresql/data",
        "listen": ("0.0.0.0", "::"),
        "port": 5432,
        "supervisor_pid": os.getpid(),
        "postmaster_pid": None,
        "initialising": False,
        "started": time.monotonic() - 100,
        "wakes": 2,
        "sleeps": 1,
        "crashes": 0,
        "looks": 7,
        "looks_failed": 0,
        "last_sleep": None,
        "resident": 12 * 2**20,
    }
    return Report(**values | changes)


class Answering:
    """Use it as a context: the thread runs inside. Orders that are given wait in `orders`."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.state_dir.mkdir(parents=True)
        self.data_dir = folder / "data"
        self.data_dir.mkdir()
        self.report = make_report()
        self.orders: queue.Queue[Requested] = queue.Queue()
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._tcp.getsockname()[1]
        self._control = socket.socket(socket.AF_UNIX)
        (self.state_dir / "lock").write_text(f"{os.getpid()}\n")
        self._folder = os.open(self.state_dir, os.O_PATH)
        try:
            self._control.bind(str(self.state_dir / "control.sock"))
        except OSError:  # Too long a path.
            self._control.bind(f"/proc/self/fd/{self._folder}/control.sock")
        self._control.listen()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._ended = asyncio.Event()

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._loop.close()

    def receive(self) -> Requested:
        """The next order, waited for."""
        return self.orders.get(timeout=PATIENCE)

    async def _report(self) -> Report:
        return self.report

    def _state(self) -> State:
        return self.report.state

    def _asked(self) -> tuple[State, str]:
        return self.report.state, self.report.failed_start.why if self.report.failed_start else ""

    async def _run(self) -> None:
        meter, timers = MemoryReader(), Timers()
        totals = Totals(self._folder)

        def counted() -> Counted:
            return totals.count(time.time())

        telling = HttpServer(
            Application(self._report, self._state, meter, counted=counted, folder=self._folder).answer
        )
        ordering = HttpServer(
            Application(
                self._report, self._state, meter, self.orders.put, counted=counted, folder=self._folder
            ).answer
        )
        tasks = set()
        listening = []

        def hand_on(server: HttpServer) -> Callable[[socket.socket, bytes], None]:
            def hand(connected: socket.socket, data: bytes) -> None:
                taken = socket.socket(fileno=connected.detach())
                tasks.add(asyncio.ensure_future(server.let_in(taken, data)))

            return hand

        for listener, server, users in (
            (self._tcp, telling, None),
            (self._control, ordering, control_socket.allowed_users()),
        ):
            listening.append(HttpListener(listener, timers, self._asked, hand_on(server), users))  # type: ignore[arg-type]
        await self._ended.wait()
        for listener in (self._tcp, self._control):
            timers.forget(listener.fileno())
            listener.close()
        for one in listening:
            # Browsers connect before they have anything to ask.
            for fd in list(one._waiting):
                one._cut(fd)
        await asyncio.gather(*tasks)
        for server in (telling, ordering):
            await server.close()
        os.close(self._folder)

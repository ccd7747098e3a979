"""A stand-in for Flycast: what fly-proxy does for a client of a machine that may be stopped.

    async with Flycast(machine, machine_port=5432) as fly:
        ...connect to 127.0.0.1, fly.port...

On a connection it starts a stopped machine, dials its port until it is reachable, gives up as fly-proxy does
(15 attempts in about 8 s: PM05) and closes the client; then it relays bytes. A machine that exits non-zero is
restarted (policy `on-failure`), one that exits 0 stays stopped until the next connection. It knows of the machine
only what a proxy can know: real TCP to its port and, a moment late, that its process has exited.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Coroutine

ATTEMPTS = 15
# Seconds after which no attempt begins, from the machine's start if it had to be started.
PATIENCE = 8.0
# Pauses after refused attempts, in seconds, growing so that 15 attempts take 7.5 s.
FIRST_PAUSE, GROWTH = 0.04, 1.35
# Seconds for one attempt: a SYN that was dropped is sent again by the kernel after 1 s, within the attempt.
DIAL_TIMEOUT = 2.0
# The restart policy's default: so many in so many seconds.
RESTARTS, RESTART_WINDOW = 10, 300.0
# Starts that one connection may order: the machine may exit again before it was dialled.
STARTS_PER_CONNECTION = 3
CHUNK = 65536


class Machine(Protocol):
    """A process that serves a TCP port. Supervised is one."""

    @property
    def pid(self) -> int: ...

    def start(self) -> None: ...

    def wait(self) -> int:
        """Reap it and return its exit status."""


@dataclass(slots=True)
class Counts:
    """What happened so far."""

    connections: int = 0
    starts: int = 0
    restarts: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    give_ups: int = 0
    refused_dials: int = 0


class Flycast:
    """Proxy and platform for one machine.

    In seconds: `boot_delay` from the order to start to the process's exec, `notice_delay` from the process's
    exit to the proxy knowing of it, `dial_timeout` for one attempt.
    """

    def __init__(
        self,
        machine: Machine,
        machine_port: int,
        *,
        boot_delay: float = 0.0,
        notice_delay: float = 0.05,
        dial_timeout: float = DIAL_TIMEOUT,
    ) -> None:
        self.machine = machine
        self.machine_port = machine_port
        self.boot_delay, self.notice_delay, self.dial_timeout = boot_delay, notice_delay, dial_timeout
        self.counts = Counts()
        self.port = 0
        self.stopped = asyncio.Event()
        self.stopped.set()
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._restarted: list[float] = []

    async def __aenter__(self) -> Flycast:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._server.setblocking(False)
        self.port = self._server.getsockname()[1]
        self._spawn(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop relaying; the machine is left to its owner, and no longer restarted."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self) -> None:
        """Start the machine if it is not known to run."""
        async with self._starting:
            if not self.stopped.is_set():
                return
            await asyncio.sleep(self.boot_delay)
            await asyncio.to_thread(self.machine.start)
            self.stopped.clear()
            self.counts.starts += 1
            self._spawn(self._watch())

    async def _watch(self) -> None:
        await exited(self.machine.pid)
        status = await asyncio.to_thread(self.machine.wait)
        self.counts.exits[status] += 1
        await asyncio.sleep(self.notice_delay)
        self.stopped.set()
        if status != 0 and self._may_restart():
            self.counts.restarts += 1
            await self.start()

    def _may_restart(self) -> bool:
        now = time.monotonic()
        self._restarted = [at for at in self._restarted if now - at < RESTART_WINDOW]
        if len(self._restarted) == RESTARTS:
            return False
        self._restarted.append(now)
        return True

    async def _accept(self) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self._server)
            self.counts.connections += 1
            serving = self._spawn(self._serve(client))
            # Cancelled before it has begun, it would not close its client.
            serving.add_done_callback(lambda _, client=client: client.close())  # type: ignore[misc]

    async def _serve(self, client: socket.socket) -> None:
        with client:
            upstream = await self._reach()
            if upstream is None:
                self.counts.give_ups += 1
                return
            with upstream:
                await _relay(client, upstream)

    async def _reach(self) -> socket.socket | None:
        """A connection to the machine, started if need be; None after giving up."""
        starts = attempts = 0
        pause, deadline = FIRST_PAUSE, time.monotonic() + PATIENCE
        while attempts < ATTEMPTS and time.monotonic() < deadline:
            if self.stopped.is_set():
                starts += 1
                if starts > STARTS_PER_CONNECTION:
                    return None
                await self.start()
                attempts, pause, deadline = 0, FIRST_PAUSE, time.monotonic() + PATIENCE
            attempts += 1
            if upstream := await self._dial():
                return upstream
            await asyncio.sleep(pause)
            pause *= GROWTH
        return None

    async def _dial(self) -> socket.socket | None:
        upstream = socket.socket()
        upstream.setblocking(False)
        try:
            async with asyncio.timeout(self.dial_timeout):
                await asyncio.get_running_loop().sock_connect(upstream, ("127.0.0.1", self.machine_port))
        except TimeoutError:
            pass  # The next attempt may be luckier.
        except ConnectionRefusedError:
            self.counts.refused_dials += 1
        except BaseException:
            upstream.close()
            raise
        else:
            return upstream
        upstream.close()
        return None

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def exited(pid: int) -> None:
    """Return when a process has exited; it stays to be reaped."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    fd = os.pidfd_open(pid)
    loop.add_reader(fd, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def _relay(client: socket.socket, upstream: socket.socket) -> None:
    """Copy both ways until both sides have ended; a reset on one side becomes one on the other."""
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(client, upstream))
            both.create_task(_pump(upstream, client))
    except* OSError:
        for side in (client, upstream):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)
    sink.shutdown(socket.SHUT_WR)

"""The clients: writers, pools, LISTENers, long transactions, brief visits, cancel requests, silence and garbage.

Each goes on until the crowd is stopped. They come in tides: all are busy for a while, then all pause together, so that
Postgres gets to sleep under open pools, and then all come back at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import struct
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from harness.clients import INSERT
from torture.record import Doing, Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from harness.clients import Ledger

CONNECT_TIMEOUT = 45
"""Seconds after which a connection is taken to be refused, whatever waits."""

LOOPBACK = "127.0.0.1"

NUMBERS = itertools.count()

SERVER_SLEEP = 20
"""Seconds that a statement would take that is there to be cancelled."""

LONG = f"DO $$ BEGIN RAISE NOTICE 'begun'; PERFORM pg_sleep({SERVER_SLEEP}); END $$"
"""Such a statement, which tells when it has begun: a notice is sent at once."""


@dataclass(slots=True)
class Session:
    """One connection, and since when it is idle (monotonic)."""

    connection: psycopg.AsyncConnection[Any]
    who: str
    tally: Tally
    since: float = field(default_factory=time.monotonic)
    held: float | None = None
    """Since when it must not be cut (monotonic), if it must not."""

    async def run(self, statement: str, arguments: tuple[object, ...] | None = None) -> bool:
        """Run a statement; False if it failed, which is noted."""
        began = time.monotonic()
        idle = began - self.since
        try:
            await self.connection.execute(statement, arguments)
        except psycopg.Error as error:
            self._cut(began, error, idle)
            return False
        self.since = time.monotonic()
        return True

    async def rest(self, seconds: float) -> bool:
        """Do nothing for a while, without a word; False if the session was cut meanwhile, which is noted."""
        if not await readable(self.connection.fileno(), seconds):
            return True
        began = time.monotonic()
        try:
            await self.connection.execute("SELECT 1")
        except psycopg.Error as error:
            self._cut(began, error, began - self.since)
            return False
        self.since = time.monotonic()
        return True

    def hold(self) -> None:
        """From here on it must not be cut."""
        self.held = time.monotonic()

    def _cut(self, began: float, error: psycopg.Error, idle: float) -> None:
        doing = Doing.IDLE if self.held is None else Doing.HELD
        self.tally.fail(began, self.who, doing, error, idle, self.held or 0.0)


@dataclass(slots=True)
class Crowd:
    """Everybody who uses one Postgres in a round. `socket` is the Unix socket's path; who is `local` comes to it, the
    others to `port`; `conninfo` is without either."""

    port: int
    socket: Path
    conninfo: str
    ledger: Ledger
    tally: Tally
    chance: random.Random
    lull: float
    local: frozenset[str]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    high: asyncio.Event = field(default_factory=asyncio.Event)
    holding: int = 0

    async def tide(self) -> None:
        """Busy, quiet, busy."""
        while not self.over.is_set():
            self.high.set()
            await self._unless_over(self.chance.uniform(0.3, 1.2))
            self.high.clear()
            # Who is there to keep it awake goes first; their sessions are short.
            for _ in range(40):
                if self.holding:
                    await self._unless_over(0.05)
            await self._unless_over(self.lull * self.chance.uniform(1.2, 2.5) + self.chance.uniform(0.6, 2.0))
        self.high.set()

    async def live(self, actor: Callable[[Crowd, str, random.Random], Awaitable[None]], name: str) -> None:
        """Have somebody do what they do until it is over."""
        chance = random.Random(f"{self.chance.random()} {name}")
        holds = actor in HOLDERS
        while not self.over.is_set():
            await self.pause(chance)
            self.holding += holds
            try:
                await actor(self, name, chance)
            finally:
                self.holding -= holds
            if actor is listener:
                # Somebody who listens all the time would let nobody ever sleep.
                await self._unless_over(chance.uniform(0.3, 1.5))

    async def pause(self, chance: random.Random) -> None:
        await self._unless_over(chance.uniform(0, 0.1))
        await self.high.wait()

    async def _unless_over(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()

    async def open(self, who: str) -> Session | None:
        """A new session, or None if it failed, which is noted."""
        self.tally.tried += 1
        began = time.monotonic()
        try:
            connection = await psycopg.AsyncConnection.connect(
                self.conninfo,
                host=str(self.socket.parent) if who in self.local else LOOPBACK,
                port=int(self.socket.suffix[1:]) if who in self.local else self.port,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT,
                # One application that comes back after each sleep is flapping, and sleep is put off for it. pgidle
                # remembers that from round to round.
                application_name=f"{who} {next(NUMBERS)}",
            )
        except psycopg.Error as error:
            self.tally.fail(began, who, Doing.CONNECT, error)
            return None
        self.tally.longest = max(self.tally.longest, time.monotonic() - began)
        return Session(connection, who, self.tally)

    @asynccontextmanager
    async def session(self, who: str) -> AsyncIterator[Session | None]:
        one = await self.open(who)
        try:
            yield one
        finally:
            if one is not None:
                await one.connection.close()

    async def write(self, one: Session, worker: int) -> bool:
        """Insert a row in a transaction of its own, and note that it was acknowledged."""
        row = self.ledger.send(worker)
        if not await one.run(INSERT, row):
            return False
        self.ledger.acknowledge(row)
        self.tally.commits += 1
        return True


async def readable(fd: int, seconds: float) -> bool:
    """Whether a socket that nobody else waits on has something to read within so many seconds."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


def number(name: str) -> int:
    """Of an actor `writer 3`."""
    return int(name.rpartition(" ")[2])


async def writer(crowd: Crowd, name: str, chance: random.Random) -> None:
    """A session with some inserts and pauses."""
    async with crowd.session(name) as one:
        for _ in range(chance.randint(1, 6) if one else 0):
            assert one
            if not await crowd.write(one, number(name)) or not await one.rest(chance.uniform(0, 0.1)):
                return


async def brief(crowd: Crowd, name: str, _: random.Random) -> None:
    """Come, ask one thing, go."""
    async with crowd.session(name) as one:
        if one:
            await one.run("SELECT count(*) FROM ledger WHERE worker = 0")


async def pool(crowd: Crowd, name: str, chance: random.Random) -> None:
    """Sessions that are kept open through every lull, and replaced when they were cut."""
    kept: list[Session] = []
    try:
        while not crowd.over.is_set():
            await crowd.pause(chance)
            index = chance.randint(0, 2)
            if index >= len(kept):
                if fresh := await crowd.open(name):
                    kept.append(fresh)
                continue
            one = kept[index]
            if not await one.rest(0.001) or not await crowd.write(one, number(name)):
                kept.remove(one)
                await one.connection.close()
    finally:
        for one in kept:
            await one.connection.close()


async def transaction(crowd: Crowd, name: str, chance: random.Random) -> None:
    """Idle in a transaction: nobody may be put to sleep under it."""
    async with crowd.session(name) as one:
        if one is None:
            return
        rows = [crowd.ledger.send(number(name)) for _ in range(2)]
        if not await one.run("BEGIN"):
            return
        one.hold()
        for row in rows:
            if not await one.run(INSERT, row) or not await one.rest(chance.uniform(0.05, 0.6)):
                return
        if await one.run("COMMIT"):
            crowd.tally.commits += 1
            for row in rows:
                crowd.ledger.acknowledge(row)


async def listener(crowd: Crowd, name: str, chance: random.Random) -> None:
    """LISTEN and wait: that keeps Postgres awake too."""
    async with crowd.session(name) as one:
        if one and await one.run("LISTEN news"):
            one.hold()
            await one.rest(chance.uniform(0.2, 1.0))


async def canceller(crowd: Crowd, name: str, chance: random.Random) -> None:
    """A long statement, and a cancel request for it."""
    async with crowd.session(name) as one:
        if one is None:
            return
        began = time.monotonic()
        begun = asyncio.Event()
        one.connection.add_notice_handler(lambda _: begun.set())
        asked = asyncio.create_task(one.connection.execute(LONG))
        # A request that comes before the backend has read the statement ends nothing (ProcessInterrupts in postgres.c).
        notice = asyncio.create_task(begun.wait())
        await asyncio.wait({asked, notice}, return_when=asyncio.FIRST_COMPLETED)
        notice.cancel()
        await asyncio.sleep(chance.uniform(0, 0.4))
        sent = time.monotonic()
        try:
            await one.connection.cancel_safe(timeout=CONNECT_TIMEOUT)
        except psycopg.Error as error:
            crowd.tally.fail(sent, name, Doing.CANCEL, error)
        try:
            await asked
        except psycopg.errors.QueryCanceled:
            return
        except psycopg.Error as error:
            crowd.tally.fail(began, name, Doing.HELD, error, held=began)
        else:
            crowd.tally.fail(sent, name, Doing.CANCEL, "the cancel request was not heard")


async def silent(crowd: Crowd, name: str, chance: random.Random) -> None:
    """Connect and say nothing."""
    await _stranger(crowd, name, b"", chance.uniform(0.05, 0.8))


async def garbage(crowd: Crowd, name: str, chance: random.Random) -> None:
    """Connect and say something that is no PostgreSQL."""
    words = chance.choice(
        (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0" * 64,
            os.urandom(300),
            struct.pack("!II", 8, 80877103),
            struct.pack("!II", 9999, 3 << 16),
        )
    )
    await _stranger(crowd, name, words, chance.uniform(0, 0.3))


async def _stranger(crowd: Crowd, name: str, words: bytes, seconds: float) -> None:
    began = time.monotonic()
    crowd.tally.strangers += 1
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, out = await (
                asyncio.open_unix_connection(crowd.socket)
                if name in crowd.local
                else asyncio.open_connection(LOOPBACK, crowd.port)
            )
    except (OSError, TimeoutError) as error:
        crowd.tally.fail(began, name, Doing.CONNECT, error)
        return
    with contextlib.suppress(OSError):
        out.write(words)
        await out.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await reader.read()
        if seconds > 0.4 and name not in crowd.local:  # a reset, not an end
            linger = struct.pack("ii", 1, 0)
            out.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    out.close()
    with contextlib.suppress(OSError):
        await out.wait_closed()


ACTORS = {
    actor.__name__: actor
    for actor in (writer, brief, pool, transaction, listener, canceller, silent, garbage)
}

HOLDERS = (transaction, listener, canceller, silent)
"""Who keeps Postgres awake only by being there."""

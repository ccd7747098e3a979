"""A load of clients that come and go at random, and a ledger of what Postgres acknowledged to them.

    ledger = Ledger()
    ledger.create(conninfo)
    load = await run_clients(conninfo, ledger, workers=6, sessions=20, seed=7, habits=Habits(cut_after=1.0))
    assert load.failures == []
    assert ledger.missing(conninfo) == []

Failures are connections that could not be made, errors in statements, and sessions that were cut before they had been
idle for `cut_after` seconds. A session that is cut later went to sleep with the server, as pgidle says it will.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Sequence

CREATE = "CREATE TABLE IF NOT EXISTS ledger (worker int, seq int, PRIMARY KEY (worker, seq))"
INSERT = "INSERT INTO ledger VALUES (%s, %s)"

# Seconds by which the client's clock of a session's idle time may be behind the server's: the reply travels.
LATE = 0.25


@dataclass(slots=True)
class Ledger:
    """(worker, seq) of each row whose COMMIT was acknowledged, and of each that was sent and not answered."""

    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    unanswered: set[tuple[int, int]] = field(default_factory=set)
    _next: int = 0

    def create(self, conninfo: str) -> None:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=30) as connection:
            connection.execute(CREATE)

    def send(self, worker: int) -> tuple[int, int]:
        """A row that is about to be inserted."""
        self._next += 1
        row = (worker, self._next)
        self.unanswered.add(row)
        return row

    def acknowledge(self, row: tuple[int, int]) -> None:
        self.unanswered.discard(row)
        self.acknowledged.add(row)

    def missing(self, conninfo: str) -> list[tuple[int, int]]:
        """Rows that were acknowledged and are not there: none, unless a commit was lost."""
        return sorted(self.acknowledged - self._rows(conninfo))

    def strange(self, conninfo: str) -> list[tuple[int, int]]:
        """Rows that are there and that nobody sent."""
        return sorted(self._rows(conninfo) - self.acknowledged - self.unanswered)

    def _rows(self, conninfo: str) -> set[tuple[int, int]]:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=30) as connection:
            return {(worker, seq) for worker, seq in connection.execute("SELECT worker, seq FROM ledger")}


@dataclass(frozen=True, slots=True)
class Failure:
    """`at` is time.time(); `doing` is connect, insert, select or deadline."""

    at: float
    worker: int
    doing: str
    text: str
    sqlstate: str | None = None


@dataclass(slots=True)
class Load:
    """What the clients met."""

    connections: int = 0
    commits: int = 0
    cuts: int = 0
    longest_connect: float = 0.0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Habits:
    """How clients behave, in seconds and counts.

    A pause before a session or between statements is mostly short (up to `short`), by chance (`dozes`)
    long (up to `long`), so that a sleep also meets open sessions. A session cut when idle for `cut_after` or
    longer is no failure; 0 allows every cut and every error in a session, for tests that kill Postgres.
    """

    short: float = 0.3
    long: float = 3.0
    dozes: float = 0.3
    statements: int = 4
    cut_after: float = 1.0
    connect_timeout: float = 60.0

    def pause(self, chance: random.Random) -> float:
        return chance.uniform(0, self.long if chance.random() < self.dozes else self.short)


@dataclass(slots=True)
class Client:
    """One worker: sessions one after the other."""

    conninfo: str
    worker: int
    ledger: Ledger
    load: Load
    habits: Habits
    chance: random.Random

    async def visits(self, sessions: int) -> None:
        for _ in range(sessions):
            await asyncio.sleep(self.habits.pause(self.chance))
            await self.visit()

    async def visit(self) -> None:
        """One session: connect, some statements with pauses, disconnect."""
        began = time.monotonic()
        try:
            connection = await psycopg.AsyncConnection.connect(
                self.conninfo,
                autocommit=True,
                connect_timeout=round(self.habits.connect_timeout),
                # One application that comes back after each sleep is flapping, and sleep is put off for it.
                application_name=f"client {self.worker}, session {self.load.connections}",
            )
        except psycopg.Error as error:
            self._fail("connect", error)
            return
        self.load.connections += 1
        self.load.longest_connect = max(self.load.longest_connect, time.monotonic() - began)
        idle_since = time.monotonic()
        try:
            for _ in range(self.chance.randint(1, self.habits.statements)):
                if not await self._statement(connection, idle_since):
                    return
                idle_since = time.monotonic()
                # Watched, so that a cut is timed when it comes and not when the session is next used.
                await _readable(connection.fileno(), self.habits.pause(self.chance))
        finally:
            await connection.close()

    async def _statement(self, connection: psycopg.AsyncConnection, idle_since: float) -> bool:
        """Run one; False if the session has ended."""
        idle = time.monotonic() - idle_since
        doing = self.chance.choice(("insert", "insert", "select"))
        try:
            if doing == "insert":
                row = self.ledger.send(self.worker)
                await connection.execute(INSERT, row)
                self.ledger.acknowledge(row)
                self.load.commits += 1
            else:
                await connection.execute("SELECT count(*) FROM ledger")
        except psycopg.Error as error:
            if idle + LATE >= self.habits.cut_after and connection.closed:
                self.load.cuts += 1
            else:
                self._fail(doing, error, f"idle for {idle:.3f} s: ")
            return False
        return True

    def _fail(self, doing: str, error: psycopg.Error, note: str = "") -> None:
        self.load.failures.append(
            Failure(time.time(), self.worker, doing, f"{note}{error}".strip(), error.sqlstate)
        )


async def _readable(fd: int, seconds: float) -> None:
    """Return when a socket that nobody else waits on has something to read, or after so many seconds."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(fd)


async def run_clients(
    conninfo: str | Sequence[str],
    ledger: Ledger,
    *,
    workers: int,
    sessions: int,
    seed: int,
    habits: Habits | None = None,
    bound: float = 600.0,
) -> Load:
    """So many workers with so many sessions each; after `bound` seconds the rest is ended, as a failure.

    Where there are several ways to connect, the workers take them in turn.
    """
    ways = [conninfo] if isinstance(conninfo, str) else conninfo
    load = Load()
    habits = habits or Habits()
    clients = [
        Client(ways[worker % len(ways)], worker, ledger, load, habits, random.Random(f"{seed} {worker}"))
        for worker in range(workers)
    ]
    try:
        async with asyncio.timeout(bound):
            await asyncio.gather(*(client.visits(sessions) for client in clients))
    except TimeoutError:
        load.failures.append(Failure(time.time(), -1, "deadline", f"not done after {bound} s"))
    return load

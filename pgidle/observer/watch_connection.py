"""The watching connection: its role, its database, and how it stays out of everybody's way.

It is a walsender wherever that is allowed (`replication=database`, which accepts SQL too). Walsenders have places of
their own, so it takes none of max_connections, and pg_stat_database does not count them (InitPostgres in postinit.c,
pgstat_should_report_connstat in pgstat_database.c). An ordinary session of ours is counted exactly.

It has no database of its own: while it lasts, the one it is in cannot be dropped, renamed or copied as a template.
CREATE and DROP DATABASE wait 5 s for others (CountOtherDBBackends in procarray.c), so it is held for less.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgidle.observer import look_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg.rows import TupleRow

APPLICATION_NAME = "pgidle"

STATEMENT_TIMEOUT = 30.0
"""Seconds after which the server itself cancels a look, in case pgidle is no longer there to do so."""

GRACE = 1.0
"""Seconds that the last connection's backend gets to exit before the next connection is made."""

STATISTICS_AGE = 1.0
"""Seconds after which PostgreSQL 14's collector has published its counts: twice PGSTAT_STAT_INTERVAL."""

WALSENDERS_LEFT = 3
"""Of max_wal_senders, how many must be free, ours included, for it to take one: pg_basebackup needs two at once."""

DATABASES = ("postgres", "template1")
"""The second is used only while the first does not exist or refuses connections."""

NOT_CONNINFO = (
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGREQUIRESSL",
    "PGOAUTHDEBUG",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
)
"""Environment variables that libpq reads besides those of connection parameters."""

OWN = {"application_name": APPLICATION_NAME, "client_encoding": "UTF8"}


class WatchError(Exception):
    """A look or a checkpoint failed: one line for a person."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to connect. `is_walsender`: as a walsender, with `options` that only a superuser may set."""

    database: str
    user: str
    is_walsender: bool


@dataclass(frozen=True, slots=True)
class Watching:
    """An open connection. `database`: where the server counts it; empty if it does not."""

    connection: psycopg.AsyncConnection[TupleRow]
    is_superuser: bool
    counts_itself: bool
    database: str


class WatchConnection:
    """Makes one connection at a time. `sessions`: how many of ours pg_stat_database has counted so far."""

    def __init__(
        self,
        socket_dir: str,
        port: int,
        users: Sequence[str],
        conninfo: str | None,
        postmaster: int,
        is_ours: Callable[[int], bool],
        *,
        knows_role: bool,
    ) -> None:
        """`users` are tried in turn; with `knows_role`, look_query.WATCH_ROLE is tried before them. `conninfo` (setting
        `watch`) replaces all of these, and host and port if it has them. `is_ours`: whether a pid is a backend of the
        postmaster."""
        forget_libpq_environment()
        self.sessions = 0
        self.has_role = knows_role
        """Whether a role made for watching exists that has not been refused."""
        self.refusal: str | None = None
        """Why that role was refused."""
        self._major = 0
        self._socket_dir = socket_dir
        self._port = port
        self._users = tuple(dict.fromkeys(users))
        self._conninfo = conninfo
        self._postmaster = postmaster
        self._is_ours = is_ours
        self._way: Attempt | None = None
        self._has_walsenders = True
        self._backend: int | None = None
        """A pidfd of our last backend."""
        self._open: psycopg.AsyncConnection[TupleRow] | None = None

    async def open(self, major: int) -> Watching:
        """Connect to a server of that version, once the last connection's backend is gone, so that it is not taken for
        a client. Raises WatchError, psycopg.Error, and OSError if the machine lacks resources."""
        self._major = major
        await self.close()
        await self._last_is_gone()
        problems: list[str] = []
        for way in self._ways():
            try:
                connection = await self._connect(self._conninfo_of(way))
            except psycopg.Error as error:
                problems.append(one_line(error))
                self._refused(way, problems[-1])
                continue
            self._way = way
            return await self._prepare(connection, way)
        hint = "set watch to a connection string that works, as in --watch 'user=NAME dbname=NAME'"
        raise WatchError(f"cannot connect to watch: {'; '.join(dict.fromkeys(problems))}: {hint}")

    async def close(self) -> None:
        """Disconnect, if connected."""
        connection, self._open = self._open, None
        if connection is not None:
            await connection.close()

    async def end(self) -> None:
        """Disconnect, and release what is kept for the next connection."""
        await self.close()
        backend, self._backend = self._backend, None
        if backend is not None:
            os.close(backend)

    def abandon(self) -> bool:
        """Abort what is under way, without waiting for a server that may not answer; False if no connection is open."""
        if self._open is None or self._open.closed:
            return False
        # An error here means that it is closed already.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._open.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        return True

    def learn(self, *, has_postgres: bool, has_role: bool, free_walsenders: int) -> None:
        """Note what a look found about better ways to connect. `free_walsenders`: of max_wal_senders, ours included."""
        had, self._has_walsenders = self._has_walsenders, free_walsenders >= WALSENDERS_LEFT
        if self._way is None:
            return
        if self._has_walsenders is not had:
            self._way = None
        if has_role and not self.has_role and self.refusal is None:
            self.has_role = True
            self._way = None
        elif self._way is not None and has_postgres and self._way.database != DATABASES[0]:
            self._way = None

    def _refused(self, way: Attempt | None, why: str) -> None:
        if way == self._way:
            self._way = None
        if way is not None and way.user == look_query.WATCH_ROLE:
            self.has_role, self.refusal = False, why

    def _ways(self) -> Iterator[Attempt | None]:
        """The ways to try, in turn; None is the user's own connection string."""
        if self._conninfo is not None:
            yield None
            return
        if self._way is not None:
            yield self._way
        for database in DATABASES:
            if self.has_role:
                yield Attempt(database, look_query.WATCH_ROLE, is_walsender=False)
            for user in self._users:
                yield Attempt(database, user, is_walsender=self._has_walsenders)
                yield Attempt(database, user, is_walsender=not self._has_walsenders)

    def _conninfo_of(self, way: Attempt | None) -> str:
        if way is None:
            return self._given(self._conninfo or "")
        options = look_query.startup_options(
            self._major, statement_timeout=STATEMENT_TIMEOUT, superuser=way.is_walsender
        )
        words: dict[str, Any] = {"replication": "database"} if way.is_walsender else {}
        return make_conninfo(
            "",
            host=self._socket_dir,
            port=self._port,
            dbname=way.database,
            user=way.user,
            options=options,
            **OWN,
            **words,
        )

    def _given(self, conninfo: str) -> str:
        """The user's own, with our pins appended, as the last value of a setting wins. Raises WatchError."""
        try:
            given = conninfo_to_dict(conninfo)
        except psycopg.Error:
            # libpq's error quotes the string, and the part that it cannot parse may be a password.
            raise WatchError("watch is not a valid connection string: correct it") from None
        where: dict[str, Any] = {}
        if "service" not in given:
            where["port"] = given.get("port") or self._port
            if not given.keys() & {"host", "hostaddr"}:
                where["host"] = self._socket_dir
        pins = look_query.startup_options(self._major, statement_timeout=STATEMENT_TIMEOUT, superuser=False)
        options = f"{given.get('options') or ''} {pins}".strip()
        return make_conninfo(conninfo, options=options, **OWN, **where)

    async def _connect(self, conninfo: str) -> psycopg.AsyncConnection[TupleRow]:
        # A walsender does not support the extended protocol, which prepared statements need.
        self._open = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
        return self._open

    async def _prepare(self, connection: psycopg.AsyncConnection[TupleRow], way: Attempt | None) -> Watching:
        backend = connection.info.backend_pid
        if not self._is_ours(backend):
            other = f"reaches another server than postmaster {self._postmaster}"
            raise WatchError(f"the watching connection {other}: set host and port in watch")
        with contextlib.suppress(ProcessLookupError):
            self._backend = os.pidfd_open(backend)
        counts_itself = way is None or not way.is_walsender
        is_superuser = connection.info.parameter_status("is_superuser") == "on"
        if counts_itself:
            if is_superuser:
                await connection.execute(look_query.set_superuser_pins(self._major))
            await self._count_itself(connection)
        return Watching(
            connection, is_superuser, counts_itself, connection.info.dbname if counts_itself else ""
        )

    async def _count_itself(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        """Make sure that this session is counted before the counters are read, and count it in `sessions`."""
        if self._major >= 15:
            await connection.execute(look_query.FLUSH)
        elif self._major == 14:
            await asyncio.sleep(STATISTICS_AGE)
        self.sessions += 1

    async def _last_is_gone(self) -> None:
        """Wait until the last connection's backend has exited. If it does not, it counts like any other session."""
        backend, self._backend = self._backend, None
        if backend is None:
            return
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(backend, ended.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await ended.wait()
        finally:
            loop.remove_reader(backend)
            os.close(backend)


def forget_libpq_environment() -> None:
    """Remove from this process's environment the variables that libpq would read: they are not meant for pgidle.

    Postgres's environment was copied before. PGPORT stays, as it is also a setting of ours; every connection is made
    with an explicit port.
    """
    names = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    for name in names.union(NOT_CONNINFO) - {"PGPORT"}:
        os.environ.pop(name, None)


def one_line(error: Exception) -> str:
    """What went wrong, in one line; libpq's and the server's messages may have several."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((primary or str(error)).split()) or type(error).__name__

"""The connection that looks: as whom, where, and how it stays out of everybody's way.

It is a walsender's wherever that is allowed (`replication=database`, which speaks SQL too). Walsenders have places of
their own, so it takes none of max_connections from anybody, and pg_stat_database does not count them (InitPostgres in
postinit.c, pgstat_should_report_connstat in pgstat_database.c). As an ordinary session it counts itself, exactly.

A database of its own it has not: while it lasts, nobody can drop or rename the one it is in, or copy it as a template.
CREATE and DROP DATABASE wait for others for 5 s (CountOtherDBBackends in procarray.c), so it is held for less.
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

from pgidle.observer import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg.rows import TupleRow

APPLICATION_NAME = "pgidle"

STATEMENT_TIMEOUT = 30.0
"""Seconds after which the server itself ends a look, should nobody be left to end it."""

GRACE = 1.0
"""Seconds that the backend of the last connection gets to be gone before the next one is made."""

STATISTICS_AGE = 1.0
"""Seconds after which PostgreSQL 14's collector has told what it counted: twice PGSTAT_STAT_INTERVAL."""

WALSENDERS_LEFT = 3
"""So many of max_wal_senders must be free, ours among them, for it to take one: pg_basebackup needs two at once."""

DATABASES = ("postgres", "template1")
"""The second only for as long as the first is not there, or lets nobody in."""

NOT_CONNINFO = (
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGREQUIRESSL",
    "PGOAUTHDEBUG",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
)
"""What libpq takes from the environment besides the parameters of a connection string."""

OWN = {"application_name": APPLICATION_NAME, "client_encoding": "UTF8"}


class WatchError(Exception):
    """A look or a checkpoint did not work: one line for a person."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get in. `is_walsender`: as a walsender, which only a superuser's `options` suit."""

    database: str
    user: str
    is_walsender: bool


@dataclass(frozen=True, slots=True)
class Watching:
    """A connection that was made. `database` is where it counts itself, "" where it does not."""

    connection: psycopg.AsyncConnection[TupleRow]
    is_superuser: bool
    counts_itself: bool
    database: str


class WatchConnection:
    """Makes the connection, one at a time. `sessions` are those of ours that pg_stat_database has counted so far."""

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
        """`users` are tried in turn, `knows_role`: and before them `query.WATCH_ROLE`. `conninfo` (setting `watch`)
        replaces all of these, but for host and port where it has none. `is_ours` tells the postmaster's backends."""
        forget_libpq_environment()
        self.sessions = 0
        self.has_role = knows_role
        """Whether there is a role that was made for looking, and that has not been refused."""
        self.refusal: str | None = None
        """Why that role was not let in."""
        self._major = 0
        self._socket_dir = socket_dir
        self._port = port
        self._users = tuple(dict.fromkeys(users))
        self._conninfo = conninfo
        self._postmaster = postmaster
        self._is_ours = is_ours
        self._way: Way | None = None
        self._has_walsenders = True
        self._backend: int | None = None
        """A pidfd of our last backend."""
        self._open: psycopg.AsyncConnection[TupleRow] | None = None

    async def open(self, major: int) -> Watching:
        """Connect to a server of that version, once the last connection's backend is gone, so that nobody takes it for
        a client. Raises WatchError, psycopg.Error, and OSError where the machine refuses what it takes."""
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
        """Disconnect, and let go of all that is kept for the next connection."""
        await self.close()
        backend, self._backend = self._backend, None
        if backend is not None:
            os.close(backend)

    def abandon(self) -> bool:
        """End what is under way on it, without a word to a server that may not answer; False where nothing is open."""
        if self._open is None or self._open.closed:
            return False
        # An error here means that it has ended already.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._open.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        return True

    def learn(self, *, has_postgres: bool, has_role: bool, free_walsenders: int) -> None:
        """What a look saw of better ways for the next connection. `free_walsenders`: of max_wal_senders, ours too."""
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

    def _refused(self, way: Way | None, why: str) -> None:
        if way == self._way:
            self._way = None
        if way is not None and way.user == query.WATCH_ROLE:
            self.has_role, self.refusal = False, why

    def _ways(self) -> Iterator[Way | None]:
        """What to try, in turn; None is the user's own string."""
        if self._conninfo is not None:
            yield None
            return
        if self._way is not None:
            yield self._way
        for database in DATABASES:
            if self.has_role:
                yield Way(database, query.WATCH_ROLE, is_walsender=False)
            for user in self._users:
                yield Way(database, user, is_walsender=self._has_walsenders)
                yield Way(database, user, is_walsender=not self._has_walsenders)

    def _conninfo_of(self, way: Way | None) -> str:
        if way is None:
            return self._given(self._conninfo or "")
        options = query.startup_options(
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
        """The user's own, with what is pinned behind it: the last word counts. Raises WatchError."""
        try:
            given = conninfo_to_dict(conninfo)
        except psycopg.Error:
            # libpq's complaint quotes it, and what it cannot read may be a password.
            raise WatchError("watch cannot be read as a connection string: correct it") from None
        where: dict[str, Any] = {}
        if "service" not in given:
            where["port"] = given.get("port") or self._port
            if not given.keys() & {"host", "hostaddr"}:
                where["host"] = self._socket_dir
        pins = query.startup_options(self._major, statement_timeout=STATEMENT_TIMEOUT, superuser=False)
        options = f"{given.get('options') or ''} {pins}".strip()
        return make_conninfo(conninfo, options=options, **OWN, **where)

    async def _connect(self, conninfo: str) -> psycopg.AsyncConnection[TupleRow]:
        # A walsender does not speak the extended protocol, which a prepared statement takes.
        self._open = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
        return self._open

    async def _prepare(self, connection: psycopg.AsyncConnection[TupleRow], way: Way | None) -> Watching:
        backend = connection.info.backend_pid
        if not self._is_ours(backend):
            other = f"leads to another server than postmaster {self._postmaster}"
            raise WatchError(f"the watching connection {other}: set host and port in watch")
        with contextlib.suppress(ProcessLookupError):
            self._backend = os.pidfd_open(backend)
        counts_itself = way is None or not way.is_walsender
        is_superuser = connection.info.parameter_status("is_superuser") == "on"
        if counts_itself:
            if is_superuser:
                await connection.execute(query.set_superuser_pins(self._major))
            await self._count_itself(connection)
        return Watching(
            connection, is_superuser, counts_itself, connection.info.dbname if counts_itself else ""
        )

    async def _count_itself(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        """Have this session in the counters before they are read, and in ours."""
        if self._major >= 15:
            await connection.execute(query.FLUSH)
        elif self._major == 14:
            await asyncio.sleep(STATISTICS_AGE)
        self.sessions += 1

    async def _last_is_gone(self) -> None:
        """A backend that does not end is somebody like any other."""
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
    """Take out of this process's environment what libpq would go by: it is meant for others, if for anybody.

    Postgres's own was copied before. PGPORT is also a setting of ours, and no connection is made without a port.
    """
    names = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    for name in names.union(NOT_CONNINFO) - {"PGPORT"}:
        os.environ.pop(name, None)


def one_line(error: Exception) -> str:
    """What went wrong, in one line; libpq writes several, and a server as many as it likes."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((primary or str(error)).split()) or type(error).__name__

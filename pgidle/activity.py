"""Looks at a running Postgres: SQL first, then /proc, into one Snapshot.

One connection is kept, so that the looks themselves start no sessions. The order of reading makes a race err
towards activity: within the statement the counters come before the sessions (a session that starts in between
shows now, its step next time), and sockets and processes come after both (a client on its way from the one to
the other shows as connecting; it cannot be in neither).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.types.json import set_json_loads

from pgidle.arrivals import Arrivals
from pgidle.disk import room_of
from pgidle.snapshot import Counters, LookFailed, Session, Slot, Snapshot
from pgidle.sockets import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from psycopg.rows import TupleRow

    from pgidle.sockets import Connection

T = TypeVar("T")

APPLICATION_NAME = "pgidle"

# Seconds after which the server itself ends a look, should nobody be left to end it.
STATEMENT_TIMEOUT = 30.0

# Seconds that a connection which was told to end gets for it.
GRACE = 1.0

# template1 only where there is no `postgres`: a connection to it is in the way of CREATE DATABASE.
DATABASES = ("postgres", "template1")

# A role or a database may come with settings that end or slow the looks. Not every version has every one.
PREPARE = b"""
SELECT set_config(name, wanted, false)
FROM pg_catalog.pg_settings JOIN (VALUES
    ('statement_timeout', %s), ('lock_timeout', '0'), ('transaction_timeout', '0'),
    ('idle_session_timeout', '0'), ('default_transaction_isolation', 'read committed'),
    ('search_path', 'pg_catalog'), ('jit', 'off'), ('log_min_messages', 'panic')
) AS w (name, wanted) USING (name)
WHERE context <> 'superuser' OR current_setting('is_superuser') = 'on'
"""
PATIENCE = b"SELECT setting::float8 FROM pg_settings WHERE name = 'authentication_timeout'"
STATEMENT_LIMIT = b"SELECT set_config('statement_timeout', %s, false)"

# A subquery runs when its value is first wanted: the filter on `counters` makes that come first. What a session of
# a low-level backup waits with, while files are copied, shows only in its last query, as LISTEN does. PostgreSQL 17
# has slots that a standby copies from its primary (`synced`), which nobody ever uses there.
LOOK = """
WITH counters AS MATERIALIZED (
    SELECT {sessions} AS sessions, {active_time} AS active_time FROM pg_stat_database
), sessions AS MATERIALIZED (
    SELECT a.pid, extract(epoch FROM a.backend_start)::float8 AS backend_start, a.backend_type, a.usename,
        a.datname, coalesce(a.application_name, '') AS application_name, host(a.client_addr) AS client_addr,
        a.client_port, a.state, extract(epoch FROM a.state_change)::float8 AS state_change,
        extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS state_age,
        coalesce(
            a.state = 'idle' AND a.query ~* '^[[:space:]]*(/[*].*[*]/[[:space:]]*)?listen[[:space:]"]', false
        ) AS listening,
        coalesce(l.locks, 0) AS advisory_locks, s.subscription,
        coalesce(
            r.state = 'backup' OR a.state = 'idle' AND a.query ~* 'pg_(backup_start|start_backup)[[:space:]]*[(]', false
        ) AS base_backup,
        r.state AS walsender_state
    FROM pg_stat_activity a
        LEFT JOIN (
            SELECT pid, count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND granted GROUP BY pid
        ) l ON l.pid = a.pid
        LEFT JOIN (
            SELECT pid, min(subname::text) AS subscription FROM pg_stat_subscription GROUP BY pid
        ) s ON s.pid = a.pid
        LEFT JOIN pg_stat_replication r ON r.pid = a.pid
    WHERE (SELECT count(*) FROM counters) = 1
), slots AS (
    SELECT slot_name::text AS name, slot_type, coalesce(pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn
    ), 0)::bigint AS held_back
    FROM pg_replication_slots s
    WHERE NOT active AND restart_lsn IS NOT NULL AND NOT coalesce((to_jsonb(s) ->> 'synced')::boolean, false)
)
SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), current_user::text, pg_backend_pid(),
    (SELECT row_to_json(counters) FROM counters), (SELECT json_agg(sessions) FROM sessions),
    (SELECT count(*) FROM pg_prepared_xacts), pg_is_in_recovery(), (SELECT json_agg(slots) FROM slots)
"""


class WatchError(Exception):
    """A look or a checkpoint did not work: one line for a person."""


class Watcher:
    """Looks at one postmaster. All methods belong to one asyncio loop; calls wait for each other.

    `socket_dir` and `port` name its Unix socket, `pid` is its process; `users` are tried in turn. `conninfo`
    (setting `watch`) replaces all of these but port and pid. `plugs` are the gate's own connections to the port,
    `addresses` where Postgres listens.
    """

    def __init__(
        self,
        socket_dir: str,
        port: int,
        pid: int,
        users: Sequence[str],
        conninfo: str | None = None,
        plugs: frozenset[tuple[str, int]] = frozenset(),
        addresses: tuple[str, ...] = (),
    ) -> None:
        self._socket_dir = socket_dir
        self._port = port
        self._users = tuple(dict.fromkeys(users))
        self._conninfo = conninfo
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[TupleRow] | None = None
        self._statement = b""
        self._pid = pid
        self._arrivals = Arrivals(pid, port, plugs=plugs, addresses=addresses)
        self._epoch = 0

    async def look(self, deadline: float) -> Snapshot | LookFailed:
        """One look, within `deadline` seconds. A failure costs the connection; the next look starts anew."""
        try:
            return await self._within(deadline, self._look)
        except WatchError as error:
            return LookFailed(str(error))

    async def checkpoint(self, timeout: float) -> str | None:  # noqa: ASYNC109
        """Run a CHECKPOINT, for at most `timeout` seconds; what went wrong, or None."""
        try:
            await self._within(timeout, lambda: self._checkpoint(timeout))
        except WatchError as error:
            return str(error)
        return None

    async def close(self) -> None:
        """Disconnect. A later look would connect again."""
        await self._drop()

    async def _within(self, seconds: float, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do the work, in time and by itself. Raises WatchError."""
        async with self._lock:
            task = asyncio.create_task(work())
            try:
                await asyncio.wait({task}, timeout=seconds)
                if task.done():
                    return task.result()
            except (psycopg.Error, OSError, ValueError) as error:
                await self._drop()
                raise WatchError(_line(error)) from error
            finally:
                if not task.done():
                    await self._give_up(task)
                elif not task.cancelled():
                    task.exception()  # Else asyncio complains where we were cancelled in the same moment.
        raise WatchError(f"Postgres did not answer within {seconds:g} s")

    async def _give_up(self, task: asyncio.Task[Any]) -> None:
        """End what is under way. Cancelling a query would wait for the very server that does not answer."""
        if self._connection is None or self._connection.closed:
            task.cancel()
        else:
            # An error here means that it has ended already.
            with (
                contextlib.suppress(OSError),
                socket.socket(fileno=os.dup(self._connection.fileno())) as connection,
            ):
                connection.shutdown(socket.SHUT_RDWR)
        await asyncio.wait({task}, timeout=GRACE)
        if not task.done():
            task.cancel()
        elif not task.cancelled():
            task.exception()
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> psycopg.AsyncConnection[TupleRow]:
        if self._connection is not None:
            return self._connection
        problems = []
        for conninfo in self._conninfos():
            try:
                connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
            except psycopg.Error as error:
                problems.append(_line(error))
                continue
            self._connection = connection
            set_json_loads(_read_json, connection)
            await connection.execute(PREPARE, (str(round(STATEMENT_TIMEOUT * 1000)),))
            row = await (await connection.execute(PATIENCE)).fetchone()
            self._arrivals.patience = row[0] if row else 0.0
            self._statement = _statement(connection.info.server_version)
            self._epoch += 1
            return connection
        hint = "set watch to a connection string that works"
        raise WatchError(f"cannot connect to watch: {'; '.join(dict.fromkeys(problems))}: {hint}")

    def _conninfos(self) -> list[str]:
        own = {"application_name": APPLICATION_NAME, "client_encoding": "UTF8"}
        if self._conninfo is not None:
            return [make_conninfo(self._conninfo, **own)]
        # In the startup packet it is in time for a role whose own statement_timeout is very short.
        own |= {"host": self._socket_dir, "options": f"-c statement_timeout={STATEMENT_TIMEOUT * 1000:.0f}"}
        return [
            make_conninfo("", port=self._port, dbname=database, user=user, **own)
            for database in DATABASES
            for user in self._users
        ]

    async def _look(self) -> Snapshot:
        connection = await self._connected()
        row = await (await connection.execute(self._statement, prepare=True)).fetchone()
        if row is None:
            raise WatchError("the look brought no row")
        sees_all, role, own_pid, counters, rows, prepared, in_recovery, slots = row
        if not self._arrivals.is_ours(own_pid):
            other = f"leads to another server than postmaster {self._pid}"
            raise WatchError(f"the watching connection {other}: set host and port in watch")
        if not sees_all:
            raise WatchError(f'role "{role}" may not see other sessions: GRANT pg_monitor TO "{role}"')
        sessions = tuple(Session(**values) for values in rows)
        arrived = self._arrivals.connecting(sessions)
        sessions = tuple(_heard_of(one, self._arrivals.there) for one in sessions)
        return Snapshot(
            at=time.monotonic(),
            epoch=self._epoch,
            server_version=connection.info.server_version,
            sessions=tuple(session for session in sessions if session.pid != own_pid),
            counters=Counters(**counters) if counters["sessions"] is not None else None,
            connecting=arrived,
            prepared_transactions=prepared,
            in_recovery=in_recovery,
            slots=tuple(Slot(**values) for values in slots or ()),
            room=room_of(self._pid),
        )

    async def _checkpoint(self, seconds: float) -> None:
        connection = await self._connected()
        await connection.execute(STATEMENT_LIMIT, (str(max(1, int(seconds * 1000))),))
        try:
            await connection.execute(b"CHECKPOINT")
        except psycopg.errors.InsufficientPrivilege as error:
            # A role that may only watch. The connection is as good as before, and the last look needs it.
            raise WatchError(_line(error)) from error
        await connection.execute(STATEMENT_LIMIT, (str(round(STATEMENT_TIMEOUT * 1000)),))


def _read_json(text: str | bytes) -> Any:
    """A name of a role is in the encoding of the database where it was made, whichever database it is read from."""
    return json.loads(text if isinstance(text, str) else text.decode(errors="replace"))


def _heard_of(session: Session, there: Mapping[tuple[str, int], Connection]) -> Session:
    """What the kernel knows better of an idle session: it may be in the middle of receiving its next statement."""
    connection = there.get((plain(session.client_addr or ""), session.client_port or 0))
    if connection is None or session.state != "idle":
        return session
    age = session.state_age
    if age is not None and connection.heard is not None:
        age = min(age, connection.heard)
    return replace(session, unread=connection.unread > 0, state_age=age)


def _statement(version: int) -> bytes:
    """The look for a server version: 14 brought the counters."""
    others = "FILTER (WHERE datname IS DISTINCT FROM current_database())"
    return LOOK.format(
        sessions="sum(sessions)::bigint" if version >= 140000 else "sum(NULL::bigint)",
        active_time=f"coalesce(sum(active_time) {others}, 0)" if version >= 140000 else "sum(NULL::float8)",
    ).encode()


def _line(error: Exception) -> str:
    """What went wrong, in one line; libpq writes several."""
    return " ".join(str(error).split()) or type(error).__name__

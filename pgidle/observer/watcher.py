"""Looks at a running Postgres: SQL first, then /proc, into one Snapshot.

The order of reading makes races err towards activity: within the statement the counters come before the sessions (a
session that starts in between shows in this look, its step of the counter in the next), and sockets and processes come
after both (a client that is becoming a session meanwhile shows as connecting; it cannot be missing from both).
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.types.json import set_json_loads

from pgidle.idle.snapshot import Checkpoint, Counters, LookFailed, Session, Slot, Snapshot
from pgidle.observer import look_query
from pgidle.observer.connecting import ConnectingClients
from pgidle.observer.port_connections import plain
from pgidle.observer.results import Checkpointed
from pgidle.observer.watch_connection import GRACE, STATEMENT_TIMEOUT, WatchConnection, WatchError, one_line
from pgidle.postgres.free_space import room_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from pgidle.idle.snapshot import Received
    from pgidle.observer.port_connections import Connection
    from pgidle.observer.watch_connection import Watching

T = TypeVar("T")
SECOND = 1_000_000
"""Microseconds."""

CHECKPOINT_TURN, CHECKPOINT_PAUSE = 3.0, 0.5
"""Seconds for which to wait for a checkpoint at a time, and between two times. It continues in between, while we are
disconnected: CREATE and DROP DATABASE wait only 5 s for us to leave."""

FAILED = psycopg.errors.InternalError_
"""How the server reports a checkpoint that was begun and failed (RequestCheckpoint in checkpointer.c), whatever the
language of its messages."""


class Watcher:
    """Looks at one postmaster. All methods belong to one asyncio loop; calls wait for each other.

    `socket_dir` and `port` name its Unix socket, `pid` is its process; `users` are tried in turn. `conninfo` (setting
    `watch`) replaces these, except port and pid. `addresses` are those on which Postgres listens.
    `knows_role`: an earlier look found the role that is preferred to `users`; `on_role` is called when that changes.
    `wants_received`: whether looks shall tell what each connection has received, which costs a walk of the kernel's
    table of sockets.
    """

    def __init__(
        self,
        socket_dir: str,
        port: int,
        pid: int,
        users: Sequence[str],
        conninfo: str | None = None,
        addresses: tuple[str, ...] = (),
        *,
        knows_role: bool = False,
        on_role: Callable[[bool], None] = lambda _: None,
        wants_received: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lock = asyncio.Lock()
        self._watching: Watching | None = None
        self._statement = b""
        self._pid = pid
        self._arrivals = ConnectingClients(pid, port, addresses=addresses)
        self._checkpoints = 0
        self._knows_role = knows_role
        self._on_role = on_role
        self._wants_received = wants_received
        self._connection = WatchConnection(
            socket_dir,
            port,
            users,
            conninfo,
            pid,
            self._arrivals.is_ours,
            knows_role=knows_role,
        )

    async def look(self, deadline: float, *, may_connect: bool = True) -> Snapshot | LookFailed:
        """One look, within `deadline` seconds. A failure closes the connection; the next look opens another. While the
        gate is shut a new connection would be parked like any client's: then `may_connect` is False."""
        try:
            if self._watching is None and not may_connect:
                return LookFailed("the watching connection was lost")
            return await self._within(deadline, self._look)
        except WatchError as error:
            return LookFailed(str(error))

    async def checkpoint(self, timeout: float) -> Checkpointed:  # noqa: ASYNC109
        """Run a CHECKPOINT, for at most `timeout` seconds."""
        until = time.monotonic() + timeout
        turn = min(timeout, CHECKPOINT_TURN)
        try:
            while not await self._within(turn + GRACE, partial(self._checkpoint, turn)):
                if time.monotonic() + CHECKPOINT_PAUSE + turn > until:
                    return Checkpointed(f"timed out after {timeout:g} s")
                await asyncio.sleep(CHECKPOINT_PAUSE)
        except WatchError as error:
            return Checkpointed(str(error), is_impossible=isinstance(error.__cause__, FAILED))
        return Checkpointed(None)

    async def close(self) -> None:
        """Disconnect. A later look connects again."""
        self._watching = None
        await self._connection.close()

    async def end(self) -> None:
        """Disconnect for good."""
        self._watching = None
        await self._connection.end()

    async def _within(self, seconds: float, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work` within a time limit, one at a time. Raises WatchError."""
        async with self._lock:
            task = asyncio.create_task(work())
            # Otherwise asyncio complains if we are cancelled twice before the task has ended.
            task.add_done_callback(_take_exception)
            try:
                await asyncio.wait({task}, timeout=seconds)
                if task.done():
                    return task.result()
            except (psycopg.Error, OSError, ValueError) as error:
                await self.close()
                raise WatchError(one_line(error)) from error
            finally:
                if not task.done():
                    await self._give_up(task)
        raise WatchError(f"Postgres did not answer within {seconds:g} s")

    async def _give_up(self, task: asyncio.Task[Any]) -> None:
        """Abort the task. Cancelling its query would wait for the very server that does not answer."""
        if not self._connection.abandon():
            task.cancel()
        await asyncio.wait({task}, timeout=GRACE)
        if not task.done():
            task.cancel()
        await self.close()

    async def _connected(self) -> Watching:
        if self._watching is None:
            major = _major(self._pid)
            watching = await self._connection.open(major)
            set_json_loads(_read_json, watching.connection)
            self._statement = look_query.look(major, counts_itself=watching.counts_itself)
            self._watching = watching
        return self._watching

    async def _look(self) -> Snapshot:
        watching = await self._connected()
        received = self._arrivals.received() if self._wants_received() else {}
        row = await (await watching.connection.execute(self._statement)).fetchone()
        if row is None:
            raise WatchError("the look returned no row")
        seen: dict[str, Any] = row[0]
        if not seen["sees_all"]:
            role = seen["role"]
            raise WatchError(f'role "{role}" may not see other sessions: GRANT pg_monitor TO "{role}"')
        self._connection.learn(
            has_postgres=seen["has_postgres"],
            has_role=seen["has_role"],
            free_walsenders=seen["free_walsenders"],
        )
        if self._connection.has_role is not self._knows_role:
            self._knows_role = self._connection.has_role
            self._on_role(self._knows_role)
        self._arrivals.patience = seen["authentication_timeout"] / SECOND
        sessions = tuple(_session(values, seen["now"]) for values in seen["sessions"])
        arrived = self._arrivals.connecting(sessions)
        sessions = tuple(_heard_of(one, self._arrivals.there, received) for one in sessions)
        return Snapshot(
            at=time.monotonic(),
            server_version=watching.connection.info.server_version,
            sessions=tuple(session for session in sessions if session.pid != seen["pid"]),
            counters=self._counters(seen["counters"], watching),
            connecting=arrived,
            prepared_transactions=seen["prepared"],
            in_recovery=seen["in_recovery"],
            slots=tuple(Slot(**values) for values in seen["slots"] or ()),
            room=room_of(self._pid),
            checkpoint=self._last_checkpoint(seen["checkpoint"]),
            started=seen["started"],
            exclusive_backup=seen["exclusive_backup"],
            watched_as=seen["role"],
            refusal=self._connection.refusal if seen["has_role"] else None,
        )

    def _counters(self, values: Mapping[str, Any], watching: Watching) -> Counters | None:
        """The counters without our own sessions."""
        if values["sessions"] is None:
            return None
        counted = Counters(**values, left_out=watching.database)
        return replace(counted, sessions=counted.sessions - self._connection.sessions)

    def _last_checkpoint(self, values: Mapping[str, Any]) -> Checkpoint:
        seen = Checkpoint(**values)
        return replace(seen, requested=seen.requested - self._checkpoints)

    async def _checkpoint(self, seconds: float) -> bool:
        """Whether a checkpoint completes within `seconds`; if not, the connection is closed."""
        connection = (await self._connected()).connection
        await connection.execute(look_query.set_statement_timeout(seconds))
        try:
            await connection.execute(b"CHECKPOINT")
            self._checkpoints += 1
        except psycopg.errors.InsufficientPrivilege as error:
            # A role that may only watch. The connection is still usable, and the last look needs it.
            raise WatchError(one_line(error)) from error
        except psycopg.errors.QueryCanceled:
            self._checkpoints += 1  # The server counts requests, not those that were waited for.
            await self.close()
            return False
        await connection.execute(look_query.set_statement_timeout(STATEMENT_TIMEOUT))
        return True


def _take_exception(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _session(values: Mapping[str, Any], now: int) -> Session:
    """One row; `now` is the server's clock. A walsender's own state tells whether it takes a base backup."""
    since = values["state_change"]
    return Session(
        **values,
        state_age=None if since is None else (now - since) / SECOND,
        base_backup=values["walsender_state"] == "backup",
    )


def _major(postmaster: int) -> int:
    """PostgreSQL's major version, from the data directory, which is the postmaster's working directory
    (ChangeToDataDir in miscinit.c). Raises OSError where the postmaster is gone."""
    with open(f"/proc/{postmaster}/cwd/PG_VERSION", encoding="ascii") as file:
        return int(file.read())


def _read_json(text: str | bytes) -> Any:
    """A role's name is in the encoding of the database it was created in, whichever database it is read from."""
    return json.loads(text if isinstance(text, str) else text.decode(errors="replace"))


def _heard_of(
    session: Session,
    there: Mapping[tuple[str, int], Connection],
    before: Mapping[tuple[str, int], Received | None],
) -> Session:
    """The session, corrected by the kernel if idle: it may be in the middle of receiving its next statement. `before`:
    what each connection had received before the sessions were read."""
    end = plain(session.client_addr or ""), session.client_port or 0
    connection = there.get(end)
    if connection is None or session.state != "idle":
        return session
    age = session.state_age
    if age is not None and connection.heard is not None:
        age = min(age, connection.heard)
    earlier, later = before.get(end), connection.received
    received = (earlier, later) if earlier and later else None
    return replace(session, unread=connection.unread > 0, state_age=age, received=received)

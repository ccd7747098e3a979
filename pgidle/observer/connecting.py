"""Connected clients that pg_stat_activity does not show: not accepted yet, sending garbage, or authenticating.

They leave two traces: an established connection on the port whose far end belongs to no session, and a process of the
postmaster that belongs to no session. The second reveals clients of the Unix socket too. Not every such process is a
client's: the logger has no row, nor do extensions' workers without a database. A client's process is recognised by its
title: the postmaster's own until the first packet has been read, then `postgres: app orders 10.0.0.3(40112)
authentication`. Postgres disconnects a client that has not authenticated within authentication_timeout, so anything
older is something else, such as another server's connection on the same port of another address.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from pgidle.idle.snapshot import Connecting
from pgidle.observer.port_connections import plain, scan
from pgidle.postgres.postmaster import children_of, title_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgidle.idle.snapshot import Peer, Received, Session
    from pgidle.observer.port_connections import Connection

CLIENT_TITLE = re.compile(r"(?!postgres: )|postgres: .*(\[local\]|\(\d+\))( |$)")

# Seconds added to authentication_timeout.
MARGIN = 5.0


class ConnectingClients:
    """Watches one postmaster's process and port. `patience` is its authentication_timeout in seconds.

    `addresses`: the local addresses on which this Postgres has the port; empty for all.
    """

    def __init__(
        self,
        pid: int,
        port: int,
        patience: float = 60.0,
        addresses: tuple[str, ...] = (),
    ) -> None:
        self.patience = patience
        self._pid = pid
        self._addresses = addresses
        self._port = port
        self._since: dict[Peer | int, float] = {}
        self.there: dict[tuple[str, int], Connection] = {}
        """All connections at the last look, by their far end."""

    def connecting(self, sessions: Sequence[Session]) -> Connecting:
        """The clients that are connecting, given the sessions, read before. Raises OSError if /proc cannot be read."""
        now = time.monotonic()
        ends = {(plain(s.client_addr), s.client_port) for s in sessions if s.client_addr}
        there = scan(self._port, self._addresses).connections
        self.there = {(c.peer.address, c.peer.port): c for c in there}
        strange = [c for c in there if (c.peer.address, c.peer.port) not in ends]
        pids = {session.pid for session in sessions}
        clients = [pid for pid in _children(self._pid) if pid not in pids and _is_client(pid)]
        self._remember([*(c.peer for c in strange), *clients], now)
        return Connecting(
            tuple(c.peer for c in strange if c.inode == 0 or self._is_young(c.peer, now)),
            sum(self._is_young(pid, now) for pid in clients),
        )

    def received(self) -> dict[tuple[str, int], Received | None]:
        """What each connection has received by now, by its far end. Raises OSError."""
        there = scan(self._port, self._addresses).connections
        return {(one.peer.address, one.peer.port): one.received for one in there}

    def is_ours(self, backend: int) -> bool:
        """Whether a backend belongs to this postmaster, and not to another server."""
        return backend in _children(self._pid)

    def _remember(self, seen: Iterable[Peer | int], now: float) -> None:
        self._since = {one: self._since.get(one, now) for one in seen}

    def _is_young(self, one: Peer | int, now: float) -> bool:
        return now - self._since[one] < self.patience + MARGIN


def _children(pid: int) -> list[int]:
    """The processes of a postmaster, none if it is gone. Raises OSError."""
    try:
        return children_of(pid)
    except FileNotFoundError:
        import psutil

        return [child.pid for child in psutil.Process(pid).children()]


def _is_client(pid: int) -> bool:
    """Whether a process without a session looks like a client's. One that has exited has no title."""
    title = title_of(pid).decode("utf-8", "replace")
    return bool(title) and bool(CLIENT_TITLE.match(title))

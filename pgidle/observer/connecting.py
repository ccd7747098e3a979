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
from collections import Counter
from dataclasses import replace
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
        """All connections at the last look, by their far end; where several share one, see `_together`."""

    def connecting(self, sessions: Sequence[Session]) -> Connecting:
        """The clients that are connecting, given the sessions, read before. Raises OSError if /proc cannot be read."""
        now = time.monotonic()
        ends = Counter((plain(s.client_addr), s.client_port or 0) for s in sessions if s.client_addr)
        by_end = _by_end(scan(self._port, self._addresses).connections)
        self.there = {end: _together(them, ends[end]) for end, them in by_end.items()}
        # Those that are not accepted yet come first.
        strange = [c for end, them in by_end.items() for c in them[: max(0, len(them) - ends[end])]]
        pids = {session.pid for session in sessions}
        clients = [pid for pid in _children(self._pid) if pid not in pids and _is_client(pid)]
        self._remember([*(c.peer for c in strange), *clients], now)
        return Connecting(
            tuple(c.peer for c in strange if c.inode == 0 or self._is_young(c.peer, now)),
            sum(self._is_young(pid, now) for pid in clients),
        )

    def received(self) -> dict[tuple[str, int], Received | None]:
        """What each connection has received by now, by its far end. Raises OSError."""
        by_end = _by_end(scan(self._port, self._addresses).connections)
        return {end: _together(them).received for end, them in by_end.items()}

    def is_ours(self, backend: int) -> bool:
        """Whether a backend belongs to this postmaster, and not to another server."""
        return backend in _children(self._pid)

    def _remember(self, seen: Iterable[Peer | int], now: float) -> None:
        self._since = {one: self._since.get(one, now) for one in seen}

    def _is_young(self, one: Peer | int, now: float) -> bool:
        return now - self._since[one] < self.patience + MARGIN


def _by_end(connections: Iterable[Connection]) -> dict[tuple[str, int], list[Connection]]:
    """Connections by their far end, which may be connected to several addresses of the server; those that are not
    accepted yet come first."""
    found: dict[tuple[str, int], list[Connection]] = {}
    for one in sorted(connections, key=lambda one: one.inode):
        found.setdefault((one.peer.address, one.peer.port), []).append(one)
    return found


def _together(them: Sequence[Connection], sessions: int = 1) -> Connection:
    """The connections of one far end as one: which belongs to which of its `sessions` is not known, so anything that is
    true of one of them is true of all, and what was received is not known."""
    if len(them) == 1 and sessions <= 1:
        return them[0]
    heard = min((one.heard for one in them if one.heard is not None), default=None)
    return replace(them[0], unread=sum(one.unread for one in them), heard=heard, received=None)


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

"""Clients of a postmaster that shares the gate's listeners (sharing.py)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg

from harness.installations import conninfo
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack

    from psycopg.abc import ConnParam

    from harness.sharing import Sharer


class Visitor(threading.Thread):
    """One connection, made by a thread: it may have to wait."""

    def __init__(self, sharer: Sharer, host: str = "127.0.0.1", **more: ConnParam) -> None:
        super().__init__(daemon=True)
        self.met: object = None
        self._where = conninfo(sharer.port, host=host, connect_timeout=30, **more)
        self.start()

    def run(self) -> None:
        try:
            with psycopg.connect(self._where) as connection:
                row = connection.execute("SELECT pg_backend_pid()").fetchone()
                self.met = row and row[0]
        except psycopg.Error as error:
            self.met = str(error)

    @property
    def is_served(self) -> bool:
        self.join(30)
        return isinstance(self.met, int)


def hosts(sharer: Sharer) -> list[str]:
    return ["127.0.0.1", str(sharer.socket_dir)]


def come(sharer: Sharer, each: int = 2) -> list[Visitor]:
    """Visitors of both kinds, all of them parked."""
    before = sharer.do("look")["parked"]
    visitors = [Visitor(sharer, host) for host in hosts(sharer) for _ in range(each)]
    wait_until(lambda: sharer.do("look")["parked"] == before + len(visitors), lambda: str(visitors[0].met))
    return visitors


def session(sharer: Sharer, stack: ExitStack, **more: ConnParam) -> psycopg.Connection[Any]:
    where = conninfo(sharer.port, host=str(sharer.socket_dir), connect_timeout=30, **more)
    return stack.enter_context(psycopg.connect(where, autocommit=True))

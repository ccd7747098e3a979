"""The peers side by side: every row has a cell for each peer that is installed."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING

import psycopg

from bench import wire
from bench.peers import PEERS, Bare, Peer
from bench.processes import cpu_percent, memory
from bench.report import Cell, Line
from bench.visitors import Visitors
from harness.installations import conninfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measures import Bench, Pairs

MS = 1000.0
WHO = "SELECT host(client_addr) FROM pg_stat_activity WHERE pid = pg_backend_pid()"
ELSEWHERE = "127.0.0.2"
"""An address that only a client has."""
TOLD = ", proxy told"
"""A line for those that can be told of each stop and start, beside the line of those that are not."""


ORDER = (
    *("who", "client_addr", "failed", "longest", "pgbench", "COPY", "cold", "wake"),
    *("memory awake", "memory asleep", "CPU awake", "CPU asleep"),
)
"""How the names of the lines begin, in the order in which they are shown."""


def _place(line: Line) -> int:
    return next(place for place, begins in enumerate(ORDER) if line.name.startswith(begins))


class Comparison:
    """`skipped` says of each peer that is not installed why it is left out."""

    def __init__(self, bench: Bench, peers: Sequence[type[Peer]] = PEERS) -> None:
        self._bench, self._effort = bench, bench.effort
        self.skipped = {one.name: why for one in peers if (why := one.missing())}
        self._peers = [one for one in peers if one.name not in self.skipped]
        self._lines: dict[str, Line] = {}

    def lines(self) -> list[Line]:
        for kind in self._peers:
            self._bench.say(f"peers: {kind.name}")
            self._put("who stops and starts Postgres", "", kind, Cell((), text=kind.by))
            if kind is not Bare:
                for name, (mine, theirs) in self._bench.rates(kind).items():
                    self._put(f"{name}, of bare", "ratio", kind, Cell(mine, theirs))
                self._timed("cold start, exec to first row", kind, self._bench.colds(kind))
                self._timed("wake, connect to first row", kind, self._bench.wakes(kind))
                if kind.can_be_told:
                    self._timed(f"wake, connect to first row{TOLD}", kind, self._bench.wakes(kind, told=True))
            self._at_rest(kind)
            for told in (False, True) if kind.can_be_told else (False,):
                self._cycles(kind, told=told)
        return sorted(self._lines.values(), key=_place)

    def _put(self, name: str, unit: str, kind: type[Peer], cell: Cell) -> None:
        line = self._lines.setdefault(name, Line(name, unit, {}))
        line.cells[kind.name] = cell

    def _timed(self, name: str, kind: type[Peer], pairs: Pairs) -> None:
        mine, theirs = pairs
        self._put(name, "ms", kind, Cell(mine, theirs))
        cells = self._lines[name].cells
        if TOLD not in name:
            # Each peer's runs have bare Postgres's between them.
            before = cells[Bare.name].values if Bare.name in cells else ()
            cells[Bare.name] = Cell([*before, *theirs])

    def _at_rest(self, kind: type[Peer]) -> None:
        with kind(self._bench.setting()) as peer:
            peer.settle()
            kept = wire.ask(peer.port, WHO, ELSEWHERE) == ELSEWHERE
            self._put("client_addr", "", kind, Cell((), text="kept" if kept else "lost"))
            # With one client that does nothing: without any, some are asleep.
            with contextlib.closing(psycopg.connect(conninfo(peer.port))):
                self._footprint("awake", kind, peer)
            peer.sleep()
            peer.rest()
            self._footprint("asleep", kind, peer)

    def _footprint(self, when: str, kind: type[Peer], peer: Peer) -> None:
        """Of the processes that are there besides Postgres."""
        # What it does because of the change, the start of a process even, is not what it takes at rest.
        time.sleep(self._effort.awake_seconds)
        own = peer.pids()
        rss, pss = sum(memory(pid).rss for pid in own), sum(memory(pid).pss for pid in own)
        self._put(f"memory {when}: RSS", "MB", kind, Cell([rss]))
        self._put(f"memory {when}: PSS", "MB", kind, Cell([pss]))
        busy = cpu_percent(own, self._effort.idle_seconds) if own else ()
        self._put(f"CPU {when} and idle", "%", kind, Cell([sum(busy)]))

    def _cycles(self, kind: type[Peer], *, told: bool) -> None:
        """Postgres is stopped and started so many times while clients connect at random instants."""
        chance = random.Random(1)
        with kind(self._bench.setting(), told=told) as peer:
            peer.settle()
            with Visitors(peer.port) as visitors:
                for _ in range(self._effort.cycles):
                    time.sleep(chance.uniform(0.05, 0.25))
                    peer.sleep()
                    visitors.came.clear()
                    visitors.came.wait(wire.PATIENCE)
                    peer.wake()
                # Whoever came in the last instant is to be served, too.
                time.sleep(0.2)
        tail = TOLD if told else ""
        failed = f"failed of 1000 connections, {self._effort.cycles} stops and starts"
        counts = {"connections": visitors.tried, **dict(visitors.failed.most_common())}
        rate = visitors.failed.total() / visitors.tried * 1000
        self._put(f"{failed}{tail}", "", kind, Cell([rate], counts=counts))
        self._put(f"longest wait meanwhile{tail}", "ms", kind, Cell([visitors.longest * MS]))

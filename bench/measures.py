"""What is measured of pgidle, each on one data directory, with bare Postgres and pgidle taking turns."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from bench import wire
from bench.peers import Bare, Peer, Pgidle, Setting
from bench.processes import cpu_percent, cpu_seconds, memory, observers
from bench.report import Row
from bench.servers import SETTINGS, Installed
from harness.installations import debian

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.installations import Installation, Place

MS = 1000.0
CROWD = 500
CROWDED = tuple("max_connections=600" if one.startswith("max_conn") else one for one in SETTINGS)
MANY = 4096
"""As many as net.core.somaxconn lets wait, where nobody has set it."""
MULTITUDE = tuple("max_connections=4200" if one.startswith("max_conn") else one for one in SETTINGS)
FILL = """
CREATE UNLOGGED TABLE copied AS
    SELECT repeat('nobody there ', 76) || lpad(one::text, 11, '0') AS line FROM generate_series(1, {rows}) AS one;
SELECT 1
"""
"""Rows of a thousand bytes each, end of line included."""

Pairs = tuple[list[float], list[float]]
"""Run by run: the one that is measured, and bare Postgres right before it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How many pairs of each, and how many seconds."""

    load_starts: int = 4
    loads: int = 5
    load_seconds: int = 1
    """Of pgbench, whole ones; 0: no pgbench."""
    wakes: int = 20
    crowds: int = 5
    awake_seconds: float = 10.0
    idle_seconds: float = 20.0
    scale: int = 5
    copied: int = 300_000
    cycles: int = 100
    """Stops and starts of each peer's Postgres under load."""
    visits: int = 10_000
    pool_seconds: float = 90.0
    pgbench_seconds: int = 180


QUICK = Effort(
    load_starts=1, loads=2, wakes=3, crowds=1, awake_seconds=1.0, idle_seconds=1.0, scale=1, copied=30_000,
    cycles=5, visits=1000, pool_seconds=15.0, pgbench_seconds=10,
)  # fmt: skip


class Bench:
    """The measurements of one PostgreSQL installation. What peers are compared by too is measured once."""

    def __init__(
        self,
        installation: Installation,
        place: Place,
        program: Path,
        effort: Effort,
        say: Callable[[str], None],
        settings: tuple[str, ...] = SETTINGS,
    ) -> None:
        self.installation, self.place, self.effort, self.say = installation, place, effort, say
        self._program, self._settings = program, settings
        self._data_dir = place.data_dir(installation)
        with (self._data_dir / "pg_hba.conf").open("a") as rules:
            # Every loopback address: clients of an address of their own show whether it is kept.
            rules.write("host all all 127.0.0.0/8 trust\n")
        self._rates: dict[type[Peer], dict[str, Pairs]] = {}
        self._colds: dict[type[Peer], Pairs] = {}
        self._wakes: dict[tuple[type[Peer], bool], Pairs] = {}

    def setting(self, data_dir: Path | None = None, settings: tuple[str, ...] | None = None) -> Setting:
        return Setting(
            self.installation,
            self.place,
            self._program,
            data_dir or self._data_dir,
            settings or self._settings,
        )

    def throughput(self) -> Iterator[Row]:
        """Reads by pgbench (without it none), and a COPY."""
        for name, (mine, theirs) in self.rates(Pgidle).items():
            unit = "MB/s" if name.startswith("COPY") else "tps"
            yield Row(name, unit, mine, theirs, 0.97, floor=True)

    def rates(self, kind: type[Peer]) -> dict[str, Pairs]:
        """Through the port that clients connect to.

        Both run, on copies of one data directory, and have their turns of a second or so right after each other:
        other load on the machine changes from one second to the next. Each start swaps the copies.
        """
        found = self._rates.setdefault(kind, {})
        if found:
            return found
        loads = dict(self._loads())
        for start in range(self.effort.load_starts):
            there = self._filled[start % 2], self._filled[1 - start % 2]
            with Bare(self.setting(there[0])) as bare, kind(self.setting(there[1])) as peer:
                for one in (bare, peer):
                    one.settle()
                    wire.copy_out(one.port, "copied")
                    if self.pgbench:
                        wire.ask(one.port, "SELECT count(*) FROM pgbench_accounts")
                for name, rate in loads.items():
                    mine, theirs = found.setdefault(name, ([], []))
                    for _ in range(self.effort.loads):
                        theirs.append(rate(bare.port))
                        mine.append(rate(peer.port))
        return found

    def cold_wake(self) -> Iterator[Row]:
        yield Row("cold wake, exec to first row", "ms", *self.colds(Pgidle), 2.5)

    def colds(self, kind: type[Peer]) -> Pairs:
        """From exec to the first row that a client gets, which tries to connect all the while."""
        found = self._colds.setdefault(kind, ([], []))
        if found[0]:
            return found
        mine, theirs = found
        # The first of each only warms the caches.
        for _ in range(self.effort.wakes + 1):
            for values, one in ((theirs, Bare(self.setting())), (mine, kind.cold(self.setting()))):
                began = time.perf_counter()
                with one:
                    one.first_row()
                    values.append((time.perf_counter() - began) * MS)
        del mine[0], theirs[0]
        return found

    def wakes(self, kind: type[Peer], *, told: bool = False) -> Pairs:
        """From connect to the first row, of a client that tries again when it fails; bare Postgres starts for it."""
        found = self._wakes.setdefault((kind, told), ([], []))
        if found[0]:
            return found
        mine, theirs = found
        with kind(self.setting(), told=told) as peer:
            peer.settle()
            for _ in range(self.effort.wakes + 1):
                peer.sleep()
                # The data directory is free while the peer is asleep.
                began = time.perf_counter()
                with Bare(self.setting()) as bare:
                    bare.first_row()
                    theirs.append((time.perf_counter() - began) * MS)
                began = time.perf_counter()
                with peer.being_woken():
                    peer.first_row()
                    mine.append((time.perf_counter() - began) * MS)
        del mine[0], theirs[0]
        return found

    def _wakes_by_socket(self) -> Pairs:
        """The same of a client of this machine's; bare Postgres has no socket before it starts."""
        mine, theirs = [], []
        with self.staying() as pgidle:
            pgidle.settle()
            for _ in range(self.effort.wakes + 1):
                pgidle.sleep()
                began = time.perf_counter()
                with Bare(self.setting()).postgres as bare:
                    bare.first_row(bare.socket)
                    theirs.append((time.perf_counter() - began) * MS)
                began = time.perf_counter()
                failed = pgidle.first_row(pgidle.socket)
                mine.append((time.perf_counter() - began) * MS)
                if failed:
                    raise SystemExit(f"bench: a sleeping pgidle refused {failed} clients of its Unix socket")
        return mine[1:], theirs[1:]

    def stay(self) -> Iterator[Row]:
        """One supervisor that stays: what it takes awake and asleep, how it wakes and sleeps, what it grows to."""
        effort = self.effort
        yield Row("wake of one that stays, connect to first row", "ms", *self.wakes(Pgidle), 1.2)
        yield Row("  over the Unix socket", "ms", *self._wakes_by_socket(), 1.2)
        with self.staying() as pgidle:
            pgidle.settle()
            started = sum(map(cpu_seconds, (pgidle.pid, *observers(pgidle.pid))))
            time.sleep(effort.awake_seconds)
            both = (pgidle.pid, *observers(pgidle.pid))
            awake = sum(cpu_percent(both, effort.idle_seconds))
            private = sum(memory(pid).private for pid in both)
            young = memory(pgidle.pid)
            pgidle.sleep()
            # It stays for a minute after an order.
            while observers(pgidle.pid):
                time.sleep(0.5)
            sleeping = memory(pgidle.pid)
            asleep = sum(cpu_percent((pgidle.pid,), effort.idle_seconds))
            sleeps = []
            for _ in range(effort.wakes):
                pgidle.first_row()
                sleeps.append(pgidle.sleep())
            pgidle.first_row()
            old = memory(pgidle.pid)
        yield Row("sleep, drowsy to asleep", "ms", [by_log for by_log, _ in sleeps])
        yield Row("sleep, order to asleep", "ms", [whole for _, whole in sleeps])
        seconds = effort.awake_seconds + effort.idle_seconds
        for when, taken in ((f"{seconds:g} s awake", young), (f"{effort.wakes} sleeps", old)):
            yield Row(f"supervisor's memory after {when}: RSS", "MB", [taken.rss], (), 15)
            yield Row("  PSS", "MB", [taken.pss])
            yield Row("  of it anonymous", "MB", [taken.anonymous])
        yield Row("CPU from exec until it watches", "ms", [started * MS])
        yield Row("memory awake, both processes: private", "MB", [private], (), 26)
        yield Row("memory asleep: RSS", "MB", [sleeping.rss], (), 13)
        yield Row("  private", "MB", [sleeping.private], (), 6)
        yield Row("CPU awake and idle, both processes", "%", [awake], (), 0.05)
        yield Row("CPU asleep", "%", [asleep], (), 0.01)

    def crowds(self) -> Iterator[Row]:
        """Many clients at once: on a sleeping pgidle, that wakes for them, and on a bare Postgres that runs."""
        theirs, mine, failed = [], [], 0
        with self.staying(CROWDED) as pgidle:
            pgidle.first_row()
            for _ in range(self.effort.crowds):
                pgidle.sleep()
                with Bare(self.setting(settings=CROWDED)) as bare:
                    bare.first_row()
                    theirs.append(wire.crowd(bare.port, CROWD)[0] * MS)
                served, unserved = wire.crowd(pgidle.port, CROWD)
                mine.append(served * MS)
                failed += unserved
        yield Row(f"{CROWD} clients served: asleep, bare running", "ms", mine, theirs)
        whole = CROWD * self.effort.crowds
        yield Row(f"  of {whole} not served", "", [float(failed)], (), 0, is_promise=True)
        with self.staying(MULTITUDE) as pgidle:
            pgidle.first_row()
            pgidle.sleep()
            served, unserved = wire.crowd(pgidle.port, MANY)
        yield Row(f"{MANY} clients served, asleep before", "ms", [served * MS])
        yield Row(f"  of {MANY} not served", "", [float(unserved)], (), 0, is_promise=True)

    def staying(self, settings: tuple[str, ...] | None = None, **options: str) -> Installed:
        return Pgidle(self.setting(settings=settings), told=False, **options).server

    @cached_property
    def gate(self) -> str:
        """The mode that pgidle finds."""
        with self.staying() as pgidle:
            mode: str = pgidle.wait_for_state("starting", since=0).data["gate"]
            pgidle.first_row()
        return mode

    @cached_property
    def pgbench(self) -> str | None:
        places = [one.bin_dir for one in (self.installation, debian()) if one is not None]
        path = os.pathsep.join([*map(str, places), os.environ.get("PATH", "")])
        return shutil.which("pgbench", path=path)

    @cached_property
    def _filled(self) -> tuple[Path, Path]:
        """Two equal data directories with something to read in them."""
        first, second = self.place.folder(), self.place.folder()
        subprocess.run(["cp", "-a", f"{self._data_dir}/.", first], check=True)
        with Bare(self.setting(first)) as bare:
            bare.first_row()
            if self.pgbench:
                self.run_pgbench(bare.port, "-i", "-q", "-s", str(self.effort.scale))
            wire.ask(bare.port, FILL.format(rows=self.effort.copied))
        subprocess.run(["cp", "-a", f"{first}/.", second], check=True)
        return first, second

    def _loads(self) -> Iterator[tuple[str, Callable[[int], float]]]:
        for clients in (1, 8) if self.pgbench and self.effort.load_seconds else ():
            yield f"pgbench -S, {clients} client{'s' * (clients > 1)}", partial(self._tps, clients, ())
        if self.pgbench and self.effort.load_seconds:
            yield "pgbench -S -C, 8 clients", partial(self._tps, 8, ("-C",))
        yield f"COPY of {self.effort.copied // 1000} MB to the client", _copied

    def _tps(self, clients: int, options: tuple[str, ...], port: int) -> float:
        threads = str(min(clients, os.cpu_count() or 1))
        seconds = str(self.effort.load_seconds)
        says = self.run_pgbench(port, "-n", "-T", seconds, "-S", *options, "-c", str(clients), "-j", threads)
        found = re.search(r"tps = ([\d.]+) \((without|including)", says)
        if found is None:
            raise SystemExit(f"bench: pgbench says no rate: {says}")
        return float(found[1])

    def run_pgbench(self, port: int, *options: str) -> str:
        """What it prints; SystemExit if it fails."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        assert self.pgbench
        done = subprocess.run(
            [self.pgbench, "-h", wire.HOST, "-p", str(port), "-U", "postgres", *options, "postgres"],
            capture_output=True, text=True, cwd="/", env=env, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"bench: pgbench: {done.stderr.strip()}")
        return done.stdout


def _copied(port: int) -> float:
    """MB/s of one COPY."""
    began = time.perf_counter()
    return wire.copy_out(port, "copied") / 1e6 / (time.perf_counter() - began)

"""What is measured, each on one data directory, with bare Postgres and pgidle taking turns."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import wire
from installations import debian
from processes import cpu_percent, cpu_seconds, memory
from report import Row
from servers import SETTINGS, Bare, Installed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from installations import Installation, Place

MS = 1000.0
CROWD = 500
CROWDED = tuple("max_connections=600" if one.startswith("max_conn") else one for one in SETTINGS)


@dataclass(frozen=True, slots=True)
class Effort:
    """How many pairs of each, and how many seconds."""

    load_starts: int = 4
    loads: int = 5
    load_seconds: int = 1
    wakes: int = 20
    crowds: int = 5
    awake_seconds: float = 10.0
    idle_seconds: float = 20.0
    scale: int = 5


QUICK = Effort(load_starts=1, loads=4, wakes=5, crowds=1, awake_seconds=3.0, idle_seconds=5.0, scale=1)


class Bench:
    """The measurements of one PostgreSQL installation. `gate` is the mode that pgidle found, once `stay` has run."""

    def __init__(self, installation: Installation, place: Place, program: Path, effort: Effort) -> None:
        self.gate = ""
        self._installation = installation
        self._place = place
        self._program = program
        self._effort = effort
        self._data_dir = place.data_dir(installation)

    def throughput(self) -> Iterator[Row]:
        """pgbench -S through the public port; without pgbench no rows.

        Both run, on copies of one data directory, and have their turns of a second or so right after each other:
        other load on the machine changes from one second to the next. Each start swaps the copies.
        """
        pgbench = self._pgbench()
        if pgbench is None:
            return
        with self._bare() as bare:
            bare.first_row()
            self._run(pgbench, bare.port, "-i", "-q", "-s", str(self._effort.scale))
        copies = [self._data_dir, self._place.folder()]
        subprocess.run(["cp", "-a", f"{copies[0]}/.", copies[1]], check=True)
        for clients in (1, 8):
            load = ("-S", "-c", str(clients), "-j", str(min(clients, os.cpu_count() or 1)))
            theirs, mine = [], []
            for start in range(self._effort.load_starts):
                with (
                    Bare(self._installation, copies[start % 2]) as bare,
                    Installed(
                        self._program,
                        self._installation,
                        self._place,
                        copies[1 - start % 2],
                        when_idle="stay",
                    ) as pgidle,
                ):
                    for server in (bare, pgidle):
                        server.settle()
                        wire.ask(server.port, "SELECT count(*) FROM pgbench_accounts")
                    for _ in range(self._effort.loads):
                        theirs.append(self._tps(pgbench, bare.port, load))
                        mine.append(self._tps(pgbench, pgidle.port, load))
            name = f"pgbench -S, {clients} client{'s' * (clients > 1)}"
            yield Row(name, "tps", mine, theirs, 0.97, floor=True)

    def cold_wake(self) -> Iterator[Row]:
        """From exec to the first row that a client gets, which tries to connect all the while."""
        theirs, mine = [], []
        # The first of each only warms the caches.
        for _ in range(self._effort.wakes + 1):
            began = time.perf_counter()
            with self._bare() as bare:
                bare.first_row()
                theirs.append((time.perf_counter() - began) * MS)
            began = time.perf_counter()
            with self._pgidle(log_format="text") as pgidle:
                pgidle.first_row()
                mine.append((time.perf_counter() - began) * MS)
                pgidle.stop()
        yield Row("cold wake, exec to first row", "ms", mine[1:], theirs[1:], 2.5)

    def stay(self) -> Iterator[Row]:
        """One supervisor that stays: what it takes awake and asleep, how it wakes and sleeps, what it grows to."""
        effort = self._effort
        with self._pgidle(when_idle="stay") as pgidle:
            watching = pgidle.settle()
            self.gate = pgidle.wait_for_state("starting", since=0).data["gate"]
            started = cpu_seconds(pgidle.pid)
            time.sleep(effort.awake_seconds)
            awake = cpu_percent((pgidle.pid, watching), effort.idle_seconds)
            young = memory(pgidle.pid)
            pgidle.sleep()
            asleep = cpu_percent((pgidle.pid,), effort.idle_seconds)
            theirs, mine, sleeps = [], [], []
            for _ in range(effort.wakes):
                # The data directory is free while pgidle is asleep.
                began = time.perf_counter()
                with self._bare() as bare:
                    bare.first_row()
                    theirs.append((time.perf_counter() - began) * MS)
                began = time.perf_counter()
                pgidle.first_row()
                mine.append((time.perf_counter() - began) * MS)
                sleeps.append(pgidle.sleep())
            pgidle.first_row()
            old = memory(pgidle.pid)
        yield Row("wake of one that stays, connect to first row", "ms", mine, theirs, 1.2)
        yield Row("sleep, drowsy to asleep", "ms", [by_log for by_log, _ in sleeps])
        yield Row("sleep, order to asleep", "ms", [whole for _, whole in sleeps])
        seconds = effort.awake_seconds + effort.idle_seconds
        for when, taken in ((f"{seconds:g} s awake", young), (f"{effort.wakes} sleeps", old)):
            yield Row(f"memory after {when}: RSS", "MB", [taken.rss], (), 45)
            yield Row("  PSS", "MB", [taken.pss])
            yield Row("  of it anonymous", "MB", [taken.anonymous])
        yield Row("CPU from exec until it watches", "ms", [started * MS])
        yield Row("CPU awake and idle: supervisor", "%", [awake[0]], (), 0.2)
        yield Row("  its backend in Postgres", "%", [awake[1]])
        yield Row("CPU asleep: supervisor", "%", [asleep[0]])

    def crowds(self) -> Iterator[Row]:
        """Many clients at once: on a sleeping pgidle, that wakes for them, and on a bare Postgres that runs."""
        theirs, mine, failed = [], [], 0
        with self._pgidle(CROWDED, when_idle="stay") as pgidle:
            pgidle.first_row()
            for _ in range(self._effort.crowds):
                pgidle.sleep()
                with self._bare(CROWDED) as bare:
                    bare.first_row()
                    theirs.append(wire.crowd(bare.port, CROWD)[0] * MS)
                served, unserved = wire.crowd(pgidle.port, CROWD)
                mine.append(served * MS)
                failed += unserved
        yield Row(f"{CROWD} clients served: asleep, bare running", "ms", mine, theirs)
        yield Row(f"  of {CROWD * self._effort.crowds} not served", "", [float(failed)], (), 0)

    def _bare(self, settings: tuple[str, ...] = SETTINGS) -> Bare:
        return Bare(self._installation, self._data_dir, settings)

    def _pgidle(self, settings: tuple[str, ...] = SETTINGS, **options: str) -> Installed:
        return Installed(self._program, self._installation, self._place, self._data_dir, settings, **options)

    def _pgbench(self) -> str | None:
        places = [one.bin_dir for one in (self._installation, debian()) if one is not None]
        path = os.pathsep.join([*map(str, places), os.environ.get("PATH", "")])
        return shutil.which("pgbench", path=path)

    def _tps(self, pgbench: str, port: int, load: tuple[str, ...]) -> float:
        says = self._run(pgbench, port, "-n", "-T", str(self._effort.load_seconds), *load)
        found = re.search(r"tps = ([\d.]+) \(without", says)
        if found is None:
            raise SystemExit(f"bench: pgbench says no rate: {says}")
        return float(found[1])

    def _run(self, pgbench: str, port: int, *options: str) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            [pgbench, "-h", wire.HOST, "-p", str(port), "-U", "postgres", *options, "postgres"],
            capture_output=True, text=True, cwd="/", env=env, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"bench: pgbench: {done.stderr.strip()}")
        return done.stdout

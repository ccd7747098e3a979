"""Load on one pgidle that keeps going to sleep: many clients, a pool, pgbench, and thousands of cycles."""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import wire
from bench.measures import CROWDED, MS
from bench.processes import memory
from bench.report import Row
from bench.visitors import Visitors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.measures import Bench
    from bench.servers import Installed

POOL = 100
CULPRIT = 'app "pool"'
FEW = 10
"""Cycles after which all that is made once is there."""


def visits(bench: Bench) -> Iterator[Row]:
    """Connections opened and closed, over as many sleeps as fit in between."""
    with bench.staying() as pgidle:
        pgidle.first_row()
        with Visitors(pgidle.port, workers=32, pause=0.1, lull=1.0) as visitors, Sleeper(pgidle, 0.01):
            while visitors.tried < bench.effort.visits:
                time.sleep(0.1)
        sleeps = pgidle.states.count("asleep")
    for why, count in visitors.failed.items():
        bench.say(f"{count} failed: {why}")
    yield Row("connections opened and closed", "", [float(visitors.tried)])
    yield Row("  sleeps meanwhile", "", [float(sleeps)], (), 1, floor=True, is_promise=True)
    yield Row("  failed", "", [float(visitors.failed.total())], (), 0, is_promise=True)
    yield Row("  longest wait", "ms", [visitors.longest * MS])


class Pool:
    """Connections that are all made again the moment they are cut."""

    def __init__(self, port: int, size: int) -> None:
        self.cuts = self.failed = 0
        self._port, self._selector = port, selectors.DefaultSelector()
        for _ in range(size):
            self._connect()

    def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                one, conversation = key.fileobj, key.data
                assert isinstance(one, socket.socket)
                try:
                    if key.events == selectors.EVENT_WRITE:
                        one.sendall(conversation.first)
                        self._selector.modify(one, selectors.EVENT_READ, conversation)
                    elif answer := conversation.received(one.recv(65536)):
                        one.sendall(answer)
                except (OSError, wire.RefusedError):
                    if conversation.value is None:
                        self.failed += 1
                    else:
                        self.cuts += 1
                    self._selector.unregister(one)
                    one.close()
                    self._connect()

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _connect(self) -> None:
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((wire.HOST, self._port))
        self._selector.register(one, selectors.EVENT_WRITE, wire.Conversation("SELECT 1", "pool"))


def pool(bench: Bench) -> Iterator[Row]:
    """A pool that wakes what has just gone to sleep, with the shortest of idle times."""
    seconds = bench.effort.pool_seconds
    with bench.staying(CROWDED, idle_timeout="1s") as pgidle:
        pgidle.first_row()
        clients = Pool(pgidle.port, POOL)
        clients.run(seconds)
        clients.close()
        sleeps = pgidle.states.count("asleep")
        named = [
            line
            for line in pgidle.lines
            if CULPRIT in line.data.get("reason", "") and "reconnects" in line.data["reason"]
        ]
    yield Row(f"sleeps in {seconds:g} s with a pool of {POOL} that reconnects", "", [float(sleeps)])
    yield Row("  sessions cut", "", [float(clients.cuts)])
    yield Row("  failed to reconnect", "", [float(clients.failed)], (), 0, is_promise=True)
    times = [float(len(named))]
    yield Row("  times that it was named and waited for", "", times, (), 1, floor=True, is_promise=True)


def pgbench(bench: Bench) -> Iterator[Row]:
    """pgbench -C, now and then a new connection for one transaction, and sleep in between; without pgbench no rows."""
    if bench.pgbench is None:
        return
    seconds = bench.effort.pgbench_seconds
    with bench.staying() as pgidle:
        pgidle.first_row()
        bench.run_pgbench(pgidle.port, "-i", "-q", "-s", "1")
        with Sleeper(pgidle, 0.2):
            load = ("-n", "-S", "-C", "-c", "4", "-j", "2", "-R", "20", "-T", str(seconds))
            says = bench.run_pgbench(pgidle.port, *load)
        sleeps = pgidle.states.count("asleep")
    done = re.search(r"actually processed: (\d+)", says)
    failed = re.search(r"failed transactions: (\d+)", says)
    if done is None or failed is None:
        raise SystemExit(f"bench: pgbench says no counts: {says}")
    yield Row(f"pgbench -C for {seconds} s: transactions", "", [float(done[1])])
    yield Row("  sleeps meanwhile", "", [float(sleeps)], (), 1, floor=True, is_promise=True)
    yield Row("  failed", "", [float(failed[1])], (), 0, is_promise=True)


class Sleeper:
    """Orders one to sleep again and again, after so many seconds, in a thread of its own."""

    def __init__(self, pgidle: Installed, pause: float) -> None:
        self._pause = pause
        self._pgidle, self._ending = pgidle, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._pause):
            # Refused while somebody is served.
            self._pgidle.order_sleep()


def cycles(bench: Bench, count: int) -> Iterator[Row]:
    """What the supervisor grows to over sleeps and wakes: compared with what it is after the first few."""
    grown: list[tuple[float, float, float]] = []
    with bench.staying() as pgidle:
        pgidle.settle()
        for cycle in range(1, count + 1):
            pgidle.sleep()
            pgidle.first_row()
            if cycle in (FEW, count) or cycle % max(count // 10, FEW) == 0:
                pgidle.settle()
                taken = memory(pgidle.pid)
                files = len(list(Path(f"/proc/{pgidle.pid}/fd").iterdir()))
                grown.append((taken.rss, taken.anonymous, float(files)))
                bench.say(
                    f"cycle {cycle}: RSS {taken.rss:.2f} MB, anonymous {taken.anonymous:.2f}, {files} files"
                )
    for place, (name, unit, most) in enumerate(
        (("memory: RSS", "MB", 1.05), ("memory: anonymous", "MB", 1.1), ("open files", "", 1.0))
    ):
        before, after = grown[0][place], grown[-1][place]
        yield Row(f"{name}, after {FEW} sleeps", unit, [before])
        yield Row(f"{name}, after {count} sleeps", unit, [after])
        yield Row(f"  {count} to {FEW} sleeps", "ratio", [after / before], (), most)

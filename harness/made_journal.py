"""A journal that no Postgres has lived through, for tests and measurements of what reads it.

    python -m harness.made_journal FOLDER [DAYS [EVENTS]]

makes the files of a state directory as the supervisor would have left them: by default a year of half a million events
up to now. The same arguments always give the same events, but for the time of day.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgidle.history.files import reduce_older
from pgidle.history.journal import JOURNAL, OLDER, SEGMENT_BYTES
from pgidle.settings.options import format_duration
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = 86400.0
CLIENTS = (
    ('app "web", user app, 10.0.0.3', "10.0.0.3"),
    ('app "worker", user app, fdaa:0:18:a7b::2', "fdaa:0:18:a7b::2"),
    ('app "psql", user postgres, Unix socket', "user postgres, Unix socket"),
    ('app "pgbouncer", user pool, 10.0.0.9', "10.0.0.9"),
    ('app "backup", user backup, 10.0.0.7', "10.0.0.7"),
)
TIMEOUT = 300.0


class _Life:
    """One Postgres, from sleep to sleep. `at` is Unix time."""

    def __init__(self, begin: float, pause: float, seed: int) -> None:
        """`pause`: seconds from one sleep to the next."""
        self.at = begin
        self._pause = pause
        self._rng = random.Random(seed)
        self._timeout = min(TIMEOUT, round(pause / 3))
        self._begin_run()

    def start(self) -> Iterator[dict[str, Any]]:
        yield self._started()
        yield self._line("woken", why="ready", cause="start", by=[], parked=0, wait=None, took=0.4)

    def be_awake(self) -> Iterator[dict[str, Any]]:
        """Until it is idle for long enough; now and then it crashes, and is awake again."""
        rng, timeout = self._rng, self._timeout
        self._last, _ = rng.choice(CLIENTS)
        if rng.random() < 0.3:
            idle, count = timeout * rng.uniform(0.05, 0.9), rng.randint(1, 2)
            self.at += idle * count
            yield self._line("use", idle=round(idle, 3), count=count, by=self._last)
        self.at += timeout
        while rng.random() < 0.002:
            yield self._line("crashed", why="the postmaster was killed by signal 9")
            self.at += 0.5
            yield self._line("woken", why="ready", cause="crash", by=[], parked=0, wait=None, took=0.5)
            self.at += timeout

    def sleep(self) -> Iterator[dict[str, Any]]:
        rng, shown = self._rng, format_duration(self._timeout)
        yield self._line(
            "slept",
            why=f"idle {shown} (idle-timeout {shown}); last use: {self._last}",
            last_use=self._last,
            idle=self._timeout,
            checkpoint=round(rng.uniform(0.01, 0.2), 3),
            shutdown=round(rng.uniform(0.05, 0.4), 3),
            cut=[self._last] if rng.random() < 0.5 else [],
            cut_count=0,
        )
        self.at += max(1.0, self._pause * rng.expovariate(1.5))

    def wake(self) -> Iterator[dict[str, Any]]:
        """For a client; now and then pgidle was stopped meanwhile."""
        rng = self._rng
        name, address = rng.choice(CLIENTS)
        if rng.random() < 0.005:
            yield self._line("exited", status=0, why="SIGTERM received", state="terminating")
            self.at += rng.uniform(1, 100)
            self._begin_run()
            yield self._started()
        took = round(rng.uniform(0.06, 1.2), 3)
        self.at += took
        why = "1 client parked at the gate"
        yield self._line("woken", why=why, cause="client", by=[address], parked=1, wait=took, took=took)
        if rng.random() < 0.8:
            self.at += 0.3
            user = name.partition("user ")[2].partition(",")[0]
            application = name.split('"')[1]
            facts = {"client": name, "application": application, "user": user, "database": "app"}
            yield self._line("client", **facts, address=address)

    def _begin_run(self) -> None:
        self._run, self._began, self._number = int(self.at * 1000), self.at, 0

    def _started(self) -> dict[str, Any]:
        least = min(30.0, self._timeout)
        settings = {"idle-timeout": self._timeout, "min-awake": least, "when-idle": "stay"}
        return self._line("started", why="pgidle started", version="0", settings=settings)

    def _line(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        at, up = round(self.at, 3), round(self.at - self._began, 3)
        return {"at": at, "up": up, "run": self._run, "n": self._number, "event": kind} | fields


def events(end: float, days: float, count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """About `count` events over so many days before `end` (Unix time), as the lines' contents."""
    # From one sleep to the next there are some 3.4 events.
    life = _Life(end - days * DAY, days * DAY / max(1, count) * 3.4, seed)
    yield from life.start()
    while True:
        for part in (life.be_awake, life.sleep, life.wake):
            for event in part():
                if event["at"] >= end:
                    return
                yield event


def make(folder: Path, days: float, count: int, end: float | None = None, seed: int = 1) -> int:
    """Make the files; the number of events. Raises PgidleError or OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state_dir = StateDir(str(folder))
    made = 0
    path = folder / JOURNAL
    file = path.open("w", encoding="utf-8")
    for event in events(time.time() if end is None else end, days, count, seed):
        file.write(json.dumps(event, separators=(",", ":")) + "\n")
        made += 1
        if file.tell() >= SEGMENT_BYTES:
            file.close()
            reduce_older(state_dir)
            path.replace(folder / OLDER)
            file = path.open("w", encoding="utf-8")
    file.close()
    for name in (JOURNAL, OLDER):
        if (folder / name).exists():
            (folder / name).chmod(0o600)
    return made


if __name__ == "__main__":
    numbers = [float(one) for one in sys.argv[2:]] or [365.0]
    made = make(Path(sys.argv[1]), numbers[0], int(numbers[1]) if len(numbers) > 1 else 500_000)
    sys.stdout.write(f"{made} events\n")

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


def events(end: float, days: float, count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """About `count` events over so many days before `end` (Unix time), as the lines' contents."""
    rng = random.Random(seed)
    at = end - days * DAY
    pause = days * DAY / max(1, count) * 3.4
    """Seconds from one sleep to the next, of some 3.4 events each."""
    run, began, number = int(at * 1000), at, 0

    def line(kind: str, **fields: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        head = {"at": round(at, 3), "up": round(at - began, 3), "run": run, "n": number, "event": kind}
        return head | fields

    timeout = min(TIMEOUT, round(pause / 3))
    settings = {"idle-timeout": timeout, "min-awake": min(30.0, timeout), "when-idle": "stay"}
    yield line("started", why="pgidle started", version="0", settings=settings)
    yield line("woken", why="ready", cause="start", by=[], parked=0, wait=None, took=0.4)
    while True:
        name, address = rng.choice(CLIENTS)
        if rng.random() < 0.3:
            idle, count = timeout * rng.uniform(0.05, 0.9), rng.randint(1, 2)
            at += idle * count
            yield line("use", idle=round(idle, 3), count=count, by=name)
        at += timeout
        if at >= end:
            return
        if rng.random() < 0.002:
            yield line("crashed", why="the postmaster was killed by signal 9")
            at += 0.5
            yield line("woken", why="ready", cause="crash", by=[], parked=0, wait=None, took=0.5)
            continue
        shown = format_duration(timeout)
        why = f"idle {shown} (idle-timeout {shown}); last use: {name}"
        yield line(
            "slept",
            why=why,
            last_use=name,
            idle=timeout,
            checkpoint=round(rng.uniform(0.01, 0.2), 3),
            shutdown=round(rng.uniform(0.05, 0.4), 3),
            cut=[name] if rng.random() < 0.5 else [],
            cut_count=0,
        )
        at += max(1.0, pause * rng.expovariate(1.5))
        if at >= end:
            return
        name, address = rng.choice(CLIENTS)
        if rng.random() < 0.005:
            yield line("exited", status=0, why="SIGTERM received", state="terminating")
            at += rng.uniform(1, 100)
            run, began, number = int(at * 1000), at, 0
            yield line("started", why="pgidle started", version="0", settings=settings)
        took = round(rng.uniform(0.06, 1.2), 3)
        at += took
        yield line(
            "woken",
            why="1 client parked at the gate",
            cause="client",
            by=[address],
            parked=1,
            wait=took,
            took=took,
        )
        if rng.random() < 0.8:
            at += 0.3
            user = name.partition("user ")[2].partition(",")[0]
            yield line(
                "client",
                client=name,
                application=name.split('"')[1],
                user=user,
                database="app",
                address=address,
            )


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

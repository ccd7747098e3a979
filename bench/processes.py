"""What a process takes, according to the kernel."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

MB = 1024.0
"""Kilobytes, as /proc counts, in the megabyte of this page."""


@dataclass(frozen=True, slots=True)
class Memory:
    """In MB. `pss` counts a page that several processes map in parts; `anonymous` is what no file backs, `private` what
    nobody else maps."""

    rss: float
    pss: float
    anonymous: float
    private: float


def memory(pid: int) -> Memory:
    """From smaps_rollup (proc_pid_smaps(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(rest.split()[0]) / MB for name, _, rest in (line.partition(":") for line in lines)}
    private = found["Private_Clean"] + found["Private_Dirty"]
    return Memory(found["Rss"], found["Pss"], found["Anonymous"], private)


def observers(pid: int) -> tuple[int, ...]:
    """The process that looks at Postgres for a supervisor, if it is there."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return tuple(int(one) for one in children if Path(f"/proc/{one}/comm").read_text() == "pgidle-observer\n")


def cpu_seconds(pid: int) -> float:
    """User and system time so far, of all threads, from the clock that clock_getcpuclockid(3) names.

    /proc/PID/stat has the same in hundredths of a second, which is coarser than what an idle process takes.
    """
    return time.clock_gettime((~pid << 3) | 2)


def cpu_percent(pids: tuple[int, ...], seconds: float) -> tuple[float, ...]:
    """Percent of one core that each process took while this one slept."""
    began = time.monotonic()
    before = [cpu_seconds(pid) for pid in pids]
    time.sleep(seconds)
    lasted = time.monotonic() - began
    return tuple((cpu_seconds(pid) - then) / lasted * 100 for pid, then in zip(pids, before, strict=True))

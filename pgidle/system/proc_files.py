"""What the kernel tells of this process and of the machine (proc(5)): memory, age, whether the processors are busy."""

from __future__ import annotations

import os
import time

BOOT = 5.0
"""Seconds within which Python starts, and we with it: an older process was another program before."""


def resident() -> int:
    """Bytes of our own resident memory (proc_pid_statm(5)); 0 if not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def process_start() -> float:
    """When this process was started (monotonic), to 10 ms; now if that is not known, or if it
    was another program before. (proc_pid_stat(5), field 22)"""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return time.monotonic()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - (age if 0 < age < BOOT else 0.0)


def is_quiet() -> bool:
    """Whether few processes wait for a processor: no more can run than twice as many as there are. True where the
    kernel does not tell. (proc_loadavg(5), the fourth field; of the whole machine, in containers too)"""
    try:
        with open("/proc/loadavg", "rb") as file:
            runnable = int(file.read().split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return True
    return runnable <= 2 * (os.cpu_count() or 1)

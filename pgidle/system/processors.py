"""Whether the machine's processors have something to do."""

from __future__ import annotations

import os


def is_quiet() -> bool:
    """Whether few processes wait for a processor: no more can run than twice as many as there are. True where the
    kernel does not tell. (proc_loadavg(5), the fourth field; of the whole machine, in containers too)"""
    try:
        with open("/proc/loadavg", "rb") as file:
            runnable = int(file.read().split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return True
    return runnable <= 2 * (os.cpu_count() or 1)

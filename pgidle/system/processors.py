"""Whether the machine's processors have something to do."""

from __future__ import annotations

import os


def is_quiet() -> bool:
    """Whether no process waits for a processor: no more can run than there are, this one included. True where the
    kernel does not tell. (proc_loadavg(5), the fourth field; of the whole machine, in containers too)"""
    try:
        with open("/proc/loadavg", "rb") as file:
            runnable = int(file.read().split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return True
    return runnable <= (os.cpu_count() or 1)

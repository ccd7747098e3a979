"""How much memory pgidle and Postgres take."""

from __future__ import annotations

import os
import time

from pgidle.control.status import Memory


class MemoryReader:
    """Reads /proc through psutil, at most once a second, however often the status is requested.

    psutil itself would be 1.5 MB of the memory reported, so it is imported on the first request.
    """

    def __init__(self) -> None:
        self._read: tuple[float, int | None, Memory] | None = None

    def read(self, supervisor: int, postmaster_pid: int | None) -> Memory:
        """`supervisor`: the bytes that the supervisor reported of itself."""
        now = time.monotonic()
        if self._read is None or self._read[1] != postmaster_pid or now - self._read[0] >= 1:
            import psutil

            own = psutil.Process(os.getpid()).memory_info().rss
            memory = Memory(supervisor, own, _postgres(postmaster_pid))
            self._read = (now, postmaster_pid, memory)
        return self._read[2]


def _postgres(postmaster_pid: int | None) -> int | None:
    """Bytes that Postgres's processes take: the private memory of each, and shared memory once.

    PSS would be exact, but for it the kernel walks every page of every process: seconds with many backends and large
    shared_buffers. The largest shared size of one process stands for all of them (proc_pid_statm(5)).
    """
    if postmaster_pid is None:
        return None
    import psutil

    private, shared = 0, 0
    try:
        postmaster = psutil.Process(postmaster_pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
    except psutil.Error:
        return None
    for process in processes:
        try:
            memory = process.memory_info()
        except psutil.Error:
            continue
        private += memory.rss - memory.shared
        shared = max(shared, memory.shared)
    return private + shared or None

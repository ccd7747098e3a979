"""Processes of a data directory whose postmaster is gone: they hold its shared memory, and must end first."""

from __future__ import annotations

import signal

PATIENCE = ((3.0, signal.SIGKILL), (0.5, signal.SIGQUIT))
"""After so many seconds, which signal. Backends that notice the postmaster's death end by themselves, in
milliseconds; Postgres refuses to start while one is attached to its shared memory, so killing one loses nothing."""


def find_orphans(data_dir: str) -> list[int]:
    """Pids of Postgres's processes that have the data directory as theirs: the working directory of every backend."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "name", "cwd"]):
        seen = process.info
        if seen["cwd"] == data_dir and (seen["name"] or "").startswith("postgres"):
            found.append(int(seen["pid"]))
    return found


def hasten(pids: list[int], waited: float) -> None:
    """Signal orphans that have not ended after `waited` seconds."""
    import os

    number = next((number for seconds, number in PATIENCE if waited >= seconds), None)
    if number is None:
        return
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue

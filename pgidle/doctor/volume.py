"""Whether the volume that the data directory lies on has room, and lasts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart

LEAST_FREE = 256 * 2**20
"""Bytes: a few WAL segments and a checkpoint's worth. Postgres that cannot write WAL crashes."""
PASSING = ("overlay", "aufs", "tmpfs", "ramfs")
"""File systems that end with the container or the machine."""


def check_room(chart: Chart, path: str) -> None:
    """The data directory's file system: how much is free, and of which kind it is."""
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    if free < LEAST_FREE:
        chart.wrong(
            f"{free // 2**20} MB are free",
            path,
            "Postgres crashes when it cannot write its log, and does not start again",
            "make room, or a larger volume",
        )
    else:
        chart.fine(f"{free / 2**30:.1f} GB free")
    kind = _file_system(path)
    if kind in PASSING:
        chart.note(
            f"it lies on {kind}",
            path,
            "in a container that is gone with the container, on tmpfs with the machine",
            "mount a volume above it",
        )


def _file_system(path: str) -> str:
    """The type of the file system that holds it, by /proc/self/mountinfo (proc(5)); empty if that does not tell."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4]
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, right.split(" ")[0]
    return kind

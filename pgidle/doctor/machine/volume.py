"""Whether the volume with the data directory has room, and outlives a restart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.postgres.free_space import room_in

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart

LEAST_FREE = 256 * 2**20
"""Bytes: a few WAL segments and a checkpoint's worth. Postgres that cannot write WAL crashes."""
LEAST_FILES = 100
"""Inodes: a checkpoint's worth of segments, and temporary files."""
PASSING = ("overlay", "aufs", "tmpfs", "ramfs")
"""File systems that are gone with the container or the machine."""


def check_room(chart: Chart, path: str) -> None:
    """The data directory's file system, and its WAL's: whether they have room, and whether the former is lasting."""
    room = room_in(path)
    crashes = "Postgres crashes when it cannot write its log, and does not start again"
    if room.is_read_only:
        chart.wrong("it is read-only", path, "Postgres does not start", "mount it writable")
    elif room.free_files is not None and room.free_files < LEAST_FILES:
        chart.wrong(
            f"{room.free_files} inodes are free", path, crashes, "remove files, or make a larger volume"
        )
    elif room.free_bytes is None:
        chart.note(
            "its file system does not report its size",
            path,
            "whether there is room cannot be seen",
            "watch the space in some other way",
        )
    elif room.free_bytes < LEAST_FREE:
        chart.wrong(f"{room.free_bytes // 2**20} MB are free", path, crashes, "make room, or a larger volume")
    else:
        chart.fine(f"{room.free_bytes / 2**30:.1f} GB free")
    kind = _file_system(path)
    if kind in PASSING:
        chart.note(
            f"it lies on {kind}",
            path,
            "overlay is gone with its container, and tmpfs with the machine",
            "mount a volume there or above it",
        )


def _file_system(path: str) -> str:
    """The type of the file system that holds it, by /proc/self/mountinfo (proc(5)); empty if that does not say."""
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

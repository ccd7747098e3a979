"""What Compose and Kubernetes have in common: a container's command, its probes, and where its volumes lie."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.told import Told
    from pgidle.doctor.tree import Node

IMAGE_DATA = PurePosixPath("/var/lib/postgresql")
"""The official image's data directory is below it, in every version."""
ASKS_POSTGRES = ("pg_isready", "psql")


def words(node: Node | None) -> list[str]:
    """A command, which may be one string or a list."""
    if node is None:
        return []
    if node.text is not None:
        try:
            return shlex.split(node.text)
        except ValueError:
            return node.text.split()
    return [each.text or "" for each in node.each()]


def arguments(entrypoint: Sequence[str], command: Sequence[str]) -> list[str]:
    """What follows `pgidle run`; the image's own entrypoint is that."""
    line = [*entrypoint, *command]
    for at, word in enumerate(line):
        if word.rpartition("/")[2] == "pgidle" and line[at + 1 : at + 2] == ["run"]:
            return line[at + 2 :]
    return list(command) if not entrypoint else []


def check_probe(chart: Chart, name: str, command: Sequence[str], where: str, cure: str) -> None:
    """A health check's command that fails, or wakes Postgres, while it sleeps."""
    text = " ".join(command)
    if any(word in text for word in ASKS_POSTGRES):
        chart.wrong(
            f"{name} asks Postgres itself ({text[:60]})",
            where,
            "while Postgres sleeps it fails over the Unix socket, and over TCP it is a connection that wakes it",
            cure,
        )
    elif "/ready" in text:
        check_path(chart, name, "/ready", where, cure)
    else:
        chart.fine(f"{name} {text[:60]}")


def check_path(chart: Chart, name: str, path: str, where: str, cure: str) -> None:
    if path.rstrip("/").endswith("/ready"):
        chart.wrong(
            f"{name} asks for /ready", where, "that is 503 while Postgres sleeps, although all is well", cure
        )
    else:
        chart.fine(f"{name} {path}")


def check_volumes(chart: Chart, targets: Sequence[tuple[str, int]], told: Told, line: int, cure: str) -> None:
    """`targets` are the paths in the container that volumes are mounted at, and their lines."""
    data_dir = PurePosixPath(told.data_dir) if told.data_dir else None
    wanted = data_dir or IMAGE_DATA
    for target, _ in targets:
        mounted = PurePosixPath(target)
        if (
            mounted == wanted
            or mounted in wanted.parents
            or (data_dir is None and IMAGE_DATA in mounted.parents)
        ):
            chart.fine(f"a volume at {target}")
            return
    at = targets[0][1] if targets else line
    chart.wrong(
        f"no volume holds the data directory{f' {data_dir}' if data_dir else ''}",
        f"{chart.subject}:{at}",
        "what is in the container's own file system is gone with the container",
        cure,
    )

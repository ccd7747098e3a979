"""What Compose and Kubernetes have in common: a container's command, its probes, and where its volumes lie."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pgidle.arguments import Arguments
from pgidle.doctor.told import run_arguments
from pgidle.entrypoint import BASE_ENTRYPOINT, COMMANDS, completed, refuse_own, serves
from pgidle.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.told import Told
    from pgidle.doctor.tree import Node

IMAGE_DATA = PurePosixPath("/var/lib/postgresql")
"""The official image's data directory is below it, in every version."""
OLD_DATA = IMAGE_DATA / "data"
"""The official image's data directory up to version 17."""
FIRST_NEW = 18
OWN_ENTRYPOINT = "/opt/pgidle/entrypoint"
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


def arguments(chart: Chart, where: str, entrypoint: Sequence[str], command: Sequence[str]) -> Arguments:
    """What `pgidle run` is told, by the rules of the image's entrypoint unless another one is given.

    Where nothing is told that pgidle takes, there is a finding, and nothing counts as told.
    """
    line = [*entrypoint, *command]
    for at, word in enumerate(line):
        if word.rpartition("/")[2] == "pgidle" and line[at + 1 : at + 2] == ["run"]:
            return run_arguments(chart, where, line[at + 2 :])
    if entrypoint and entrypoint[-1] != OWN_ENTRYPOINT:
        _check_program(chart, where, line)
        return Arguments({})
    line = completed(command)
    if line[0] != "postgres":
        _check_program(chart, where, line)
        return Arguments({})
    return _postgres_arguments(chart, where, line[1:])


def _postgres_arguments(chart: Chart, where: str, given: Sequence[str]) -> Arguments:
    said = " ".join(["postgres", *given])
    if not serves(given):
        chart.wrong(
            f"`{said}` serves nobody", where, "with such an option it does something else", "leave it out"
        )
        return Arguments({})
    if "--" in given:
        chart.wrong(
            f"`{said}` is not what postgres understands",
            where,
            "-- ends its options, so it refuses what follows, and does not start",
            "leave -- out: all of the words go to postgres already",
        )
        return Arguments({})
    try:
        refuse_own(given)
    except SettingsError as error:
        chart.wrong(error.message, where, "the container refuses to start", error.hint or "leave it out")
        return Arguments({})
    return Arguments({}, tuple(given))


def _check_program(chart: Chart, where: str, line: Sequence[str]) -> None:
    """Words that start something else than Postgres, or nobody knows what."""
    said, first = " ".join(line)[:60], line[0].rpartition("/")[2]
    if first == BASE_ENTRYPOINT:
        chart.wrong(
            f"`{said}` goes past pgidle", where, "it starts Postgres alone, which then never sleeps",
            "no entrypoint, and postgres as the command",
        )  # fmt: skip
    elif first == "pgidle" or (first in COMMANDS and line[0] == first):
        own = " ".join(line[1:] if first == "pgidle" else line)
        chart.wrong(
            f"`{said}` does not start Postgres",
            where,
            f"that is the command `pgidle {own}`, and none that serves" if first == "pgidle"
            else "the image has no such program",
            "no command at all, or one that begins with `postgres` or `pgidle run`",
        )  # fmt: skip
    else:
        chart.unknown(
            f"what `{said}` starts",
            where,
            "if it is not pgidle in the end, nothing puts Postgres to sleep",
            "no command at all, or one that begins with `postgres` or `pgidle run`",
        )


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


def check_volumes(
    chart: Chart,
    targets: Sequence[tuple[str, int]],
    told: Told,
    line: int,
    cure: str,
    version: int | None = None,
) -> None:
    """`targets` are the paths in the container that volumes are mounted at, and their lines; `version` is the major
    one of the image's PostgreSQL, where it is known."""
    data_dir = PurePosixPath(told.data_dir) if told.data_dir else None
    wanted = data_dir or IMAGE_DATA
    for target, at in targets:
        mounted = PurePosixPath(target)
        if (
            mounted == wanted
            or mounted in wanted.parents
            or (data_dir is None and IMAGE_DATA in mounted.parents)
        ):
            if data_dir is None and mounted == OLD_DATA:
                check_old_place(chart, target, f"{chart.subject}:{at}", version)
                return
            chart.fine(f"a volume at {target}")
            return
    at = targets[0][1] if targets else line
    chart.wrong(
        f"no volume holds the data directory{f' {data_dir}' if data_dir else ''}",
        f"{chart.subject}:{at}",
        "what is in the container's own file system is gone with the container",
        cure,
    )


def check_old_place(chart: Chart, target: str, where: str, version: int | None) -> None:
    """A volume where the official image had its data up to version 17, and no PGDATA."""
    if version is not None and version < FIRST_NEW:
        chart.note(
            f"a volume at {target}",
            where,
            f"right up to version 17, where the image has its data there; from {FIRST_NEW} on it is elsewhere",
            f"before an upgrade: a volume at {IMAGE_DATA}",
        )
    else:
        chart.wrong(
            f"the volume is mounted at {target}",
            where,
            f"from version {FIRST_NEW} on the image keeps its data in {IMAGE_DATA}/{FIRST_NEW}/docker, which is not on"
            " this volume, and pgidle refuses to start",
            f"mount it at {IMAGE_DATA}; or, with data of an older version in it, PGDATA and that version's image",
        )

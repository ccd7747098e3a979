"""What Compose and Kubernetes have in common: a container's command, its probes, and where its volumes are."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pgidle.base.errors import SettingsError
from pgidle.base.platform_limits import FIRST_NEW_IMAGE, IMAGE_VOLUME, OLD_IMAGE_VOLUME, image_data_dir
from pgidle.doctor.readers.compose_variables import is_known, shown
from pgidle.doctor.readers.stated_settings import run_arguments
from pgidle.settings.arguments import Arguments
from pgidle.settings.image_command import BASE_ENTRYPOINT, COMMANDS, completed, refuse_own, serves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Told
    from pgidle.doctor.readers.tree import Node

OWN_ENTRYPOINT = "/opt/pgidle/entrypoint"
_PROGRAMS = re.compile(r"\b(pg_isready|psql|pg_dump|vacuumdb)\b")
_KNOCKS = re.compile(r"\b(?:nc|ncat|telnet|nmap)\b|/dev/tcp/")
_HARMLESS = re.compile(
    r"\bpgidle\s+health\b|/(?:health|metrics|status)\b|^(?:CMD-SHELL\s+)?(?:true|exit 0)$|^NONE$"
)


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


def arguments(
    chart: Chart, where: str, entrypoint: Sequence[str], command: Sequence[str]
) -> Arguments | None:
    """The arguments that `pgidle run` gets, by the rules of the image's entrypoint unless another one is given.

    Arguments that pgidle would refuse are a finding, and are then ignored. None, and a finding, where something other
    than pgidle is started, or where that is unclear.
    """
    line = [*entrypoint, *command]
    for at, word in enumerate(line):
        if word.rpartition("/")[2] == "pgidle" and line[at + 1 : at + 2] == ["run"]:
            return run_arguments(chart, where, line[at + 2 :])
    if entrypoint and entrypoint[-1] != OWN_ENTRYPOINT:
        _check_program(chart, where, line)
        return None
    line = completed(command)
    if line[0] != "postgres":
        _check_program(chart, where, line)
        return None
    return _postgres_arguments(chart, where, line[1:])


def _postgres_arguments(chart: Chart, where: str, given: Sequence[str]) -> Arguments:
    said = " ".join(["postgres", *given])
    if not serves(given):
        chart.wrong(
            f"`{said}` serves no clients",
            where,
            "with such an option postgres does something else and exits",
            "leave it out",
        )
        return Arguments({})
    if "--" in given:
        chart.wrong(
            f"postgres does not understand `{said}`",
            where,
            "-- ends its options, so it refuses what follows, and does not start",
            "leave -- out: all the words go to postgres anyway",
        )
        return Arguments({})
    try:
        refuse_own(given)
    except SettingsError as error:
        chart.wrong(error.message, where, "the container refuses to start", error.hint or "leave it out")
        return Arguments({})
    return Arguments({}, tuple(given))


def _check_program(chart: Chart, where: str, line: Sequence[str]) -> None:
    """A command that starts something other than Postgres, or something unknown."""
    said, first = shown(" ".join(line))[:60], line[0].rpartition("/")[2]
    if first == BASE_ENTRYPOINT:
        chart.wrong(
            f"`{said}` bypasses pgidle", where, "it starts Postgres without pgidle, so Postgres never sleeps",
            "no entrypoint, and postgres as the command",
        )  # fmt: skip
    elif first == "pgidle" or (first in COMMANDS and line[0] == first):
        own = " ".join(line[1:] if first == "pgidle" else line)
        chart.wrong(
            f"`{said}` does not start Postgres",
            where,
            f"that is the command `pgidle {own}`, which does not serve clients" if first == "pgidle"
            else "the image has no such program",
            "no command at all, or one that begins with `postgres` or `pgidle run`",
        )  # fmt: skip
    else:
        chart.unknown(
            f"what `{said}` starts",
            where,
            "unless it starts pgidle in the end, nothing puts Postgres to sleep",
            "no command at all, or one that begins with `postgres` or `pgidle run`",
        )


def check_probe(
    chart: Chart, name: str, command: Sequence[str], where: str, cure: str, port: str = "5432"
) -> None:
    """A health check's command that fails, or wakes Postgres, while it sleeps; `port` is Postgres's."""
    text = " ".join(command)
    knocks = _KNOCKS.search(text) is not None and re.search(rf"(?<!\d){port}(?!\d)", text) is not None
    if _PROGRAMS.search(text) is not None or knocks:
        chart.wrong(
            f"{name} asks Postgres itself ({shown(text)[:60]})",
            where,
            "while Postgres sleeps it fails over the Unix socket, and over TCP it is a connection that wakes it",
            cure,
        )
    elif re.search(r"/ready\b", text) is not None:
        check_path(chart, name, "/ready", where, cure)
    elif _HARMLESS.search(text) is not None:
        chart.fine(f"{name} {text[:60]}")
    else:
        chart.unknown(
            f"what {name} does ({shown(text)[:60]})",
            where,
            "if it connects to Postgres, that never sleeps; if it fails while Postgres sleeps, so does the container",
            cure,
        )


def check_path(chart: Chart, name: str, path: str, where: str, cure: str) -> None:
    if path.rstrip("/").endswith("/ready"):
        chart.wrong(
            f"{name} asks for /ready",
            where,
            "it answers 503 while Postgres sleeps, although all is well",
            cure,
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
    """`targets` are the paths in the container at which volumes are mounted, and their lines; `version` is the major
    version of the image's PostgreSQL, if it is known."""
    if told.data_dir is None and not told.knows("data-dir"):
        chart.unknown(
            "where the data directory is",
            f"{chart.subject}:{line}",
            f"{told.elsewhere} may set it, and is not read; data outside a volume is lost with the container",
            "PGDATA, written out beside the other variables",
        )
        return
    said = told.data_dir or (image_data_dir(version) if version is not None else None)
    if said is None:
        _check_unsaid(chart, targets, line, cure)
        return
    data_dir = PurePosixPath(said)
    holding = [one for one in targets if _holds(one[0], data_dir)]
    at = max(holding, key=lambda one: len(one[0]), default=None)
    where = f"{chart.subject}:{at[1] if at is not None else targets[0][1] if targets else line}"
    if at is not None and _is_hidden(at[0], data_dir, version):
        _check_hidden(chart, at[0], where, data_dir, version)
    elif at is not None and told.data_dir is None and at[0].rstrip("/") == OLD_IMAGE_VOLUME:
        chart.note(
            f"a volume at {at[0]}",
            where,
            f"right up to version 17, whose image keeps its data there; from {FIRST_NEW_IMAGE} on it is elsewhere",
            f"before an upgrade: a volume at {IMAGE_VOLUME}",
        )
    elif at is not None:
        chart.fine(f"data directory {data_dir} on a volume at {at[0]}")
    elif any(not is_known(target) for target, _ in targets):
        chart.unknown(
            f"whether the data directory {data_dir} is on a volume",
            where,
            "the place of a volume comes from a variable that is set elsewhere",
            cure,
        )
    else:
        is_old = told.data_dir is None and any(one[0].rstrip("/") == OLD_IMAGE_VOLUME for one in targets)
        chart.wrong(
            f"no volume holds the data directory {data_dir}",
            where,
            "data in the container's own file system is lost with the container",
            f"mount it at {IMAGE_VOLUME}; or, with data of an older version in it, that version's image"
            if is_old
            else cure,
        )


def _holds(target: str, data_dir: PurePosixPath) -> bool:
    mounted = PurePosixPath(target)
    return mounted == data_dir or mounted in data_dir.parents


def _is_hidden(target: str, data_dir: PurePosixPath, version: int | None) -> bool:
    """Whether the image's own volume, at the old place, lies between the mount and the data directory."""
    own = PurePosixPath(OLD_IMAGE_VOLUME)
    is_old = version is None or version < FIRST_NEW_IMAGE
    return is_old and PurePosixPath(target) in own.parents and _holds(OLD_IMAGE_VOLUME, data_dir)


def _check_hidden(
    chart: Chart, target: str, where: str, data_dir: PurePosixPath, version: int | None
) -> None:
    why = (
        f"up to version 17 the image has a volume of its own at {OLD_IMAGE_VOLUME}: the data is on that one, which"
        " has no name and is lost with the container"
    )
    cure = f"mount it at {OLD_IMAGE_VOLUME}"
    if version is None:
        chart.unknown(
            f"whether the data directory {data_dir} is on the volume at {target}",
            where,
            why,
            f"{cure}, or write the major version into the image's tag",
        )
    else:
        chart.wrong(f"the data directory {data_dir} is not on the volume at {target}", where, why, cure)


def _check_unsaid(chart: Chart, targets: Sequence[tuple[str, int]], line: int, cure: str) -> None:
    """Without PGDATA, and without a version in the image's name, only the image knows where the data is."""
    if not targets:
        chart.wrong(
            "no volume holds the data directory",
            f"{chart.subject}:{line}",
            "data in the container's own file system is lost with the container",
            cure,
        )
        return
    near = next((one for one in targets if one[0].startswith(IMAGE_VOLUME)), targets[0])
    chart.unknown(
        f"whether the data directory is on the volume at {shown(near[0])}",
        f"{chart.subject}:{near[1]}",
        f"neither PGDATA nor the image's name says where it is: up to version 17 in {OLD_IMAGE_VOLUME}, from"
        f" {FIRST_NEW_IMAGE} on in {image_data_dir(FIRST_NEW_IMAGE)}, and a volume at the wrong one stays empty",
        "the major version in the image's tag (pgidle:18, pgidle:16), or PGDATA",
    )

"""A Compose file: the service that runs pgidle, or should."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import COMPOSE, IMAGE_VOLUME
from pgidle.doctor.finding import Chart
from pgidle.doctor.platforms.compose_neighbours import hosts_of, neighbour
from pgidle.doctor.platforms.compose_service import examine_service
from pgidle.doctor.platforms.containers import words
from pgidle.doctor.platforms.neighbours import check_neighbour
from pgidle.doctor.readers.compose_values import env_files, environment, extended, target_of
from pgidle.doctor.readers.compose_variables import interpolate, is_known, read_env_file
from pgidle.doctor.readers.image_names import Contents, builds_pgidle, contents, cure, dockerfile_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.doctor.readers.stated_settings import Context
    from pgidle.doctor.readers.tree import Node

READ = frozenset(
    {
        *("image", "build", "command", "entrypoint", "environment", "env_file", "restart", "stop_signal"),
        *("stop_grace_period", "network_mode", "ports", "volumes", "healthcheck", "pre_stop"),
        *("post_start", "container_name", "hostname"),
    }
)
"""Keys that are checked in the service that runs pgidle."""
HARMLESS = frozenset(
    {
        *(
            "logging",
            "labels",
            "depends_on",
            "networks",
            "profiles",
            "platform",
            "pull_policy",
            "annotations",
        ),
        *("secrets", "configs", "expose", "links", "dns", "extra_hosts", "init", "tty", "stdin_open"),
        "sysctls",
        *(
            "mem_limit",
            "mem_reservation",
            "cpus",
            "cpu_count",
            "cpu_shares",
            "shm_size",
            "ulimits",
            "working_dir",
        ),
    }
)
"""Keys that cannot hide anything that matters here."""
FEW = 6
"""Up to this many services are named; beyond it only their number is given."""


def examine(name: str, root: Node, context: Context) -> Chart:
    """All findings about a Compose file."""
    chart = Chart(name)
    root = interpolate(root, _dot_env(context))
    services = {key: extended(one, root) for key, one in root.items("services")}
    ours = {key: one for key, one in services.items() if _runs_pgidle(one, context)}
    chart.read.append(f"as {COMPOSE} reads it")
    _account(chart, root, services, ours, context)
    for key, one in ours.items():
        told = examine_service(chart, key, one, context)
        if told is None:
            continue
        for other, beside in services.items():
            if other not in ours:
                hosts = hosts_of(key, one, beside, root)
                check_neighbour(chart, neighbour(other, beside, context), hosts, told)
    if not ours:
        _no_pgidle(chart, root, services, context)
    return chart


def named_files(root: Node) -> list[str]:
    """The files that it refers to and that should be read, as paths relative to its own folder."""
    found = [".env"]
    for _, service in root.items("services"):
        found += [path for path, _ in env_files(service) if "$" not in path]
        build = service.at("build")
        if build is not None and (path := dockerfile_path(build)) is not None and "$" not in path:
            found.append(path)
    return list(dict.fromkeys(found))


def _no_pgidle(chart: Chart, root: Node, services: Mapping[str, Node], context: Context) -> None:
    servers = [one for one in services.values() if _is_server(one, context)]
    built = next((key for key, one in services.items() if not servers and _keeps_data(one)), None)
    if built is not None:
        chart.unknown(
            f"whether service {built} runs pgidle",
            f"{chart.subject}:{services[built].line}",
            "it has a PostgreSQL's data, but neither the image's name nor a Dockerfile that was read says what it runs",
            "image: pgidle:VERSION; or a build whose Dockerfile is beside this file",
        )
        return
    elsewhere = [key for key in ("include",) if root.at(key) is not None]
    if not servers and (elsewhere or any(one.at("extends") is not None for one in services.values())):
        chart.unknown(
            "which service runs Postgres",
            f"{chart.subject}:{(root.at('include') or root).line}",
            "it may be in a file that this one includes or extends, which is not read",
            "docker compose config | pgidle doctor /dev/stdin",
        )
        return
    if not servers:
        chart.unknown(
            "which service runs Postgres",
            f"{chart.subject}:{(root.at('services') or root).line}",
            "none here names pgidle or an image that is known to be PostgreSQL's",
            "give the file that has it; or image: pgidle (docker build -t pgidle .), with PGIDLE_WHEN_IDLE: stay",
        )
        return
    image = servers[0].word("image") or ""
    chart.wrong(
        "no service here runs pgidle",
        f"{chart.subject}:{servers[0].line}",
        "nothing puts Postgres to sleep",
        f"PGIDLE_WHEN_IDLE: stay; {cure(image)}"
        if is_known(image)
        else "image: pgidle (docker build -t pgidle .), with PGIDLE_WHEN_IDLE: stay",
    )


def _is_server(service: Node, context: Context) -> bool:
    build = service.at("build")
    if build is not None:
        return builds_pgidle(build, context) is False
    return contents(service.word("image") or "") is Contents.POSTGRES


def _keeps_data(service: Node) -> bool:
    """Whether a volume lies where PostgreSQL's images have their data."""
    return any(target_of(one)[0].startswith(IMAGE_VOLUME) for one in service.list("volumes"))


def _account(
    chart: Chart, root: Node, services: Mapping[str, Node], ours: Mapping[str, Node], context: Context
) -> None:
    for key, one in ours.items():
        keys = [each for each in one.table or {} if each not in HARMLESS and not each.startswith("x-")]
        chart.account(f"service {key}", keys, READ)
        if one.at("extends") is not None:
            chart.unknown(
                f"what service {key} inherits from the file that it extends",
                f"{chart.subject}:{(one.at('extends') or one).line}",
                "that file is not read, and could set anything",
                "docker compose config | pgidle doctor /dev/stdin",
            )
    rest = [key for key in services if key not in ours]
    if rest and ours:
        names = ", ".join(rest) if len(rest) <= FEW else f"{len(rest)} other services"
        chart.read.append(f"of {names}: whether it is a monitor, or its healthcheck asks Postgres")
    read = [path for path, text in context.beside.items() if text is not None]
    if read:
        chart.read.append(f"beside it: {', '.join(read)}")
    if (include := root.at("include")) is not None:
        chart.not_read.append(f"the files of include (line {include.line})")
    chart.not_read.append(
        "compose.override.yaml, other files of -f, and pgidle.toml beside the data directory"
    )


def _dot_env(context: Context) -> dict[str, str]:
    return read_env_file(context.beside.get(".env") or "")


def _runs_pgidle(service: Node, context: Context) -> bool:
    said = [*words(service.at("entrypoint")), *words(service.at("command")), service.word("image") or ""]
    build = service.at("build")
    if build is not None:
        said += [build.text or "", build.word("context") or "", build.word("dockerfile") or ""]
    environ, _ = environment(service, context)
    named = any(variable.startswith("PGIDLE_") for variable in environ)
    is_built = build is not None and builds_pgidle(build, context) is True
    return named or is_built or any(_is_pgidle(word) for word in said)


def _is_pgidle(word: str) -> bool:
    """Whether a word names pgidle, and not a tool that merely has pgidle in its name."""
    return re.search(r"pgidle(?![-_]?(?:exporter|dashboard|client|backup))", word) is not None

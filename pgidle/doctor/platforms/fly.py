"""fly.toml: whether the machine that it describes may sleep, is woken, and keeps its data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import FLYCTL, IMAGE_ENVIRONMENT, image_major
from pgidle.doctor.finding import Chart
from pgidle.doctor.platforms import fly_services
from pgidle.doctor.platforms.containers import arguments, words
from pgidle.doctor.platforms.fly_addresses import check_addresses
from pgidle.doctor.platforms.fly_keys import check_headings, check_keys
from pgidle.doctor.platforms.fly_machine import check_size, check_volumes
from pgidle.doctor.platforms.fly_start_stop import check_deploy, check_restart, check_stop
from pgidle.doctor.readers.fly_processes import Role, command, flatten, groups, normalise, of_postgres, role
from pgidle.doctor.readers.image_names import built_major, check_image, dockerfile_path
from pgidle.doctor.readers.server_addresses import Variable, addresses
from pgidle.doctor.readers.stated_settings import Context, settle, variables
from pgidle.doctor.readers.toml_tree import Statement, read_toml, statements
from pgidle.doctor.readers.tree import BadFile
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from pgidle.doctor.readers.stated_settings import Told
    from pgidle.doctor.readers.tree import Node

MARKS = {
    *("app", "primary_region", "kill_signal", "kill_timeout", "services", "http_service", "mounts", "vm"),
    *("processes", "restart", "deploy", "checks", "env", "build", "metrics", "statics", "internal_port"),
}
"""Keys of a fly.toml."""
READ = frozenset(
    {
        *(
            "kill_signal",
            "kill_timeout",
            "env",
            "services",
            "http_service",
            "mounts",
            "vm",
            "restart",
            "checks",
        ),
        *("build", "processes", "deploy", "metrics", "experimental"),
    }
)
"""Keys that are checked in the fly.toml of a Postgres."""
HARMLESS = ("app", "primary_region", "console_command", "swap_size_mb")


def examine(name: str, text: str, context: Context) -> Chart:
    """All findings about a fly.toml."""
    chart = Chart(name)
    lines = list(statements(text))
    check_headings(chart, lines)
    fly_services.check_pg_tls(chart, lines)
    named = list(addresses(_variables(lines)))
    check_addresses(chart, named)
    try:
        root = read_toml(text)
    except BadFile as error:
        chart.wrong(
            f"not TOML: {error.why}",
            f"{name}:{error.line}",
            "fly deploy cannot read it; a duplicate key often just lacks its heading",
            "write each group of keys under its heading: [env], [[services]], [[services.ports]], [[mounts]]",
        )
        return chart
    root = normalise(root)
    check_keys(chart, root)
    environ = variables(root.at("env"))
    port = (environ["PGIDLE_PORT"].text or "") if "PGIDLE_PORT" in environ else "5432"
    ours = of_postgres(root, port)
    group = ours[0] if ours else groups(root)[0]
    whole, root = root, flatten(root, group)
    kind = role(root, environ, port, context, has_addresses=bool(named))
    chart.read.append(f"as {FLYCTL} reads it")
    if kind is Role.CLIENT or kind is Role.UNKNOWN:
        _say_whose(chart, kind, port)
        return chart
    _account(chart, whole, group, ours)
    node = command(root)
    line = node.line if node is not None else 1
    read = arguments(chart, f"{name}:{line}", words(root.at("experimental", "entrypoint")), words(node))
    if read is None:
        check_image(chart, root.at("build", "image"))
        chart.not_read.append("services, volume and everything else, as it is not certain that pgidle starts")
        return chart
    told = settle(chart, name, environ, read, line, context, defaults=IMAGE_ENVIRONMENT)
    check_image(chart, root.at("build", "image"))
    if kind is Role.POSTGRES and root.word("build", "image") is None:
        chart.unknown(
            "whether pgidle runs here",
            f"{name}:{(root.at('build') or root).line}",
            "nothing in the file, nor a Dockerfile beside it, says so; without pgidle nothing puts Postgres to sleep",
            "the image under [build], or PGIDLE_ variables under [env]",
        )
    fly_services.examine(chart, root, told)
    check_restart(chart, root, told)
    check_stop(chart, root, told, context)
    check_volumes(chart, root, told, _version(root, context))
    check_size(chart, root)
    check_deploy(chart, root, told)
    _check_environment(chart, environ, told)
    return chart


def named_files(text: str) -> list[str]:
    """The files that it refers to and that should be read, as paths relative to its own folder."""
    try:
        path = dockerfile_path(read_toml(text).at("build"))
    except BadFile:
        return []
    return [path] if path is not None else []


def _variables(lines: list[Statement]) -> list[Variable]:
    return [Variable(one.key, one.value.strip("\"'"), one.line) for one in lines]


def _say_whose(chart: Chart, kind: Role, port: str) -> None:
    chart.read.append("addresses of Postgres, wherever they are written")
    chart.not_read.append("everything else")
    if kind is Role.CLIENT:
        chart.note(
            f"this fly.toml has no service on Postgres's port {port}, and nothing that says Postgres runs here",
            f"{chart.subject}:1",
            "it was read as an application's, so only addresses of Postgres were looked at",
            "run pgidle doctor on the fly.toml of the Postgres app, too",
        )
    else:
        chart.unknown(
            "whether Postgres runs in this app",
            f"{chart.subject}:1",
            f"nothing says so: no service on port {port}, no image, no PGDATA, no PGIDLE_ variable; and nothing says"
            " that it is an application's file",
            "PGIDLE_ variables under [env], if it should be checked as a Postgres that sleeps",
        )


def _account(chart: Chart, root: Node, group: str, ours: list[str]) -> None:
    chart.account("keys", [key for key in root.table or {} if key not in HARMLESS], READ)
    known = groups(root)
    others = [one for one in known if one != group]
    if len(ours) > 1 or not ours:
        chart.unknown(
            f"which of the groups {', '.join(known)} runs Postgres",
            f"{chart.subject}:{(root.at('processes') or root).line}",
            f"{group} was looked at, the others not",
            "one app for Postgres alone",
        )
    if others:
        chart.read.append(f"group {group} of [processes]")
        chart.not_read.append(f"groups {', '.join(others)} of [processes]")
    chart.not_read.append(
        "secrets, what fly launch, fly scale and fly machine update have set, and pgidle.toml"
    )


def _version(root: Node, context: Context) -> int | None:
    image = root.word("build", "image")
    return image_major(image) if image else built_major(root.at("build"), context)


def _check_environment(chart: Chart, environ: dict[str, Node], told: Told) -> None:
    settings = told.settings
    if settings.when_idle is WhenIdle.STAY:
        node = environ.get("PGIDLE_WHEN_IDLE")
        chart.note(
            "when-idle is stay",
            f"{chart.subject}:{node.line if node is not None else 1}",
            "the machine keeps running, and costs money, while Postgres sleeps",
            'PGIDLE_WHEN_IDLE = "exit", which is the default',
        )
    if settings.idle_timeout is None:
        node = environ.get("PGIDLE_IDLE_TIMEOUT")
        chart.note(
            "idle-timeout is off",
            f"{chart.subject}:{node.line if node is not None else 1}",
            "Postgres never sleeps by itself",
            'PGIDLE_IDLE_TIMEOUT = "5min"',
        )
    for name in ("POSTGRES_PASSWORD", "DATABASE_URL"):
        node = environ.get(name)
        if node is not None and (
            name == "POSTGRES_PASSWORD" or re.search(r"://[^/@]*:[^/@]+@", node.text or "")
        ):
            chart.note(
                f"{name} has a password in this file",
                f"{chart.subject}:{node.line}",
                "anybody who sees the file has it",
                f"fly secrets set {name}=...",
            )
    if (flex := environ.get("FLY_SCALE_TO_ZERO")) is not None:
        chart.note(
            "FLY_SCALE_TO_ZERO is set",
            f"{chart.subject}:{flex.line}",
            "postgres-flex reads it, pgidle does not; the two together would both stop Postgres",
            'PGIDLE_IDLE_TIMEOUT = "1h"',
        )

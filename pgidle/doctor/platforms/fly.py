"""fly.toml: whether the machine that it describes may sleep, is woken, and keeps its data."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import (
    FLY_DEPLOY_STRATEGIES,
    FLY_DEPLOY_WATCH,
    FLY_KEYS,
    FLY_KILL_TIMEOUT,
    FLY_LONGEST_KILL_TIMEOUT,
    FLY_RESTART_POLICIES,
    FLYCTL,
    IMAGE_ENVIRONMENT,
    image_major,
)
from pgidle.doctor.finding import Chart
from pgidle.doctor.platforms import fly_services
from pgidle.doctor.platforms.containers import arguments, words
from pgidle.doctor.platforms.fly_machine import check_size, check_volumes
from pgidle.doctor.platforms.stop_time import check_kill_timeout, check_signal
from pgidle.doctor.readers.durations import go_duration, written
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
HEADINGS = {
    **dict.fromkeys(
        ("internal_port", "protocol", "auto_stop_machines", "auto_start_machines"), "[[services]]"
    ),
    **dict.fromkeys(("min_machines_running", "force_https"), "[[services]]"),
    **dict.fromkeys(("port", "handlers"), "[[services.ports]]"),
    **dict.fromkeys(("soft_limit", "hard_limit"), "[services.concurrency]"),
    **dict.fromkeys(("interval", "timeout", "grace_period", "restart_limit"), "[checks.NAME]"),
    **dict.fromkeys(("source", "destination", "initial_size"), "[[mounts]]"),
    **dict.fromkeys(("policy", "retries"), "[[restart]]"),
}
"""Keys that mean something under a heading only."""
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
"""What is looked at of a Postgres's file."""
HARMLESS = ("app", "primary_region", "console_command", "swap_size_mb")


def examine(name: str, text: str, context: Context) -> Chart:
    """Everything there is to say about a fly.toml."""
    chart = Chart(name)
    lines = list(statements(text))
    _check_headings(chart, lines)
    fly_services.check_pg_tls(chart, lines)
    _check_addresses(chart, lines)
    try:
        root = read_toml(text)
    except BadFile as error:
        chart.wrong(
            f"not TOML: {error.why}",
            f"{name}:{error.line}",
            "fly deploy does not read it; a key that is there twice often lacks its heading",
            "write each group of keys under its heading: [env], [[services]], [[services.ports]], [[mounts]]",
        )
        return chart
    root = normalise(root)
    _check_keys(chart, root)
    environ = variables(root.at("env"))
    port = (environ["PGIDLE_PORT"].text or "") if "PGIDLE_PORT" in environ else "5432"
    named = list(addresses(_variables(lines)))
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
    _check_restart(chart, root, told)
    _check_stop(chart, root, told, context)
    check_volumes(chart, root, told, _version(root, context))
    check_size(chart, root)
    _check_deploy(chart, root, told)
    _check_environment(chart, environ, told)
    return chart


def named_files(text: str) -> list[str]:
    """The files beside it that it names, and that are read: paths from its own folder."""
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
            "PGIDLE_ variables under [env], if it is to be looked at as a Postgres that sleeps",
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


def _check_keys(chart: Chart, root: Node) -> None:
    """Keys that flyctl passes over without a word, also where its --strict does not look."""
    for path, known in FLY_KEYS.items():
        for node in _at(root, path.split(".") if path else []):
            for key, value in (node.table or {}).items():
                if key in known or (not path and (key in HEADINGS or key.isupper())):
                    continue
                near = get_close_matches(key, known, n=1, cutoff=0.75)
                section = f" in [{path.replace('.*', '')}]" if path else ""
                said = f"{key} is no key of flyctl's{section}", f"{chart.subject}:{value.line}"
                if near:
                    chart.wrong(*said, "it is passed over, without a word", near[0])
                else:
                    chart.note(*said, "it is passed over, without a word", "leave it out")


def _at(node: Node, path: list[str]) -> list[Node]:
    """The tables at a path, `*` being any key, of every row of arrays."""
    if node.rows is not None:
        return [found for row in node.rows for found in _at(row, path)]
    if not path:
        return [node]
    keys = list(node.table or {}) if path[0] == "*" else [path[0]]
    return [found for key in keys if (below := node.at(key)) is not None for found in _at(below, path[1:])]


def _check_headings(chart: Chart, lines: list[Statement]) -> None:
    lost: dict[str, Statement] = {}
    for one in lines:
        if one.section or len(one.path) != 1:
            continue
        heading = HEADINGS.get(one.key) or ("[env]" if one.key.isupper() else None)
        if heading is not None:
            lost.setdefault(heading, one)
    for heading, one in lost.items():
        chart.wrong(
            f"`{one.key}` stands above every heading",
            f"{chart.subject}:{one.line}",
            f"there it means nothing: it belongs under {heading}",
            f"write {heading} on a line before it",
        )


def _check_addresses(chart: Chart, lines: list[Statement]) -> None:
    """Names and connection strings of Postgres servers, wherever they are written."""
    for one in addresses(_variables(lines)):
        where = f"{chart.subject}:{one.variable.line}"
        if one.host.endswith(".internal"):
            app = one.host.removesuffix(".internal").rpartition(".")[2]
            said = (
                f"{one.host} is an .internal name",
                where,
                "such names leave out machines that are stopped, and connecting to one wakes nothing",
                f"{app}.flycast, an address that fly ips allocate-v6 --private makes",
            )
            if one.is_sure:
                chart.wrong(*said)
            else:
                chart.note(said[0] + ", and perhaps a Postgres's", *said[1:])
        elif one.host.endswith(".flycast") and one.sslmode in ("require", "verify-ca", "verify-full"):
            chart.wrong(
                f"sslmode={one.sslmode} over Flycast",
                where,
                "Flycast is WireGuard already, and nobody there answers in TLS: the client sees"
                " `tls handshake eof` or that the server does not support it",
                "sslmode=disable at the end of the connection string",
            )
        elif one.host.endswith(".flycast") and one.sslmode is not None and one.sslmode != "disable":
            chart.note(
                "a connection over Flycast does not say sslmode=disable",
                where,
                "some drivers insist on TLS, which Flycast does not need",
                "sslmode=disable at the end of the connection string",
            )


def _check_restart(chart: Chart, root: Node, told: Told) -> None:
    rows = root.list("restart")
    exits = told.settings.when_idle is WhenIdle.EXIT
    for row in rows:
        policy = row.word("policy") or ""
        node = row.at("policy") or row
        where = f"{chart.subject}:{node.line}"
        if policy == "always" and exits:
            chart.wrong(
                "restart policy is always",
                where,
                "a machine whose Postgres went to sleep is started again at once, and never stays stopped",
                'policy = "on-failure"',
            )
        elif policy and policy not in FLY_RESTART_POLICIES:
            chart.wrong(
                f"restart policy is {policy}", where, f"flyctl refuses it: it has {', '.join(FLY_RESTART_POLICIES)}",
                'policy = "on-failure"',
            )  # fmt: skip
        elif policy == "never":
            chart.wrong(
                f"restart policy is {policy}", where, "after a crash the machine stays down",
                'policy = "on-failure"',
            )  # fmt: skip
        else:
            chart.fine(f"restart policy {policy or 'on-failure'}")
    if not rows and exits:
        chart.note(
            "no restart policy is given",
            f"{chart.subject}:1",
            "fly deploy takes on-failure, but a machine made by fly machine run or fly postgres keeps always,"
            " which defeats sleeping",
            '[[restart]] policy = "on-failure"',
        )


def _check_stop(chart: Chart, root: Node, told: Told, context: Context) -> None:
    if (signal := root.at("kill_signal")) is not None:
        check_signal(chart, "kill_signal", signal.text or "", f"{chart.subject}:{signal.line}")
    node = root.at("kill_timeout")
    where = f"{chart.subject}:{node.line if node is not None else 1}"
    seconds = FLY_KILL_TIMEOUT if node is None else go_duration(node.text or "")
    if seconds is None:
        chart.wrong(
            f"kill_timeout {node.text if node is not None else ''} is no duration",
            where, "fly deploy refuses it", 'kill_timeout = "30s"',
        )  # fmt: skip
        return
    if seconds > FLY_LONGEST_KILL_TIMEOUT:
        chart.wrong(
            f"kill_timeout is {written(seconds)}", where,
            f"Fly grants {written(FLY_LONGEST_KILL_TIMEOUT)} at most", "kill_timeout = 300",
        )  # fmt: skip
        seconds = FLY_LONGEST_KILL_TIMEOUT
    longer = max(30, int(told.settings.stop_timeout + 5), int((context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        "kill_timeout",
        seconds,
        where,
        told,
        context,
        f'kill_timeout = "{min(longer, 300)}s"',
        is_given=node is not None,
    )
    if node is None and told.settings.stop_timeout < seconds:
        chart.note(
            "kill_timeout is not given, so it is 5 s",
            where,
            "a shutdown under load has to write a checkpoint, which may take longer; what is cut short has to"
            " recover at the next start",
            'kill_timeout = "30s", and PGIDLE_STOP_TIMEOUT = "25s" under [env]',
        )


def _version(root: Node, context: Context) -> int | None:
    image = root.word("build", "image")
    return image_major(image) if image else built_major(root.at("build"), context)


def _check_deploy(chart: Chart, root: Node, told: Told) -> None:
    settings = told.settings
    strategy = root.at("deploy", "strategy")
    if strategy is not None and strategy.text not in FLY_DEPLOY_STRATEGIES:
        chart.wrong(
            f"deploy strategy is {strategy.text}", f"{chart.subject}:{strategy.line}", "fly deploy refuses it",
            'strategy = "rolling"',
        )  # fmt: skip
    awake = max(settings.idle_timeout or 0.0, settings.min_awake)
    if settings.idle_timeout is not None and awake < FLY_DEPLOY_WATCH and settings.when_idle is WhenIdle.EXIT:
        node = root.at("env", "PGIDLE_IDLE_TIMEOUT")
        chart.note(
            f"it may sleep {written(awake)} after waking",
            f"{chart.subject}:{node.line if node is not None else 1}",
            "fly deploy waits until the machine has started and its checks pass, and calls a deploy failed whose"
            " machine exits before",
            'PGIDLE_MIN_AWAKE = "1min" under [env]',
        )
    if strategy is not None and strategy.text in ("canary", "bluegreen"):
        chart.wrong(
            f"deploy strategy is {strategy.text}",
            f"{chart.subject}:{strategy.line}",
            "it starts a second machine beside the first, which a volume cannot be shared with",
            'strategy = "rolling"',
        )


def _check_environment(chart: Chart, environ: dict[str, Node], told: Told) -> None:
    settings = told.settings
    if settings.when_idle is WhenIdle.STAY:
        node = environ.get("PGIDLE_WHEN_IDLE")
        chart.note(
            "when-idle is stay",
            f"{chart.subject}:{node.line if node is not None else 1}",
            "the machine goes on running, and costs, while Postgres sleeps",
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
                "whoever sees the file has it",
                f"fly secrets set {name}=...",
            )
    if (flex := environ.get("FLY_SCALE_TO_ZERO")) is not None:
        chart.note(
            "FLY_SCALE_TO_ZERO is set",
            f"{chart.subject}:{flex.line}",
            "postgres-flex reads it, pgidle does not; the two together would both stop Postgres",
            'PGIDLE_IDLE_TIMEOUT = "1h"',
        )

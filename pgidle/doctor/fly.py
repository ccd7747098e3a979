"""fly.toml: whether the machine that it describes may sleep, is woken, and keeps its data.

Facts are from https://fly.io/docs/reference/configuration/.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pgidle.doctor import fly_services
from pgidle.doctor.containers import FIRST_NEW, IMAGE_DATA, OLD_DATA, arguments, check_old_place, words
from pgidle.doctor.durations import go_duration, written
from pgidle.doctor.finding import Chart
from pgidle.doctor.images import built_major, check_image, major
from pgidle.doctor.stopping import check_kill_timeout, check_signal
from pgidle.doctor.told import Context, settle, variables
from pgidle.doctor.toml_tree import Statement, read_toml, statements
from pgidle.doctor.tree import BadFile
from pgidle.options import WhenIdle

if TYPE_CHECKING:
    from pgidle.doctor.told import Told
    from pgidle.doctor.tree import Node

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
_INTERNAL = re.compile(r"(?<![\w.{}$-])(?!_api\.internal)[\w.{}$-]+\.internal\b")
_URL = re.compile(r"postgres(?:ql)?://[^\s\"'#]+")
KILL_TIMEOUT, LONGEST_KILL_TIMEOUT = 5.0, 300.0
"""Seconds: Fly's default, and the most that it grants."""


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
    environ = variables(root.at("env"))
    command = _command(root)
    line = command.line if command is not None else 1
    read = arguments(chart, f"{name}:{line}", words(root.at("experimental", "entrypoint")), words(command))
    told = settle(chart, name, environ, read, line, context)
    if fly_services.is_client(root, told):
        chart.note(
            f"this fly.toml has HTTP services and none on Postgres's port {told.settings.port}",
            f"{name}:1",
            "it was read as that of an application which connects to Postgres, so only its connections were"
            " looked at",
            "run pgidle doctor on the fly.toml of the Postgres app, too",
        )
        return chart
    check_image(chart, root.at("build", "image"))
    fly_services.examine(chart, root, told)
    _check_restart(chart, root, told)
    _check_stop(chart, root, told, context)
    _check_mounts(chart, root, told, _version(root, context))
    _check_deploy(chart, root)
    _check_environment(chart, environ, told)
    return chart


def _command(root: Node) -> Node | None:
    """What follows the image's entrypoint, where one process only is described."""
    processes = [node for _, node in root.items("processes")]
    return processes[0] if len(processes) == 1 else root.at("experimental", "cmd")


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
    """Names and connection strings, wherever they are written."""
    for one in lines:
        where = f"{chart.subject}:{one.line}"
        if (found := _INTERNAL.search(one.value)) is not None:
            app = found[0].removesuffix(".internal").rpartition(".")[2]
            chart.wrong(
                f"{found[0]} is an .internal name",
                where,
                "such names leave out machines that are stopped, and connecting to one wakes nothing",
                f"{app}.flycast, an address that fly ips allocate-v6 --private makes",
            )
        for url in _URL.findall(one.value):
            mode = re.search(r"[?&]sslmode=([\w-]+)", url)
            if ".flycast" not in url:
                continue
            if mode is not None and mode[1] in ("require", "verify-ca", "verify-full"):
                chart.wrong(
                    f"sslmode={mode[1]} over Flycast",
                    where,
                    "Flycast is WireGuard already, and nobody there answers in TLS: the client sees"
                    " `tls handshake eof` or that the server does not support it",
                    "sslmode=disable at the end of the connection string",
                )
            elif mode is None or mode[1] != "disable":
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
        elif policy in ("never", "no"):
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
    seconds = KILL_TIMEOUT if node is None else go_duration(node.text or "")
    if seconds is None:
        chart.wrong(
            f"kill_timeout {node.text if node is not None else ''} is no duration",
            where, "fly deploy refuses it", 'kill_timeout = "30s"',
        )  # fmt: skip
        return
    if seconds > LONGEST_KILL_TIMEOUT:
        chart.wrong(
            f"kill_timeout is {written(seconds)}", where,
            f"Fly grants {written(LONGEST_KILL_TIMEOUT)} at most", "kill_timeout = 300",
        )  # fmt: skip
        seconds = LONGEST_KILL_TIMEOUT
    longer = max(30, int(told.settings.stop_timeout + 5), int((context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        "kill_timeout",
        seconds,
        where,
        told.settings,
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
    return major(image) if image else built_major(root.at("build"), context)


def _check_mounts(chart: Chart, root: Node, told: Told, version: int | None) -> None:
    mounts = root.list("mounts") or root.list("mount")
    if not mounts:
        chart.wrong(
            "no volume is mounted",
            f"{chart.subject}:1",
            "the machine's own file system is made anew at every start: the data would be gone",
            f'[[mounts]] source = "pgdata", destination = "{_parent(told)}"',
        )
    for mount in mounts:
        destination, line = mount.word("destination") or "", (mount.at("destination") or mount).line
        where = f"{chart.subject}:{line}"
        volume = PurePosixPath(destination or "/")
        if told.data_dir is None:
            if volume == OLD_DATA and version is not None and version < FIRST_NEW:
                chart.wrong(
                    f"the volume is mounted at the data directory {OLD_DATA} itself",
                    where,
                    "a volume's root has lost+found in it, and Postgres wants an empty directory",
                    f'PGDATA = "{OLD_DATA}/pgdata" under [env]',
                )
            elif volume == OLD_DATA:
                check_old_place(chart, destination, where, version)
            elif volume == IMAGE_DATA:
                chart.fine(f"a volume at {destination}, where the official image keeps its data")
            else:
                chart.unknown(
                    f"whether the data directory lies on the volume at {destination}",
                    where,
                    "the file does not say where the data directory is",
                    f'PGDATA = "{destination.rstrip("/")}/data" under [env]',
                )
            continue
        data_dir = PurePosixPath(told.data_dir)
        if volume == data_dir:
            chart.wrong(
                f"the volume is mounted at the data directory {data_dir} itself",
                where,
                "a volume's root has lost+found in it, and Postgres wants an empty directory",
                f'PGDATA = "{data_dir}/data" under [env]',
            )
        elif volume in data_dir.parents:
            chart.fine(f"data directory {data_dir} on the volume at {volume}")
        else:
            chart.wrong(
                f"the data directory {data_dir} does not lie on the volume at {destination}",
                where,
                "what is not on the volume is gone when the machine stops",
                f'destination = "{data_dir.parent}"',
            )


def _parent(told: Told) -> str:
    return str(PurePosixPath(told.data_dir).parent) if told.data_dir else "/var/lib/postgresql"


def _check_deploy(chart: Chart, root: Node) -> None:
    strategy = root.at("deploy", "strategy")
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

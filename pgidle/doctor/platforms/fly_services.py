"""fly.toml's services and checks: the way from a client, through Fly's proxy, to Postgres's port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.base.platform_limits import (
    FLY_AUTOSTOP,
    FLY_IMAGE_CHECK,
    FLY_LONGEST_CHECK_TIMEOUT,
    FLY_SHORTEST_CHECK_INTERVAL,
    FLYCTL,
)
from pgidle.doctor.readers.durations import go_duration
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Told
    from pgidle.doctor.readers.toml_tree import Statement
    from pgidle.doctor.readers.tree import Node

HANDLERS = {
    "http": "Postgres speaks no HTTP: no client gets through",
    "edge_http": "Postgres speaks no HTTP: no client gets through",
    "tls": "Postgres's clients ask for TLS within Postgres's protocol: they see `tls handshake eof`",
    "proxy_proto": "Postgres does not understand the PROXY protocol and closes the connection",
}
FEW = 100
"""Postgres's default max_connections: a limit of the proxy's below it is reached first."""
LOCAL = {"127.0.0.1", "::1", "localhost", "fly-local-6pn"}
"""Addresses that the proxy does not reach."""


def check_pg_tls(chart: Chart, lines: Sequence[Statement]) -> None:
    """`pg_tls` among the handlers of something other than Postgres; also reported for a file that is not TOML."""
    for one in lines:
        if one.key == "handlers" and "pg_tls" in one.value and ("http" in one.value or '"tls"' in one.value):
            chart.wrong(
                "handler pg_tls beside http or tls",
                f"{chart.subject}:{one.line}",
                "pg_tls is for the service of Postgres, not for the application that connects to it; and only for"
                " public addresses, because over Flycast nobody needs TLS",
                'take "pg_tls" out, and end the application\'s connection string with sslmode=disable',
            )


def examine(chart: Chart, root: Node, told: Told) -> None:
    """Check the services, with their ports, limits and checks, and the top-level checks, which only inform."""
    port = str(told.settings.port)
    services = root.list("services")
    ours = [one for one in services if one.word("internal_port") == port]
    for one in root.list("http_service"):
        if one.word("internal_port") == port:
            chart.wrong(
                f"[http_service] leads to Postgres's port {port}",
                f"{chart.subject}:{one.line}",
                HANDLERS["http"],
                f'[[services]] internal_port = {port}, protocol = "tcp", and [[services.ports]] without handlers',
            )
    if not ours and not any(one.word("internal_port") == port for one in root.list("http_service")):
        _no_service(chart, services, port)
    for one in services:
        if one in ours:
            _check_service(chart, one, told)
    others = [one.word("internal_port") or "" for one in services if one not in ours]
    if others:
        chart.not_read.append(
            f"services on other ports ({', '.join(others)}), but for what stops the machine"
        )
    _check_proxy_stop(chart, [*root.list("http_service"), *services], told)
    _check_listening(chart, root, told)
    _check_checks(chart, root, told)


def _no_service(chart: Chart, services: Sequence[Node], port: str) -> None:
    near = next((one for one in services if one.word("protocol") in (None, "tcp")), None)
    other = near.at("internal_port") if near is not None else None
    found = f"; this one leads to {other.text}" if other is not None else ""
    chart.wrong(
        f"no [[services]] leads to port {port}, where pgidle listens{found}",
        f"{chart.subject}:{other.line if other is not None else 1}",
        "Fly's proxy starts a stopped machine only for a connection to one of its services",
        f"internal_port = {port}",
    )


def _check_service(chart: Chart, service: Node, told: Told) -> None:
    where = f"{chart.subject}:{service.line}"
    protocol = service.at("protocol")
    if protocol is not None and protocol.text != "tcp":
        chart.wrong(
            f"protocol is {protocol.text}", f"{chart.subject}:{protocol.line}", "Postgres speaks TCP only",
            'protocol = "tcp"',
        )  # fmt: skip
    ports = service.list("ports")
    if not ports:
        chart.wrong(
            "the service of Postgres has no [[services.ports]]",
            where,
            "the proxy listens on no port for it, not even on Flycast",
            f"[[services.ports]] port = {told.settings.port}",
        )
    for port in ports:
        _check_port(chart, port)
    _check_start(chart, service, told)
    _check_limits(chart, service)
    for kind in ("tcp_checks", "http_checks", "checks"):
        for check in service.list(kind):
            chart.wrong(
                f"a service check on the database port (services.{kind})",
                f"{chart.subject}:{check.line}",
                "while it fails, as it must until Postgres is awake, the proxy keeps the waking client out; and a"
                " TCP check is a connection that counts as use",
                '[checks.pgidle] type = "http", port = 8008, path = "/health", which only informs',
            )


def _check_port(chart: Chart, port: Node) -> None:
    handlers = port.words("handlers")
    node = port.at("handlers") or port
    where = f"{chart.subject}:{node.line}"
    for handler in handlers:
        if handler in HANDLERS:
            chart.wrong(
                f'handler "{handler}" on a port that leads to Postgres', where, HANDLERS[handler],
                "leave handlers out: connections are passed on as they are",
            )  # fmt: skip
    if "pg_tls" in handlers:
        chart.note(
            "handler pg_tls",
            where,
            "it is for public addresses, whose clients say sslmode=require; over Flycast clients say"
            " sslmode=disable and need a port without it",
            "leave handlers out, unless the database is meant to be public",
        )
    elif not handlers:
        chart.fine("raw TCP, without handlers")
    if port.word("force_https") == "true":
        chart.wrong(
            "force_https on a port that leads to Postgres",
            f"{chart.subject}:{(port.at('force_https') or port).line}", HANDLERS["http"],
            "leave force_https out",
        )  # fmt: skip


def _check_proxy_stop(chart: Chart, services: Sequence[Node], told: Told) -> None:
    """Check all services of the machine, as any one of them can stop it."""
    stopping = False
    for service in services:
        stop, least = service.at("auto_stop_machines"), service.at("min_machines_running")
        if stop is not None and stop.text not in FLY_AUTOSTOP:
            stopping = True
            chart.wrong(
                f"auto_stop_machines is {stop.text}", f"{chart.subject}:{stop.line}", f"{FLYCTL.name} refuses it",
                'auto_stop_machines = "off"',
            )  # fmt: skip
        elif stop is not None and stop.text not in ("off", "false"):
            stopping = True
            chart.wrong(
                f"auto_stop_machines is {stop.text}",
                f"{chart.subject}:{stop.line}",
                "the proxy stops the machine by its own count of connections: it sees no maintenance, no hold, no"
                " replication over the private network; pgidle exits by itself",
                'auto_stop_machines = "off"',
            )
        if least is not None and least.text != "0" and told.settings.when_idle is WhenIdle.EXIT:
            chart.note(
                f"min_machines_running is {least.text}",
                f"{chart.subject}:{least.line}",
                "with auto_stop_machines off it has no effect; with anything else it keeps the machine running",
                "min_machines_running = 0",
            )
    if services and not stopping:
        chart.fine("auto_stop_machines off")


def _check_start(chart: Chart, service: Node, told: Told) -> None:
    start = service.at("auto_start_machines")
    if start is not None and start.text == "false":
        if told.settings.when_idle is WhenIdle.EXIT:
            chart.wrong(
                "auto_start_machines is off",
                f"{chart.subject}:{start.line}",
                "nothing starts the machine again when a client connects",
                "auto_start_machines = true",
            )
    else:
        chart.fine("auto_start_machines on")


def _check_limits(chart: Chart, service: Node) -> None:
    kind = service.at("concurrency", "type")
    if kind is not None and kind.text != "connections":
        chart.wrong(
            f"concurrency is counted in {kind.text}",
            f"{chart.subject}:{kind.line}",
            "a TCP service has only connections",
            'type = "connections"',
        )
    hard = service.at("concurrency", "hard_limit")
    if hard is not None and (hard.text or "").isdecimal() and int(hard.text or "") < FEW:
        chart.note(
            f"hard_limit is {hard.text} connections",
            f"{chart.subject}:{hard.line}",
            "one more waits at the proxy although Postgres has room, and the pools of a few processes soon reach that",
            f"hard_limit = {FEW} or more, at least max_connections",
        )


def _check_listening(chart: Chart, root: Node, told: Told) -> None:
    hosts = {host.strip() for host in told.settings.listen_addresses.split(",")}
    if hosts <= LOCAL:
        node = root.at("env", "PGIDLE_LISTEN_ADDRESSES")
        chart.wrong(
            f"pgidle listens on {told.settings.listen_addresses} only",
            f"{chart.subject}:{node.line if node is not None else 1}",
            "Fly's proxy does not reach that address",
            'PGIDLE_LISTEN_ADDRESSES = "*", which is the default',
        )


def _check_checks(chart: Chart, root: Node, told: Told) -> None:
    port, http = str(told.settings.port), told.settings.http
    for name, check in root.items("checks"):
        where = f"{chart.subject}:{check.line}"
        target, kind = check.word("port"), check.word("type")
        _check_times(chart, name, check)
        if kind not in ("http", "tcp"):
            chart.wrong(
                f"check {name} has type {kind or 'none'}",
                where,
                f"{FLYCTL.name} refuses it: http or tcp",
                'type = "http"',
            )
        if target == port or (target is None and kind != "http"):
            chart.wrong(
                f"check {name} connects to the database port",
                where,
                "every connection there counts as use, so Postgres never sleeps",
                '[checks.pgidle] type = "http", port = 8008, path = "/health"',
            )
        elif target == (str(http[1]) if http is not None else "8008"):
            _check_door(chart, f"check {name}", where, told)
            if (check.word("path") or "").rstrip("/").endswith("/ready"):
                chart.note(
                    f"check {name} asks for /ready", where, "it answers 503 while Postgres starts: the check only"
                    " informs, and fails when a deploy looks", 'path = "/health"',
                )  # fmt: skip
        elif (check.word("path") or "").startswith(FLY_IMAGE_CHECK):
            chart.wrong(
                f"check {name} asks Fly's own Postgres image, on port {target}",
                where,
                "in pgidle's image nothing listens there, so fly deploy waits for the check in vain; and Fly's own"
                " image has no pgidle",
                "leave out what is for Fly's image (checks, second service, [metrics]); pgidle init fly writes a whole"
                " file",
            )
        else:
            # A check of this kind only informs, whatever answers it.
            chart.not_read.append(f"check {name} on port {target}")
    for row in root.list("metrics"):
        where, target = f"{chart.subject}:{(row.at('port') or row).line}", row.word("port")
        if target == port:
            chart.wrong(
                "[metrics] leads to the database port", where, "Fly scrapes it every 15 s, and every connection there"
                " counts as use: Postgres never sleeps", 'port = 8008, path = "/metrics"',
            )  # fmt: skip
        elif http is not None and target == str(http[1]):
            _check_door(chart, "[metrics]", where, told)
        else:
            chart.not_read.append(f"[metrics] on port {target}")


def _check_door(chart: Chart, what: str, where: str, told: Told) -> None:
    http = told.settings.http
    if http is None or http[0] in LOCAL:
        said = "off" if http is None else f"{http[0]}:{http[1]}"
        chart.wrong(
            f"{what} asks pgidle's HTTP, which is {said}",
            where,
            "the check does not come from loopback, so nothing answers it",
            'PGIDLE_HTTP = ":8008" under [env]',
        )
    else:
        chart.fine(f"{what} on port {http[1]}")


def _check_times(chart: Chart, name: str, check: Node) -> None:
    """Check interval and timeout. A bare number is milliseconds here, although it is seconds in kill_timeout."""
    infinite = float("inf")
    for key, least, most, limit in (
        ("interval", FLY_SHORTEST_CHECK_INTERVAL, infinite, f"{FLY_SHORTEST_CHECK_INTERVAL:g} s at least"),
        ("timeout", 0.0, FLY_LONGEST_CHECK_TIMEOUT, f"{FLY_LONGEST_CHECK_TIMEOUT:g} s at most"),
    ):
        node = check.at(key)
        if node is None:
            continue
        text = node.text or ""
        seconds = float(text) / 1000 if text.isdecimal() else go_duration(text)
        if seconds is None or not least <= seconds <= most:
            what = f"{text} ms" if text.isdecimal() else text
            chart.wrong(
                f"{key} of check {name} is {what}",
                f"{chart.subject}:{node.line}",
                f"{FLYCTL.name} refuses it: {limit}",
                f'{key} = "{"30s" if key == "interval" else "5s"}"',
            )

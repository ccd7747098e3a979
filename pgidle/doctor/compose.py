"""A Compose file: the service that runs pgidle, or should.

Facts are from https://github.com/compose-spec/compose-spec and https://docs.docker.com/reference/.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pgidle.doctor.containers import arguments, check_probe, check_volumes, words
from pgidle.doctor.durations import go_duration
from pgidle.doctor.finding import Chart
from pgidle.doctor.images import built_major, check_named, major
from pgidle.doctor.stopping import check_kill_timeout, check_signal
from pgidle.doctor.told import OURS, settle, variables
from pgidle.options import WhenIdle

if TYPE_CHECKING:
    from pgidle.doctor.told import Context, Told
    from pgidle.doctor.tree import Node

STOP_GRACE_PERIOD = 10.0
"""Seconds: Docker's default."""
SYSCTL = "net.ipv4.tcp_migrate_req"
_DEFAULT = re.compile(r"\$\{\w+:?-([^}$]*)\}")
LOOPBACK = ("127.", "[::1]", "::1", "localhost")


def examine(name: str, root: Node, context: Context) -> Chart:
    """Everything there is to say about a Compose file."""
    chart = Chart(name)
    services = dict(root.items("services"))
    ours = {key: one for key, one in services.items() if _runs_pgidle(one)}
    for key, one in ours.items():
        _examine_service(chart, key, one, context)
    if not ours:
        postgres = next((one for one in services.values() if "postgres" in (one.word("image") or "")), root)
        chart.wrong(
            "no service here runs pgidle",
            f"{name}:{postgres.line}",
            "nothing puts Postgres to sleep",
            "image: pgidle (docker build -t pgidle .), with PGIDLE_WHEN_IDLE: stay",
        )
    return chart


def _runs_pgidle(service: Node) -> bool:
    said = [*words(service.at("entrypoint")), *words(service.at("command")), service.word("image") or ""]
    build = service.at("build")
    if build is not None:
        said += [build.text or "", build.word("context") or "", build.word("dockerfile") or ""]
    named = any(variable.startswith("PGIDLE_") for variable in variables(service.at("environment")))
    return named or any("pgidle" in word for word in said)


def _examine_service(chart: Chart, key: str, service: Node, context: Context) -> None:
    environ = _interpolated(chart, variables(service.at("environment")))
    if service.at("build") is None:
        check_named(chart, service.at("image"))
    node = service.at("command") or service.at("entrypoint") or service
    where = f"{chart.subject}:{node.line}"
    read = arguments(chart, where, words(service.at("entrypoint")), words(service.at("command")))
    told = settle(chart, chart.subject, environ, read, node.line, context)
    if service.at("env_file") is not None:
        chart.unknown(
            f"what the env_file of {key} says",
            _where(chart, service, "env_file"),
            "it is not read here; what it sets counts",
            "write PGIDLE_ variables under environment:",
        )
    _check_waking(chart, service, told)
    _check_stop(chart, service, told, context)
    _check_kernel(chart, service)
    _check_ports(chart, service, environ, told)
    targets = [_target(each) for each in service.list("volumes")]
    line = (service.at("volumes") or service).line
    cure = f"volumes: [pgdata:{told.data_dir or '/var/lib/postgresql'}]"
    check_volumes(chart, [one for one in targets if one[0]], told, line, cure, _version(service, context))
    if (test := service.at("healthcheck", "test")) is not None:
        check_probe(
            chart, "healthcheck", words(test), f"{chart.subject}:{test.line}", "test: [CMD, pgidle, health]"
        )


def _version(service: Node, context: Context) -> int | None:
    build = service.at("build")
    return built_major(build, context) if build is not None else major(service.word("image") or "")


def _interpolated(chart: Chart, environ: dict[str, Node]) -> dict[str, Node]:
    """With ${NAME:-default} as its default, for nobody knows here what is set; without one it is not known."""
    known: dict[str, Node] = {}
    for name, node in environ.items():
        text = _DEFAULT.sub(r"\1", node.text or "")
        if "$" not in text.replace("$$", ""):
            known[name] = replace(node, text=text.replace("$$", "$"))
        elif name.startswith(OURS):
            chart.unknown(
                f"{name} is {node.text}",
                f"{chart.subject}:{node.line}",
                "its value comes from the environment of docker compose",
                "docker compose config | pgidle doctor /dev/stdin, where it is set",
            )
    return known


def _where(chart: Chart, service: Node, *path: str) -> str:
    return f"{chart.subject}:{(service.at(*path) or service).line}"


def _check_waking(chart: Chart, service: Node, told: Told) -> None:
    restart = service.word("restart") or "no"
    where = _where(chart, service, "restart")
    if told.settings.when_idle is WhenIdle.EXIT:
        again = restart in ("always", "unless-stopped")
        chart.wrong(
            f"when-idle is exit, with restart: {restart}",
            where,
            "Docker starts the container again the moment that it sleeps, so it never stays asleep"
            if again
            else "Docker starts no container for a client that connects: once asleep it stays down",
            "PGIDLE_WHEN_IDLE: stay",
        )
    elif restart == "no":
        chart.note(
            "no restart policy", where, "after a crash the container stays down", "restart: unless-stopped"
        )
    else:
        chart.fine(f"when-idle stay with restart: {restart}")


def _check_stop(chart: Chart, service: Node, told: Told, context: Context) -> None:
    if (signal := service.word("stop_signal")) is not None:
        check_signal(chart, "stop_signal", signal, _where(chart, service, "stop_signal"))
    given = service.word("stop_grace_period")
    seconds = STOP_GRACE_PERIOD if given is None else go_duration(given)
    where = _where(chart, service, "stop_grace_period")
    if seconds is None:
        chart.wrong(
            f"stop_grace_period {given} is no duration", where, "Compose refuses it", "stop_grace_period: 30s"
        )
        return
    longer = int(max(told.settings.stop_timeout + 5, (context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        "stop_grace_period",
        seconds,
        where,
        told.settings,
        context,
        f"stop_grace_period: {longer}s",
        is_given=given is not None,
    )


def _check_kernel(chart: Chart, service: Node) -> None:
    if (service.word("network_mode") or "") == "host":
        return
    said = {key: node.text for key, node in variables(service.at("sysctls")).items()}
    if said.get(SYSCTL) == "1":
        chart.fine(f"sysctl {SYSCTL}=1")
    else:
        chart.note(
            f"sysctl {SYSCTL} is not set",
            _where(chart, service, "sysctls"),
            "a container may not set it itself, so the gate works in mode synhold: who wakes Postgres waits a second"
            " or two",
            f"sysctls: {{{SYSCTL}: 1}}",
        )


def _check_ports(chart: Chart, service: Node, environ: dict[str, Node], told: Told) -> None:
    trust = environ.get("POSTGRES_HOST_AUTH_METHOD")
    ports = [_port(each) for each in service.list("ports")]
    wanted = str(told.settings.port)
    for host, target, line in ports:
        if target == wanted and trust is not None and trust.text == "trust" and not host.startswith(LOOPBACK):
            chart.wrong(
                "POSTGRES_HOST_AUTH_METHOD is trust, and the port is published to every network",
                f"{chart.subject}:{line}",
                "whoever reaches the machine is superuser, without a password",
                f'ports: ["127.0.0.1:{wanted}:{wanted}"], or POSTGRES_PASSWORD in place of trust',
            )
    http = str(told.settings.http[1]) if told.settings.http is not None else ""
    published = [(target, line) for _, target, line in ports if target]
    if published and all(target not in (wanted, http) for target, _ in published):
        chart.wrong(
            f"port {published[0][0]} of the container is published, and pgidle listens on {wanted}",
            f"{chart.subject}:{published[0][1]}",
            "nobody is there",
            f'ports: ["{wanted}:{wanted}"]',
        )


def _port(node: Node) -> tuple[str, str, int]:
    """The host's address, or nothing, and the container's port."""
    if node.table is not None:
        return node.word("host_ip") or "", node.word("target") or "", node.line
    text = (node.text or "").partition("/")[0]
    outside, _, target = text.rpartition(":")
    return outside.rpartition(":")[0], target, node.line


def _target(node: Node) -> tuple[str, int]:
    """Where in the container a volume is mounted: nothing for a tmpfs, which keeps no data."""
    if node.table is not None:
        kept = node.word("type") != "tmpfs"
        return (node.word("target") or "") if kept else "", node.line
    parts = (node.text or "").split(":")
    return (parts[1] if len(parts) > 1 else parts[0]), node.line

"""The service of a Compose file that runs pgidle: whether it wakes, how it stops, its ports and volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.base.platform_limits import DOCKER_STOP_GRACE_PERIOD, IMAGE_ENVIRONMENT, IMAGE_VOLUME, image_major
from pgidle.doctor.platforms.containers import arguments, check_probe, check_volumes, words
from pgidle.doctor.platforms.stop_time import check_kill_timeout, check_signal, check_stop_command
from pgidle.doctor.readers.compose_values import environment, leads_to, parts_of, port_of, target_of
from pgidle.doctor.readers.compose_variables import is_known, shown
from pgidle.doctor.readers.durations import go_duration
from pgidle.doctor.readers.image_names import built_major, check_named
from pgidle.doctor.readers.stated_settings import OURS, settle, variables
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Context, Told
    from pgidle.doctor.readers.tree import Node


LOOPBACK = ("127.", "[::1]", "::1", "localhost")


def _told(chart: Chart, name: str, service: Node, context: Context) -> Told | None:
    """The settings that pgidle gets; None unless pgidle is certain to be what starts."""
    environ, hidden = environment(service, context)
    node = service.at("command") or service.at("entrypoint") or service
    where = f"{name}:{node.line}"
    read = arguments(chart, where, words(service.at("entrypoint")), words(service.at("command")))
    if read is None:
        return None
    return settle(chart, name, environ, read, node.line, context, hidden=hidden, defaults=IMAGE_ENVIRONMENT)


def examine_service(chart: Chart, key: str, service: Node, context: Context) -> Told | None:
    """Check it, and return the settings that pgidle gets; None unless pgidle is certain to be what starts."""
    environ, hidden = environment(service, context)
    if service.at("build") is None:
        check_named(chart, service.at("image"))
    told = _told(chart, chart.subject, service, context)
    if told is None:
        chart.not_read.append(f"everything else of service {key}")
        return None
    for path in hidden.sources:
        chart.unknown(
            f"what {path} of {key} sets",
            _where(chart, service, "env_file"),
            "it cannot be read here, but its variables apply",
            "put it beside this file, or set the PGIDLE_ variables under environment:",
        )
    for name in sorted(hidden.names):
        if name.startswith(OURS):
            _unknown_variable(chart, name, service)
    _check_waking(chart, service, told)
    _check_stop(chart, service, told, context)
    _check_ports(chart, service, environ, told)
    _check_scale(chart, key, service)
    targets = [target_of(each) for each in service.list("volumes")]
    line = (service.at("volumes") or service).line
    cure = f"volumes: [pgdata:{told.data_dir or IMAGE_VOLUME}]"
    check_volumes(chart, [one for one in targets if one[0]], told, line, cure, _version(service, context))
    _check_anonymous(chart, service)
    health = service.at("healthcheck")
    if health is not None and health.word("disable") == "true":
        chart.fine("no healthcheck")
    elif (test := service.at("healthcheck", "test")) is not None:
        port = str(told.settings.port)
        cure = "test: [CMD, pgidle, health]"
        check_probe(chart, "healthcheck", words(test), f"{chart.subject}:{test.line}", cure, port)
    for hook in ("pre_stop", "post_start"):
        for one in service.list(hook):
            command = words(one.at("command"))
            where = f"{chart.subject}:{one.line}"
            check_stop_command(chart, hook, command, where, "no such hook: stop_signal stops it cleanly")
    return told


def _unknown_variable(chart: Chart, name: str, service: Node) -> None:
    node = variables(service.at("environment")).get(name)
    said = shown(node.text) if node is not None and node.text is not None else "not written here"
    chart.unknown(
        f"{name} is {said}",
        f"{chart.subject}:{(node or service).line}",
        "its value comes from the environment in which docker compose runs",
        "docker compose config | pgidle doctor /dev/stdin, where it is set",
    )


def _version(service: Node, context: Context) -> int | None:
    build = service.at("build")
    return built_major(build, context) if build is not None else image_major(service.word("image") or "")


def _where(chart: Chart, service: Node, *path: str) -> str:
    return f"{chart.subject}:{(service.at(*path) or service).line}"


def _check_waking(chart: Chart, service: Node, told: Told) -> None:
    restart = service.word("restart") or service.word("deploy", "restart_policy", "condition") or "no"
    where = _where(chart, service, "restart")
    if not told.knows("when-idle"):
        chart.unknown(
            "what when-idle is",
            where,
            f"{told.elsewhere} may set it; with exit, the default, Docker starts the container again at once or never",
            "PGIDLE_WHEN_IDLE: stay, under environment:",
        )
    elif told.settings.when_idle is WhenIdle.EXIT:
        again = restart in ("always", "unless-stopped", "any")
        chart.wrong(
            f"when-idle is exit, with restart: {restart}",
            where,
            "Docker restarts the container the moment Postgres sleeps, so it never stays asleep"
            if again
            else "Docker does not start a container when a client connects: once asleep, it stays down",
            "PGIDLE_WHEN_IDLE: stay",
        )
    elif restart in ("no", "none"):
        chart.note(
            "no restart policy", where, "after a crash the container stays down", "restart: unless-stopped"
        )
    else:
        chart.fine(f"when-idle stay with restart: {restart}")


def _check_stop(chart: Chart, service: Node, told: Told, context: Context) -> None:
    if (signal := service.word("stop_signal")) is not None:
        check_signal(chart, "stop_signal", signal, _where(chart, service, "stop_signal"))
    given = service.word("stop_grace_period")
    seconds = DOCKER_STOP_GRACE_PERIOD if given is None else go_duration(given)
    where = _where(chart, service, "stop_grace_period")
    if given is not None and not is_known(given):
        chart.unknown(
            f"stop_grace_period is {shown(given)}",
            where,
            "its value comes from the environment in which docker compose runs",
            "stop_grace_period: 30s",
        )
        return
    if seconds is None:
        chart.wrong(
            f"stop_grace_period {given} is not a duration",
            where,
            "Compose refuses it",
            "stop_grace_period: 30s",
        )
        return
    longer = int(max(told.settings.stop_timeout + 5, (context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        "stop_grace_period",
        seconds,
        where,
        told,
        context,
        f"stop_grace_period: {longer}s",
        is_given=given is not None,
    )


def _check_scale(chart: Chart, key: str, service: Node) -> None:
    for node in (service.at("scale"), service.at("deploy", "replicas")):
        if node is not None and (node.text or "").isdecimal() and int(node.text or "") > 1:
            chart.wrong(
                f"{node.text} containers of {key}",
                f"{chart.subject}:{node.line}",
                "two servers on one volume destroy the data, and on volumes of their own they are two databases",
                "one container",
            )


def _check_ports(chart: Chart, service: Node, environ: dict[str, Node], told: Told) -> None:
    trust = environ.get("POSTGRES_HOST_AUTH_METHOD")
    ports = [port_of(each) for each in service.list("ports")]
    wanted = str(told.settings.port)
    for host, target, line in ports:
        if leads_to(target, wanted) and trust is not None and trust.text == "trust":
            if host.startswith(LOOPBACK):
                continue
            chart.wrong(
                "POSTGRES_HOST_AUTH_METHOD is trust, and the port is published to every network",
                f"{chart.subject}:{line}",
                "anybody who reaches the machine is superuser, without a password",
                f'ports: ["127.0.0.1:{wanted}:{wanted}"], or POSTGRES_PASSWORD in place of trust',
            )
    http = str(told.settings.http[1]) if told.settings.http is not None else ""
    published = [(target, line) for _, target, line in ports if target]
    if any(not is_known(target) for target, _ in published) or not told.knows("port", "http"):
        return
    if published and not any(leads_to(target, one) for target, _ in published for one in (wanted, http)):
        chart.wrong(
            f"port {published[0][0]} of the container is published, and pgidle listens on {wanted}",
            f"{chart.subject}:{published[0][1]}",
            "nothing listens there",
            f'ports: ["{wanted}:{wanted}"]',
        )


def _check_anonymous(chart: Chart, service: Node) -> None:
    for one in service.list("volumes"):
        source, target = (
            parts_of(one.text or "") if one.text else (one.word("source") or "", one.word("target") or "")
        )
        is_volume = one.text is not None or one.word("type") in (None, "volume")
        if is_volume and not source and target.startswith(IMAGE_VOLUME):
            chart.note(
                f"the volume at {target} has no name",
                f"{chart.subject}:{one.line}",
                "docker compose down and up begins with an empty one, and the old data has to be found by hand",
                f"pgdata:{target}, and pgdata under volumes:",
            )

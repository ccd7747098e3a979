"""A Compose file: the service that runs pgidle, or should."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import (
    COMPOSE,
    DOCKER_STOP_GRACE_PERIOD,
    IMAGE_ENVIRONMENT,
    IMAGE_VOLUME,
    image_major,
)
from pgidle.doctor.finding import Chart
from pgidle.doctor.platforms.containers import arguments, check_probe, check_volumes, words
from pgidle.doctor.platforms.neighbours import Neighbour, check_neighbour
from pgidle.doctor.platforms.stop_time import check_kill_timeout, check_signal, check_stop_command
from pgidle.doctor.readers.compose_values import (
    env_files,
    environment,
    extended,
    leads_to,
    parts_of,
    port_of,
    target_of,
)
from pgidle.doctor.readers.compose_variables import interpolate, is_known, read_env_file, shown
from pgidle.doctor.readers.durations import go_duration
from pgidle.doctor.readers.image_names import (
    Contents,
    builds_pgidle,
    built_major,
    check_named,
    contents,
    cure,
    dockerfile_path,
)
from pgidle.doctor.readers.stated_settings import OURS, settle, variables
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.doctor.readers.stated_settings import Context, Told
    from pgidle.doctor.readers.tree import Node

LOOPBACK = ("127.", "[::1]", "::1", "localhost")
READ = frozenset(
    {
        *("image", "build", "command", "entrypoint", "environment", "env_file", "restart", "stop_signal"),
        *("stop_grace_period", "network_mode", "ports", "volumes", "healthcheck", "pre_stop"),
        *("post_start", "container_name", "hostname"),
    }
)
"""What is looked at of the service that runs pgidle."""
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
"""What can hide nothing that matters here."""
FEW = 6
"""Services whose names are said; of more, their number."""


def examine(name: str, root: Node, context: Context) -> Chart:
    """Everything there is to say about a Compose file."""
    chart = Chart(name)
    root = interpolate(root, _dot_env(context))
    services = {key: extended(one, root) for key, one in root.items("services")}
    ours = {key: one for key, one in services.items() if _runs_pgidle(one, context)}
    chart.read.append(f"as {COMPOSE} reads it")
    _account(chart, root, services, ours, context)
    for key, one in ours.items():
        _examine_service(chart, key, one, context)
        told = _told(Chart(name), name, one, context)
        if told is None:
            continue
        for other, beside in services.items():
            if other not in ours:
                hosts = _hosts(key, one, beside, root)
                check_neighbour(chart, _neighbour(other, beside, context), hosts, told)
    if not ours:
        _no_pgidle(chart, root, services, context)
    return chart


def named_files(root: Node) -> list[str]:
    """The files beside it that it names, and that are read: paths from its own folder."""
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
            f"whether pgidle is in what service {built} runs",
            f"{chart.subject}:{services[built].line}",
            "it has the data of a PostgreSQL, and neither the image's name nor a Dockerfile that was read says so",
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
            "none here names pgidle, nor an image that is known to be PostgreSQL's",
            "the file that has it; or image: pgidle (docker build -t pgidle .), with PGIDLE_WHEN_IDLE: stay",
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
                f"what service {key} has from the file that it extends",
                f"{chart.subject}:{(one.at('extends') or one).line}",
                "that file is not read here, and may set anything",
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
    """Not of a tool that only has it in its name."""
    return re.search(r"pgidle(?![-_]?(?:exporter|dashboard|client|backup))", word) is not None


def _told(chart: Chart, name: str, service: Node, context: Context) -> Told | None:
    """What pgidle is told there; None where it is not certain that it is pgidle that starts."""
    environ, hidden = environment(service, context)
    node = service.at("command") or service.at("entrypoint") or service
    where = f"{name}:{node.line}"
    read = arguments(chart, where, words(service.at("entrypoint")), words(service.at("command")))
    if read is None:
        return None
    return settle(chart, name, environ, read, node.line, context, hidden=hidden, defaults=IMAGE_ENVIRONMENT)


def _examine_service(chart: Chart, key: str, service: Node, context: Context) -> None:
    environ, hidden = environment(service, context)
    if service.at("build") is None:
        check_named(chart, service.at("image"))
    told = _told(chart, chart.subject, service, context)
    if told is None:
        chart.not_read.append(f"everything else of service {key}")
        return
    for path in hidden.sources:
        chart.unknown(
            f"what {path} of {key} says",
            _where(chart, service, "env_file"),
            "it cannot be read here, and what it sets counts",
            "have it beside this file, or write PGIDLE_ variables under environment:",
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
            check_stop_command(
                chart, hook, command, where, "no such hook: stop_signal stops it in good order"
            )


def _unknown_variable(chart: Chart, name: str, service: Node) -> None:
    node = variables(service.at("environment")).get(name)
    said = shown(node.text) if node is not None and node.text is not None else "not written here"
    chart.unknown(
        f"{name} is {said}",
        f"{chart.subject}:{(node or service).line}",
        "its value comes from the environment of docker compose",
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
            "Docker starts the container again the moment that it sleeps, so it never stays asleep"
            if again
            else "Docker starts no container for a client that connects: once asleep it stays down",
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
            "its value comes from the environment of docker compose",
            "stop_grace_period: 30s",
        )
        return
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
                "whoever reaches the machine is superuser, without a password",
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
            "nobody is there",
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
                "docker compose down and up again begins with an empty one, and the data is found by hand only",
                f"pgdata:{target}, and pgdata under volumes:",
            )


def _hosts(key: str, ours: Node, other: Node, root: Node) -> set[str]:
    """The names by which another service reaches the one that runs pgidle."""
    found = {key, ours.word("container_name") or key, ours.word("hostname") or key}
    for _, network in ours.items("networks"):
        found.update(network.words("aliases"))
    for link in other.words("links"):
        service, _, alias = link.partition(":")
        if service == key and alias:
            found.add(alias)
    mode = other.word("network_mode") or ""
    if mode in (f"service:{key}", "host") or mode == f"container:{ours.word('container_name')}":
        found |= {"localhost", "127.0.0.1", "::1"}
    if any("host-gateway" in (one.text or "") for one in other.list("extra_hosts")):
        found.add("host.docker.internal")
    return {one.lower() for one in found if one}


def _neighbour(key: str, service: Node, context: Context) -> Neighbour:
    environ, hidden = environment(service, context)
    test = service.at("healthcheck", "test")
    return Neighbour(
        key,
        service.word("image") or "",
        service.line,
        {**environ, **{n: node for n, node in variables(service.at("environment")).items() if node.text}},
        [*words(service.at("entrypoint")), *words(service.at("command"))],
        str(hidden),
        {"healthcheck": (words(test), test.line)} if test is not None else {},
    )

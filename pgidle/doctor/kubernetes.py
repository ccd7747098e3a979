"""Kubernetes: the container that runs pgidle in a Deployment, StatefulSet, DaemonSet, Job or Pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.doctor.containers import arguments, check_path, check_probe, check_volumes, words
from pgidle.doctor.finding import Chart
from pgidle.doctor.images import check_named, major
from pgidle.doctor.stopping import check_kill_timeout
from pgidle.doctor.told import settle
from pgidle.options import WhenIdle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.doctor.told import Context, Told
    from pgidle.doctor.tree import Node

GRACE_PERIOD = 30.0
"""Seconds: terminationGracePeriodSeconds where it is not given."""


def examine(name: str, documents: Sequence[Node], context: Context) -> Chart:
    """Everything there is to say about the manifests of a file."""
    chart = Chart(name)
    found = False
    serves_waking = any(one.word("spec", "publishNotReadyAddresses") == "true" for one in documents)
    for document in documents:
        pod = document if document.word("kind") == "Pod" else document.at("spec", "template")
        spec = pod.at("spec") if pod is not None else None
        for container in spec.list("containers") if spec is not None else ():
            if spec is not None and _runs_pgidle(container):
                found = True
                _check_replicas(chart, document)
                _examine_container(chart, document, spec, container, context)
                if not serves_waking:
                    _check_readiness(chart, container)
    if not found:
        chart.wrong(
            "no container here runs pgidle",
            f"{name}:1",
            "nothing puts Postgres to sleep",
            "image: pgidle, with PGIDLE_WHEN_IDLE: stay",
        )
    return chart


def _environment(container: Node) -> dict[str, Node]:
    """What is written out; what comes from secrets and the like is not known here."""
    given = ((each.word("name") or "", each.at("value")) for each in container.list("env"))
    return {name: value for name, value in given if value is not None}


def _runs_pgidle(container: Node) -> bool:
    said = [container.word("image") or "", *words(container.at("command")), *words(container.at("args"))]
    return any("pgidle" in word for word in said) or any(
        name.startswith("PGIDLE_") for name in _environment(container)
    )


def _examine_container(chart: Chart, document: Node, spec: Node, container: Node, context: Context) -> None:
    check_named(chart, container.at("image"))
    at = container.at("args") or container.at("command") or container
    where = f"{chart.subject}:{at.line}"
    read = arguments(chart, where, words(container.at("command")), words(container.at("args")))
    told = settle(chart, chart.subject, _environment(container), read, at.line, context)
    _check_waking(chart, document, spec, container, told)
    period = spec.at("terminationGracePeriodSeconds")
    given = period.text if period is not None and (period.text or "").isdecimal() else None
    longer = int(max(told.settings.stop_timeout + 5, (context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        "terminationGracePeriodSeconds",
        float(given) if given else GRACE_PERIOD,
        f"{chart.subject}:{(period or container).line}",
        told.settings,
        context,
        f"terminationGracePeriodSeconds: {longer}",
        is_given=given is not None,
    )
    for probe in ("livenessProbe", "startupProbe"):
        _check_probe(chart, probe, container, told)
    passing = {each.word("name") for each in spec.list("volumes") if each.at("emptyDir") is not None}
    mounts = [
        (each.word("mountPath") or "", each.line)
        for each in container.list("volumeMounts")
        if each.word("name") not in passing
    ]
    cure = f"volumeMounts: [{{name: pgdata, mountPath: {told.data_dir or '/var/lib/postgresql'}}}]"
    version = major(container.word("image") or "")
    check_volumes(chart, mounts, told, (container.at("volumeMounts") or container).line, cure, version)


def _check_waking(chart: Chart, document: Node, spec: Node, container: Node, told: Told) -> None:
    policy = spec.word("restartPolicy") or "Always"
    if told.settings.when_idle is WhenIdle.STAY:
        chart.fine("when-idle stay")
        return
    chart.wrong(
        f"when-idle is exit, in a {document.word('kind')} with restartPolicy {policy}",
        f"{chart.subject}:{(spec.at('restartPolicy') or container).line}",
        "the container is started again the moment that it sleeps, ever more slowly (CrashLoopBackOff)"
        if policy == "Always"
        else "nothing starts the container again when a client connects",
        "env: [{name: PGIDLE_WHEN_IDLE, value: stay}]",
    )


def _check_replicas(chart: Chart, document: Node) -> None:
    replicas = document.at("spec", "replicas")
    if replicas is not None and (replicas.text or "").isdecimal() and int(replicas.text or "") > 1:
        kind = document.word("kind")
        chart.wrong(
            f"replicas of the {kind} is {replicas.text}",
            f"{chart.subject}:{replicas.line}",
            "each is a database of its own, and clients come now to one and now to another"
            if kind == "StatefulSet"
            else "two servers on one volume destroy the data, and on volumes of their own they are two databases",
            "replicas: 1",
        )


def _check_readiness(chart: Chart, container: Node) -> None:
    probe = container.at("readinessProbe")
    if probe is None:
        return
    if (command := probe.at("exec", "command")) is not None:
        cure = "readinessProbe: {httpGet: {path: /health, port: 8008}}"
        check_probe(chart, "readinessProbe", words(command), f"{chart.subject}:{probe.line}", cure)
    if probe.word("httpGet", "path") == "/ready":
        chart.wrong(
            "readinessProbe asks for /ready",
            f"{chart.subject}:{probe.line}",
            "that is 503 while Postgres sleeps, so the Service keeps the client out that is to wake it",
            "path: /health, or publishNotReadyAddresses: true in the Service",
        )


def _check_probe(chart: Chart, name: str, container: Node, told: Told) -> None:
    probe = container.at(name)
    if probe is None:
        return
    where = f"{chart.subject}:{probe.line}"
    cure = f"{name}: {{httpGet: {{path: /health, port: 8008}}}}"
    if (command := probe.at("exec", "command")) is not None:
        check_probe(chart, name, words(command), where, cure)
    elif (path := probe.word("httpGet", "path")) is not None:
        check_path(chart, name, path, where, cure)
    elif probe.at("tcpSocket") is not None and probe.word("tcpSocket", "port") in (
        str(told.settings.port),
        "postgres",
        "postgresql",
    ):
        chart.wrong(
            f"{name} connects to the database port",
            where,
            "every connection there counts as use: Postgres never sleeps, or is woken",
            cure,
        )

"""Kubernetes: the container that runs pgidle in a Deployment, StatefulSet, DaemonSet, Job or Pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.base.platform_limits import (
    IMAGE_ENVIRONMENT,
    IMAGE_VOLUME,
    KUBERNETES,
    KUBERNETES_GRACE_PERIOD,
    image_data_dir,
    image_major,
)
from pgidle.doctor.finding import Chart
from pgidle.doctor.platforms.containers import arguments, check_path, check_probe, check_volumes, words
from pgidle.doctor.platforms.neighbours import Neighbour, check_neighbour
from pgidle.doctor.platforms.stop_time import check_kill_timeout, check_stop_command
from pgidle.doctor.readers.compose_variables import CLOSE, OPEN
from pgidle.doctor.readers.image_names import Contents, check_named, contents, cure
from pgidle.doctor.readers.kubernetes_manifests import (
    PACKAGES,
    environment,
    expand,
    flatten,
    group,
    is_operators,
    pods,
    port,
    services_of,
    title,
)
from pgidle.doctor.readers.stated_settings import settle
from pgidle.doctor.readers.tree import Node
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.doctor.readers.kubernetes_manifests import Pod
    from pgidle.doctor.readers.stated_settings import Context, Told

PROBES = ("livenessProbe", "startupProbe", "readinessProbe")
READ = frozenset(
    {
        *PROBES,
        *("name", "image", "command", "args", "env", "envFrom", "ports", "volumeMounts", "lifecycle"),
    }
)
"""Keys that are checked in the container that runs pgidle."""
HARMLESS = frozenset(
    {"imagePullPolicy", "resources", "terminationMessagePath", "tty", "stdin", "resizePolicy"}
)
PASSING = ("emptyDir", "configMap", "secret", "projected", "downwardAPI", "ephemeral", "image")
"""Volumes whose data does not outlive the pod, or that hold no data at all."""


def examine(name: str, documents: Sequence[Node], context: Context) -> Chart:
    """All findings about the manifests of a file."""
    chart = Chart(name)
    chart.read.append(f"as {KUBERNETES} reads it")
    objects = flatten(documents)
    found = list(pods(objects))
    examined: list[Node] = []
    for pod in found:
        for container, _ in pod.containers():
            if _runs_pgidle(container, objects):
                examined.append(pod.document)
                check_named(chart, container.at("image"))
                told = _told(chart, container, objects, context)
                if told is not None:
                    _examine_pod(chart, pod, container, told, objects)
                    _examine_container(chart, pod, container, told, objects, context)
                    _examine_others(chart, found, pod, container, told, objects)
    _account(chart, objects, examined, found)
    if not examined:
        _no_pgidle(chart, objects)
    return chart


def _account(chart: Chart, objects: Sequence[Node], examined: Sequence[Node], found: Sequence[Pod]) -> None:
    known = [*examined, *(pod.document for pod in found)]
    configuration = ("ConfigMap", "Secret", "Service")
    rest = [one for one in objects if one not in known and one.word("kind") not in configuration]
    if rest:
        chart.not_read.append(", ".join(dict.fromkeys(title(one) for one in rest)))
    others = [title(pod.document) for pod in found if pod.document not in examined]
    if others and examined:
        chart.read.append(f"of {', '.join(others)}: whether it is a monitor, or its probes ask Postgres")
    chart.not_read.append(
        "what admission, a mesh or Kustomize adds, and pgidle.toml beside the data directory"
    )


def _no_pgidle(chart: Chart, objects: Sequence[Node]) -> None:
    operators = [one for one in objects if is_operators(one)]
    packages = [one for one in objects if one.word("kind") in PACKAGES and group(one)]
    if operators:
        one = operators[0]
        chart.wrong(
            f"an operator runs Postgres here: {title(one)} ({one.word('apiVersion')})",
            f"{chart.subject}:{one.line}",
            "pgidle plays no part in it, and an operator would take a sleeping Postgres for a failed one",
            "a StatefulSet of pgidle's own: pgidle init kubernetes",
        )
    elif packages:
        one = packages[0]
        chart.unknown(
            f"what {title(one)} makes",
            f"{chart.subject}:{one.line}",
            "the manifests are elsewhere",
            f"{PACKAGES[one.word('kind') or '']} ... | pgidle doctor /dev/stdin",
        )
    else:
        all_of_them = (one for pod in pods(objects) for one, _ in pod.containers())
        server = next(
            (one for one in all_of_them if contents(one.word("image") or "") is Contents.POSTGRES), None
        )
        if server is None:
            chart.unknown(
                "which container runs Postgres",
                f"{chart.subject}:1",
                "none here names pgidle or an image that is known to be PostgreSQL's",
                "give the file that has it; or image: pgidle, with PGIDLE_WHEN_IDLE: stay",
            )
            return
        chart.wrong(
            "no container here runs pgidle",
            f"{chart.subject}:{server.line}",
            "nothing puts Postgres to sleep",
            f"PGIDLE_WHEN_IDLE: stay; {cure(server.word('image') or '')}",
        )


def _said(container: Node, key: str, objects: Sequence[Node]) -> list[str]:
    known, _ = environment(container, objects)
    return [expand(word, known) for word in words(container.at(key))]


def _runs_pgidle(container: Node, objects: Sequence[Node]) -> bool:
    said = [container.word("image") or "", *words(container.at("command")), *words(container.at("args"))]
    known, hidden = environment(container, objects)
    return any("pgidle" in word for word in said) or any(
        name.startswith("PGIDLE_") for name in (*known, *hidden.names)
    )


def _told(chart: Chart, container: Node, objects: Sequence[Node], context: Context) -> Told | None:
    """The settings that pgidle gets; None unless pgidle is certain to be what starts."""
    at = container.at("args") or container.at("command") or container
    known, hidden = environment(container, objects)
    command, args = (_said(container, key, objects) for key in ("command", "args"))
    read = arguments(chart, f"{chart.subject}:{at.line}", command, args)
    if read is None:
        return None
    return settle(
        chart, chart.subject, known, read, at.line, context, hidden=hidden, defaults=IMAGE_ENVIRONMENT
    )


def _examine_pod(chart: Chart, pod: Pod, container: Node, told: Told, objects: Sequence[Node]) -> None:
    _check_replicas(chart, pod.document)
    _check_strategy(chart, pod.document)
    _check_waking(chart, pod, container, told)
    links = pod.spec.word("enableServiceLinks") != "false"
    for one in objects:
        name = one.word("metadata", "name") or ""
        if links and one.word("kind") == "Service" and name.upper().replace("-", "_").startswith("PGIDLE"):
            chart.wrong(
                f"a Service called {name}, and service links",
                f"{chart.subject}:{(one.at('metadata', 'name') or one).line}",
                f"the kubelet sets {name.upper().replace('-', '_')}_PORT and the like, which pgidle takes for settings"
                " of its own: it refuses to start",
                "enableServiceLinks: false in the pod",
            )


def _examine_container(
    chart: Chart, pod: Pod, container: Node, told: Told, objects: Sequence[Node], context: Context
) -> None:
    chart.account(
        f"container {container.word('name') or container.word('image')} of {title(pod.document)}",
        [key for key in container.table or {} if key not in HARMLESS],
        READ,
    )
    if told.elsewhere:
        chart.not_read.append(f"{told.elsewhere} (not in this file)")
    period = pod.spec.at("terminationGracePeriodSeconds")
    given = period.text if period is not None and (period.text or "").isdecimal() else None
    longer = int(max(told.settings.stop_timeout + 5, (context.shutdown or 0) * 2))
    check_kill_timeout(
        chart,
        "terminationGracePeriodSeconds",
        float(given) if given else KUBERNETES_GRACE_PERIOD,
        f"{chart.subject}:{(period or container).line}",
        told,
        context,
        f"terminationGracePeriodSeconds: {longer}",
        is_given=given is not None,
    )
    is_published = any(one.word("spec", "publishNotReadyAddresses") == "true" for one in objects)
    for probe in PROBES:
        _check_probe(chart, probe, container, told, forgives_ready=is_published and probe == "readinessProbe")
    for hook in ("preStop", "postStart"):
        if (command := container.at("lifecycle", hook, "exec", "command")) is not None:
            where = f"{chart.subject}:{command.line}"
            check_stop_command(
                chart,
                hook,
                words(command),
                where,
                "no such hook: the kubelet's SIGTERM stops it cleanly",
            )
    kinds = {
        each.word("name"): next((kind for kind in PASSING if each.at(kind) is not None), None)
        for each in pod.spec.list("volumes")
    }
    mounts = [
        (each.word("mountPath") or "", each.line)
        for each in container.list("volumeMounts")
        if kinds.get(each.word("name")) is None
    ]
    cure = f"volumeMounts: [{{name: pgdata, mountPath: {told.data_dir or IMAGE_VOLUME}}}]"
    version = image_major(container.word("image") or "")
    check_volumes(chart, mounts, told, (container.at("volumeMounts") or container).line, cure, version)
    is_default = version is not None and told.knows("data-dir")
    said = told.data_dir or (image_data_dir(version or 0) if is_default else None)
    for each in container.list("volumeMounts"):
        is_whole = each.at("subPath") is None and each.at("subPathExpr") is None
        if said is not None and is_whole and (each.word("mountPath") or "").rstrip("/") == said.rstrip("/"):
            chart.note(
                f"the volume is mounted at the data directory {said} itself",
                f"{chart.subject}:{each.line}",
                "a volume that is a disk of its own has lost+found in its root, and Postgres wants an empty directory",
                f"for a new database: PGDATA: {said}/pgdata, or subPath: pgdata",
            )


def _examine_others(
    chart: Chart, found: Sequence[Pod], pod: Pod, container: Node, told: Told, objects: Sequence[Node]
) -> None:
    """Containers of the same pod, which reach Postgres on localhost, and of other pods, which use a Service."""
    names = {name.lower() for name in services_of(pod, objects)}
    for other in found:
        hosts = names | ({"localhost", "127.0.0.1", "::1"} if other is pod else set())
        for one, _ in other.containers():
            if one is container or _runs_pgidle(one, objects):
                continue
            known, hidden = environment(one, objects)
            neighbour = Neighbour(
                one.word("name") or "a container",
                one.word("image") or "",
                one.line,
                {**known, **{name: Node(one.line, f"{OPEN}{name}{CLOSE}") for name in hidden.names}},
                [*_said(one, "command", objects), *_said(one, "args", objects)],
                str(hidden),
                {
                    probe: (words(command), command.line)
                    for probe in PROBES
                    if (command := one.at(probe, "exec", "command")) is not None
                },
            )
            check_neighbour(chart, neighbour, hosts, told)
            if other is pod:
                for probe in PROBES:
                    _check_probe_port(chart, probe, one, told)


def _check_waking(chart: Chart, pod: Pod, container: Node, told: Told) -> None:
    policy = pod.spec.word("restartPolicy") or "Always"
    where = f"{chart.subject}:{(pod.spec.at('restartPolicy') or container).line}"
    if not told.knows("when-idle"):
        chart.unknown(
            "what when-idle is",
            where,
            f"{told.elsewhere} may set it, and is not in this file; with exit, the default, the container is started"
            " again the moment Postgres sleeps",
            "env: [{name: PGIDLE_WHEN_IDLE, value: stay}]; or add what sets it to this file, after ---",
        )
        return
    if told.settings.when_idle is WhenIdle.STAY:
        chart.fine("when-idle stay")
        return
    chart.wrong(
        f"when-idle is exit, in a {pod.document.word('kind')} with restartPolicy {policy}",
        where,
        "the container is started again the moment Postgres sleeps, ever more slowly (CrashLoopBackOff)"
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
            "each is a database of its own, and clients reach now one, now another"
            if kind == "StatefulSet"
            else "two servers on one volume destroy the data, and on volumes of their own they are two databases",
            "replicas: 1",
        )


def _check_strategy(chart: Chart, document: Node) -> None:
    """A Deployment starts its new pod beside the old one, unless its strategy says otherwise."""
    strategy = document.at("spec", "strategy")
    surge = document.word("spec", "strategy", "rollingUpdate", "maxSurge")
    kind = document.word("spec", "strategy", "type") or "RollingUpdate"
    if document.word("kind") == "Deployment" and kind != "Recreate" and surge not in ("0", "0%"):
        chart.wrong(
            f"the strategy of the Deployment is {kind}" + ("" if strategy is not None else ", the default"),
            f"{chart.subject}:{(strategy or document.at('spec') or document).line}",
            "at each change a second pod starts on the same volume before the first has stopped: two servers on one"
            " volume destroy the data",
            "strategy: {type: Recreate}; or a StatefulSet",
        )


def _check_probe_port(chart: Chart, name: str, container: Node, told: Told) -> bool:
    """Whether a probe connects to the database port, by whatever protocol."""
    probe = container.at(name)
    if probe is None:
        return False
    wanted = str(told.settings.port)
    for handler in ("tcpSocket", "httpGet", "grpc"):
        said = probe.at(handler)
        if said is not None and port(container, said.word("port")) == wanted:
            chart.wrong(
                f"{name} connects to the database port",
                f"{chart.subject}:{probe.line}",
                "every connection there counts as use: Postgres never sleeps, or is woken",
                f"{name}: {{httpGet: {{path: /health, port: 8008}}}}",
            )
            return True
    return False


def _check_probe(chart: Chart, name: str, container: Node, told: Told, *, forgives_ready: bool) -> None:
    probe = container.at(name)
    if probe is None or _check_probe_port(chart, name, container, told):
        return
    where = f"{chart.subject}:{probe.line}"
    cure = f"{name}: {{httpGet: {{path: /health, port: 8008}}}}"
    if (command := probe.at("exec", "command")) is not None:
        check_probe(chart, name, words(command), where, cure, str(told.settings.port))
    elif (path := probe.word("httpGet", "path")) is not None:
        if name == "readinessProbe" and path.rstrip("/").endswith("/ready"):
            if not forgives_ready:
                chart.wrong(
                    "readinessProbe asks for /ready",
                    where,
                    "it answers 503 while Postgres sleeps, so the Service keeps out the client that should wake it",
                    "path: /health, or publishNotReadyAddresses: true in the Service",
                )
        else:
            check_path(chart, name, path, where, cure)

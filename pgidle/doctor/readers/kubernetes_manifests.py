"""Kubernetes objects from files: lists and templates unpacked, pods found, environments put together."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgidle.doctor.readers.compose_variables import CLOSE, OPEN, is_known
from pgidle.doctor.readers.stated_settings import Hidden
from pgidle.doctor.readers.tree import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

OPERATORS = (
    *(
        "postgresql.cnpg.io",
        "acid.zalan.do",
        "postgres-operator.crunchydata.com",
        "stackgres.io",
        "kubedb.com",
    ),
    *(
        "pgv2.percona.com",
        "kubegres.reactive-tech.io",
        "postgresql.k8s.enterprisedb.io",
        "apps.kubeblocks.io",
    ),
    *("postgres.anynines.com", "postgresql.baiju.dev", "kubeblocks.io"),
)
"""API groups of operators that run Postgres themselves."""
PACKAGES = {
    **dict.fromkeys(("HelmRelease", "HelmChart", "HelmChartProxy"), "helm template"),
    **dict.fromkeys(("Application", "ApplicationSet"), "argocd app manifests"),
    **dict.fromkeys(("Kustomization", "Component"), "kubectl kustomize"),
}
"""Kinds that stand for manifests kept elsewhere, and the command that prints those."""
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True, slots=True)
class Pod:
    """`document` is the object that creates the pod; `labels` are the pod's own."""

    document: Node
    spec: Node
    labels: Mapping[str, str]

    def containers(self) -> Iterator[tuple[Node, bool]]:
        """Each container that runs as long as the pod does, and whether it is a main one."""
        for one in self.spec.list("containers"):
            yield one, True
        for one in self.spec.list("initContainers"):
            if one.word("restartPolicy") == "Always":
                yield one, False


def title(document: Node) -> str:
    """Kind and name."""
    name = document.word("metadata", "name")
    return f"{document.word('kind')} {name}" if name else document.word("kind") or "an object"


def flatten(documents: Sequence[Node]) -> list[Node]:
    """Every object, including those in lists and in OpenShift's templates."""
    found = []
    for document in documents:
        inner = document.list("items") if (document.word("kind") or "").endswith("List") else ()
        inner = inner or (document.list("objects") if document.word("kind") == "Template" else ())
        found += flatten(inner) if inner else [document]
    return found


def group(document: Node) -> str:
    """The API group, empty for the core group."""
    return (document.word("apiVersion") or "").rpartition("/")[0]


def is_operators(document: Node) -> bool:
    return any(group(document) == one or group(document).endswith(f".{one}") for one in OPERATORS)


def pods(documents: Sequence[Node]) -> Iterator[Pod]:
    for document in documents:
        kind = document.word("kind")
        pod: Node | None
        if kind == "Pod":
            pod = document
        elif kind == "CronJob":
            pod = document.at("spec", "jobTemplate", "spec", "template")
        elif kind == "PodTemplate":
            pod = document.at("template")
        else:
            pod = document.at("spec", "template")
        spec = pod.at("spec") if pod is not None else None
        if pod is not None and spec is not None and spec.list("containers"):
            labels = {key: node.text or "" for key, node in pod.items("metadata", "labels")}
            yield Pod(document, spec, labels)


def services_of(pod: Pod, documents: Sequence[Node]) -> list[str]:
    """The names of the Services that lead to it."""
    found = []
    for one in documents:
        selector = {key: node.text or "" for key, node in one.items("spec", "selector")}
        is_service = one.word("kind") == "Service" and group(one) == ""
        if is_service and selector and selector.items() <= pod.labels.items():
            found.append(one.word("metadata", "name") or "")
    return [name for name in found if name]


def environment(container: Node, documents: Sequence[Node]) -> tuple[dict[str, Node], Hidden]:
    """The variables with known values, and what hides others: objects that are not among the documents, and values that
    only the cluster knows. `env` overrides `envFrom`; the last `envFrom` wins."""
    found: dict[str, Node] = {}
    sources = []
    for one in container.list("envFrom"):
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if (name := one.word(key, "name")) is None:
                continue
            data = _data(kind, name, documents)
            if data is None:
                sources.append(f"{kind} {name}")
                continue
            prefix = one.word("prefix") or ""
            found |= {f"{prefix}{variable}": Node(one.line, text) for variable, text in data.items()}
    unknown = set()
    for one in container.list("env"):
        variable = one.word("name") or ""
        value = one.at("value")
        text = (value.text or "") if value is not None else _referred(one, documents)
        if text is None:
            unknown.add(variable)
            found[variable] = Node(one.line, f"{OPEN}{variable}{CLOSE}")
        else:
            node = value if value is not None else one
            found[variable] = replace(node, text=expand(text, found), table=None, rows=None)
            unknown.discard(variable)
    unknown |= {name for name, node in found.items() if not is_known(node.text or "")}
    known = {name: node for name, node in found.items() if name not in unknown}
    return known, Hidden(frozenset(unknown), tuple(sources))


def expand(text: str, known: Mapping[str, Node]) -> str:
    """The text with each $(NAME) substituted; $$ is a dollar sign. An unset one stays, as the kubelet leaves it."""

    def put(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        node = known.get(found[1])
        return node.text or "" if node is not None else found[0]

    return _REFERENCE.sub(put, text)


def _referred(variable: Node, documents: Sequence[Node]) -> str | None:
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        name, wanted = variable.word("valueFrom", key, "name"), variable.word("valueFrom", key, "key")
        data = _data(kind, name, documents) if name is not None else None
        if data is not None and wanted is not None:
            return data.get(wanted)
    return None


def _data(kind: str, name: str, documents: Sequence[Node]) -> dict[str, str] | None:
    """The data of a ConfigMap or a Secret in the file; None if it is not there."""
    for one in documents:
        if one.word("kind") == kind and one.word("metadata", "name") == name:
            plain = {key: node.text or "" for key, node in one.items("data")}
            if kind == "Secret":
                plain = {key: text for key, said in plain.items() if (text := _decoded(said)) is not None}
            return plain | {key: node.text or "" for key, node in one.items("stringData")}
    return None


def _decoded(text: str) -> str | None:
    try:
        return base64.b64decode(text).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def port(container: Node, said: str | None) -> str:
    """A port's number, which may be given by the container's name for it."""
    for one in container.list("ports"):
        if said is not None and one.word("name") == said:
            return one.word("containerPort") or ""
    return said or ""

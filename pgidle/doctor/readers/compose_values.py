"""What Compose's short forms and merges mean: volumes, ports, environments, services that extend others."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pgidle.doctor.readers.compose_variables import is_known, read_env_file, shown
from pgidle.doctor.readers.stated_settings import Hidden, variables
from pgidle.doctor.readers.tree import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgidle.doctor.readers.stated_settings import Context

_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")


def extended(service: Node, root: Node, depth: int = 0) -> Node:
    """The service with what it extends from the same file: its own values win, mappings are merged."""
    extends = service.at("extends")
    if extends is None or extends.at("file") is not None or depth > 10:
        return service
    base = root.at("services", extends.text or extends.word("service") or "")
    if base is None or service.table is None:
        return service
    base = extended(base, root, depth + 1)
    merged = dict(base.table or {})
    for key, node in service.table.items():
        below = merged.get(key)
        if key == "extends":
            continue
        if below is not None and below.table is not None and node.table is not None:
            node = replace(node, table={**below.table, **node.table})
        elif below is not None and below.rows is not None and node.rows is not None:
            node = replace(node, rows=below.rows + node.rows)
        elif below is not None and key == "environment":
            node = Node(node.line, table={**variables(below), **variables(node)})
        merged[key] = node
    return replace(service, table=merged)


def env_files(service: Node) -> Iterator[tuple[str, Node]]:
    for one in service.list("env_file"):
        path = one.text or one.word("path")
        if path:
            yield path.removeprefix("./"), one


def environment(service: Node, context: Context) -> tuple[dict[str, Node], Hidden]:
    """The variables with known values, and what hides others. `environment` overrides env_file; the last wins."""
    found: dict[str, Node] = {}
    sources = []
    for path, node in env_files(service):
        text = context.beside.get(path)
        if text is None:
            sources.append(f"env_file {shown(path)}")
        else:
            found |= {name: Node(node.line, value) for name, value in read_env_file(text).items()}
    found |= variables(service.at("environment"))
    unknown = {name for name, node in found.items() if node.text is None or not is_known(node.text)}
    known = {name: node for name, node in found.items() if name not in unknown}
    return known, Hidden(frozenset(unknown), tuple(sources))


def leads_to(target: str, port: str) -> bool:
    """Whether `target`, a port or a range of ports, includes `port`."""
    first, _, last = target.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or not port:
        return False
    return int(first) <= int(port) <= int(last or first)


def port_of(node: Node) -> tuple[str, str, int]:
    """The host's address (may be empty), the container's port or range of ports, and the line."""
    if node.table is not None:
        return node.word("host_ip") or "", node.word("target") or "", node.line
    text = (node.text or "").partition("/")[0]
    outside, _, target = text.rpartition(":")
    return outside.rpartition(":")[0], target, node.line


def target_of(node: Node) -> tuple[str, int]:
    """Where in the container a volume is mounted (empty for a tmpfs, which keeps no data), and the line."""
    if node.table is not None:
        kept = node.word("type") not in ("tmpfs", "image", "npipe")
        return (node.word("target") or "") if kept else "", node.line
    return parts_of(node.text or "")[1], node.line


def parts_of(text: str) -> tuple[str, str]:
    """The source of a volume in short form, empty for an anonymous one, and its target."""
    drive = _DRIVE.match(text)
    rest = text[2:] if drive is not None else text
    parts = rest.split(":")
    if len(parts) == 1:
        return "", text
    return (text[:2] if drive is not None else "") + parts[0], parts[1]

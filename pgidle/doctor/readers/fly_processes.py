"""A fly.toml as flyctl reads it: old spellings updated, one process group at a time, and whose app it is."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import FLY_DATA_DIRS, FLY_IMAGE_CHECK, IMAGE_VOLUME
from pgidle.doctor.platforms.containers import words
from pgidle.doctor.readers.image_names import Contents, builds_pgidle, contents
from pgidle.doctor.readers.tree import Node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgidle.doctor.readers.stated_settings import Context

BY_GROUP = ("services", "mounts", "restart", "vm", "metrics", "files", "statics")
"""Arrays of tables. Each table may name the process groups that it is for."""
OLD = {"mount": "mounts", "metric": "metrics", "compute": "vm", "computes": "vm"}
DEFAULT = "app"
POOL_PORT = "6432"
"""PgBouncer's."""
_STARTS_POSTGRES = re.compile(r"\bpgidle\b|(?:^|[/\s])postgres(?:\s|$)|^-|docker-entrypoint\.sh")


class Role(Enum):
    """What runs in the app, as far as its file says."""

    PGIDLE = "pgidle"
    POSTGRES = "Postgres, with pgidle or without"
    CLIENT = "an application"
    UNKNOWN = "unknown"


def normalise(root: Node) -> Node:
    """The document as flyctl normalises it: single tables turned into arrays, old names replaced by current ones."""
    table: dict[str, Node] = {}
    for key, node in (root.table or {}).items():
        name = OLD.get(key, key)
        if name in BY_GROUP:
            rows = table[name].rows if name in table else ()
            node = Node(node.line, rows=(*(rows or ()), *node.each()))
        elif name == "env" and node.rows is not None:
            merged: dict[str, Node] = {}
            for row in node.rows:
                merged |= row.table or {}
            node = Node(node.line, table=merged)
        elif name in ("processes", "checks") and node.rows is not None:
            named = {row.word("name") or "": row for row in node.rows}
            node = Node(
                node.line,
                table=named
                if name == "checks"
                else {key: row.at("command") or row for key, row in named.items()},
            )
        table[name] = node
    return replace(root, table=table)


def groups(root: Node) -> list[str]:
    return [name for name, _ in root.items("processes")] or [DEFAULT]


def flatten(root: Node, group: str) -> Node:
    """The part of the document for one group. What names no group is for the default group; [[vm]] is for all."""
    known = groups(root)
    default = DEFAULT if DEFAULT in known else min(known)
    table = dict(root.table or {})

    def is_for(node: Node, *, all_groups: bool = False) -> bool:
        named = node.words("processes")
        return group in named if named else all_groups or group == default

    for key in BY_GROUP:
        if key in table:
            rows = tuple(one for one in table[key].each() if is_for(one, all_groups=key == "vm"))
            table[key] = replace(table[key], rows=rows, text=None, table=None)
    if "http_service" in table and not is_for(table["http_service"]):
        del table["http_service"]
    if "checks" in table:
        kept = {name: one for name, one in root.items("checks") if is_for(one)}
        table["checks"] = Node(table["checks"].line, table=kept)
    if "processes" in table:
        kept = {name: one for name, one in root.items("processes") if name == group}
        table["processes"] = Node(table["processes"].line, table=kept)
    return replace(root, table=table)


def of_postgres(root: Node, port: str) -> list[str]:
    """The groups that seem to run Postgres: by their command, else by a service on its port, else by a volume."""
    known = groups(root)
    if len(known) == 1:
        return known
    commands = dict(root.items("processes"))
    by_command = [name for name in known if _STARTS_POSTGRES.search(commands[name].text or "")]
    flat = {name: flatten(root, name) for name in known}
    by_port = [
        name
        for name in known
        if any(one.word("internal_port") == port for one in flat[name].list("services"))
    ]
    by_volume = [name for name in known if flat[name].list("mounts")]
    return by_command or by_port or (by_volume if len(by_volume) == 1 else [])


def command(root: Node) -> Node | None:
    """The command that follows the image's entrypoint, in a flattened document."""
    processes = [node for _, node in root.items("processes")]
    return processes[0] if len(processes) == 1 else root.at("experimental", "cmd")


def role(
    root: Node, environ: Mapping[str, Node], port: str, context: Context, *, has_addresses: bool
) -> Role:
    """Whose file this is. An application names a Postgres elsewhere, and may well have a volume of its own."""
    image = root.word("build", "image") or ""
    said = [
        *words(command(root)),
        *words(root.at("experimental", "entrypoint")),
        *words(root.at("experimental", "exec")),
        root.word("build", "dockerfile") or "",
        image,
    ]
    built = builds_pgidle(root.at("build"), context) if not image else None
    if built or any(name.startswith("PGIDLE_") for name in environ) or any("pgidle" in one for one in said):
        return Role.PGIDLE
    services = root.list("services")
    leads_there = any(one.word("internal_port") == port for one in (*services, *root.list("http_service")))
    # Postgres on an unusual port behind the usual one, but not a pooler in front of a Postgres elsewhere.
    leads_there = leads_there or any(
        each.word("port") == port and one.word("internal_port") != POOL_PORT
        for one in services
        if one.word("protocol") in (None, "tcp") and (not image or contents(image) is not Contents.OTHER)
        for each in one.list("ports")
        if not {"http", "tls", "edge_http"} & set(each.words("handlers"))
    )
    flycheck = any((one.word("path") or "").startswith(FLY_IMAGE_CHECK) for _, one in root.items("checks"))
    places = (IMAGE_VOLUME, *FLY_DATA_DIRS)
    mounted = [one.word("destination") or "" for one in root.list("mounts")]
    is_ours = (
        contents(image) is Contents.POSTGRES
        or built is False
        or leads_there
        or flycheck
        or "PGDATA" in environ
        or "POSTGRES_INITDB_ARGS" in environ
        or "POSTGRES_HOST_AUTH_METHOD" in environ
        or any(one.startswith(places) for one in mounted)
        or any(word.rpartition("/")[2] in ("postgres", "postmaster") for word in said[:1])
    )
    if is_ours:
        return Role.POSTGRES
    return Role.CLIENT if has_addresses or _serves_others(root, services) else Role.UNKNOWN


def _serves_others(root: Node, services: Sequence[Node]) -> bool:
    """Whether the app serves something that is certainly not Postgres."""
    return root.at("http_service") is not None or any(
        {"http", "tls", "edge_http"} & set(port.words("handlers"))
        for one in services
        for port in one.list("ports")
    )

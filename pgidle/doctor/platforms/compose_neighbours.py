"""The other services of a Compose file, as neighbours of the one that runs pgidle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.doctor.platforms.containers import words
from pgidle.doctor.platforms.neighbours import Neighbour
from pgidle.doctor.readers.compose_values import environment
from pgidle.doctor.readers.stated_settings import variables

if TYPE_CHECKING:
    from pgidle.doctor.readers.stated_settings import Context
    from pgidle.doctor.readers.tree import Node


def hosts_of(key: str, ours: Node, other: Node, root: Node) -> set[str]:
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


def neighbour(key: str, service: Node, context: Context) -> Neighbour:
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

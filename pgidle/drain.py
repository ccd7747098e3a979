"""Who is on the way to Postgres and can be seen nowhere yet: in a handshake, in its accept queue, or parked."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from pgidle.sockets import scan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgidle.gate import Gate


def on_their_way(gate: Gate) -> int:
    """How many, once the gate keeps newcomers away. Handshakes with the gate count: their clients are about to park."""
    ours = gate.inodes()
    table = scan(gate.addresses[0][1][1], gate.hosts())
    return table.handshakes + sum(queue.length for queue in table.listeners if queue.inode not in ours)


def callers(gate: Gate, no_wake: Iterable[str]) -> int:
    """How many wait to be accepted, but those from these networks. All who are parked, where that cannot be seen."""
    networks = [ip_network(network) for network in no_wake]
    try:
        table = scan(gate.addresses[0][1][1], gate.hosts())
    except OSError:
        return gate.parked()
    plugs = gate.plugs()
    waiting = [one.peer for one in table.connections if one.inode == 0]
    return sum(
        (peer.address, peer.port) not in plugs
        and not any(ip_address(peer.address) in network for network in networks)
        for peer in waiting
    )

"""Who is on the way to Postgres and can be seen nowhere yet: in a handshake, or in its accept queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgidle.sockets import scan

if TYPE_CHECKING:
    from pgidle.gate import Gate


def on_their_way(gate: Gate) -> int:
    """How many, once the gate keeps newcomers away. Handshakes with the gate count: their clients are about to park."""
    ours = gate.inodes()
    table = scan(gate.addresses[0][1][1], gate.hosts())
    return table.handshakes + sum(queue.length for queue in table.listeners if queue.inode not in ours)

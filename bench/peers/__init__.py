"""What stands between a client and a Postgres that is not always there: pgidle, and what people use instead."""

from __future__ import annotations

from peers.common import Bare, Peer, Setting
from peers.haproxy import HAProxy
from peers.own import Pgidle
from peers.pgbouncer import PgBouncer
from peers.socket_proxyd import SocketProxyd

PEERS: tuple[type[Peer], ...] = (Bare, Pgidle, HAProxy, PgBouncer, SocketProxyd)

__all__ = ["PEERS", "Bare", "HAProxy", "Peer", "PgBouncer", "Pgidle", "Setting", "SocketProxyd"]

"""What stands between a client and a Postgres that is not always there: pgidle, and what people use instead."""

from __future__ import annotations

from bench.peers.common import Bare, Peer, Setting
from bench.peers.haproxy import HAProxy
from bench.peers.own import Pgidle
from bench.peers.pgbouncer import PgBouncer
from bench.peers.socket_proxyd import SocketProxyd

PEERS: tuple[type[Peer], ...] = (Bare, Pgidle, HAProxy, PgBouncer, SocketProxyd)

__all__ = ["PEERS", "Bare", "HAProxy", "Peer", "PgBouncer", "Pgidle", "Setting", "SocketProxyd"]

"""HAProxy: a TCP proxy. It never starts a server, and waits for one that is away by trying again."""

from __future__ import annotations

import shutil

from bench import wire
from bench.peers.common import BeforePostgres, Front, Setting, says
from harness.installations import free_port

ELSEWHERE = "/usr/sbin"
"""Where Debian has it, and not everybody's PATH."""

CONFIGURATION = """
global
    maxconn 4000
defaults
    mode tcp
    option redispatch
    retries 300
    timeout connect 100ms
    timeout queue 1m
    timeout client 1h
    timeout server 1h
frontend postgres
    bind {host}:{port}
    maxconn {most}
    default_backend postgres
backend postgres
    server one {host}:{behind}
"""
"""Without a health check, as a server that a check found down is not waited for: its clients are hung up on at once.
So HAProxy dials again, each time after `timeout connect` ("retries" in its configuration manual), for half a minute.
`timeout connect` is right for a server on the same machine only; with a second or more, a wake takes a second.
"""

MOST = 2000


class HAProxy(BeforePostgres):
    """One process, in the foreground.

    It is not told of a stop. Its runtime API could do that (`set maxconn frontend postgres 0` leaves clients in the
    kernel's queue), but the 2.6 of Debian 12 hangs when that is taken back: github.com/haproxy/haproxy/issues/2726.
    """

    name = "HAProxy"

    def __init__(self, setting: Setting, *, told: bool = False) -> None:
        super().__init__(setting, told=told)
        self.port = free_port()
        self._folder = setting.place.folder("h")
        self._front: Front | None = None

    @classmethod
    def missing(cls) -> str | None:
        return None if _program() else "no haproxy (apt-get install haproxy)"

    @classmethod
    def version(cls) -> str:
        return says(_program() or "", "-v").split(" 20")[0]

    def start(self) -> None:
        configuration = self._folder / "haproxy.cfg"
        configuration.write_text(
            CONFIGURATION.format(host=wire.HOST, port=self.port, behind=self.postgres.port, most=MOST)
        )
        self._front = Front(self._folder, _program() or "", "-db", "-f", configuration)
        super().start()

    def stop(self) -> None:
        if self._front:
            self._front.end()
        super().stop()

    def pids(self) -> tuple[int, ...]:
        assert self._front
        return (self._front.pid,)


def _program() -> str | None:
    return shutil.which("haproxy") or shutil.which("haproxy", path=ELSEWHERE)

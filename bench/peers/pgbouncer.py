"""PgBouncer: a pool of connections, here one for each session, that can be told to hold clients."""

from __future__ import annotations

import os
import shutil
from typing import ClassVar

import psycopg

from bench import wire
from bench.peers.common import BeforePostgres, Front, Setting, says
from harness.installations import conninfo, free_port, server_user

ELSEWHERE = "/usr/sbin"
"""Where Debian has it, and not everybody's PATH."""

CONFIGURATION = """
[databases]
postgres = host={host} port={behind}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = postgres
pool_mode = session
max_client_conn = 2000
default_pool_size = 90
server_login_retry = 0.1
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
"""
"""server_login_retry: so long (seconds) after a failed login newcomers are turned away at once; 15 by default."""


class PgBouncer(BeforePostgres):
    """Told by its console: PAUSE, which waits for the sessions to end and holds newcomers, and RESUME."""

    name = "PgBouncer"
    can_be_told: ClassVar[bool] = True
    pools: ClassVar[bool] = True

    def __init__(self, setting: Setting, *, told: bool = False) -> None:
        super().__init__(setting, told=told)
        self.port = free_port()
        self._folder = setting.place.folder("b")
        self._front: Front | None = None

    @classmethod
    def missing(cls) -> str | None:
        return None if _program() else "no pgbouncer (apt-get install pgbouncer)"

    @classmethod
    def version(cls) -> str:
        return says(_program() or "", "--version")

    def start(self) -> None:
        configuration, users = self._folder / "pgbouncer.ini", self._folder / "users.txt"
        users.write_text('"postgres" ""\n')
        configuration.write_text(
            CONFIGURATION.format(host=wire.HOST, port=self.port, behind=self.postgres.port, users=users)
        )
        if os.getuid() == 0:
            for path in (configuration, users):
                os.chown(path, server_user().pw_uid, -1)
        self._front = Front(self._folder, _program() or "", "-q", configuration)
        super().start()

    def stop(self) -> None:
        if self._front:
            self._front.end()
        super().stop()

    def sleep(self) -> None:
        if self.told:
            self._order("PAUSE")
        super().sleep()

    def wake(self) -> None:
        super().wake()
        if self.told:
            self._order("RESUME")

    def pids(self) -> tuple[int, ...]:
        assert self._front
        return (self._front.pid,)

    def _order(self, command: str) -> None:
        with psycopg.connect(conninfo(self.port, dbname="pgbouncer"), autocommit=True) as console:
            # The console knows the simple protocol only.
            console.pgconn.exec_(command.encode())


def _program() -> str | None:
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path=ELSEWHERE)

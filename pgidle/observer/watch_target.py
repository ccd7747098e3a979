"""What is watched: where and as which role to connect, and what the next start would be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgidle.idle.start_result import StartQuestion
from pgidle.observer.watcher import Watcher
from pgidle.postgres.data_directory import read_pidfile
from pgidle.postgres.postmaster import postgres_command
from pgidle.system.state_directory import WATCH_ROLE
from pgidle.system.users import user_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.run.runtime import Runtime
    from pgidle.settings.resolve import Settings


def make_watcher(
    runtime: Runtime, settings: Settings, postmaster_pid: int, wants_received: Callable[[], bool]
) -> Callable[[], Watcher]:
    """A factory for a watcher of a running postmaster, to be called on the loop that it will belong to."""
    gate, state_dir = runtime.gate, runtime.state_dir
    pidfile = read_pidfile(settings.data_dir)
    # Line 5 of postmaster.pid is the first of unix_socket_directories; without any there is only TCP.
    first = pidfile.socket_dir if pidfile is not None else ""
    if first.startswith("@"):
        # psycopg mistakes an abstract name for a host name.
        first = next((os.path.dirname(path) for path in gate.paths()), "")
    host = _for_libpq(first) or (gate.hosts[0] if gate.hosts else "localhost")
    users = [runtime.environ.get("POSTGRES_USER", ""), user_name(os.geteuid()), "postgres"]

    def remember_role(is_there: bool) -> None:
        """Remember it, so that even the first look after the next wake need not be a superuser's."""
        try:
            state_dir.keep(WATCH_ROLE, "") if is_there else state_dir.forget(WATCH_ROLE)
        except OSError:
            return  # The disk is full: then it is.

    def make() -> Watcher:
        return Watcher(
            host,
            settings.port,
            postmaster_pid,
            [user for user in users if user],
            settings.watch,
            gate.hosts,
            knows_role=state_dir.find(WATCH_ROLE) is not None,
            on_role=remember_role,
            wants_received=wants_received,
        )

    return make


def start_question(runtime: Runtime) -> StartQuestion:
    """The next start, for a trial whether it would succeed."""
    command = postgres_command(runtime.binaries.path("postgres"), runtime.settings, runtime.gate.hosts)
    version = runtime.binaries.version_major
    return StartQuestion(
        tuple(command), version, runtime.settings.data_dir, runtime.state_dir.path, runtime.environ
    )


def _for_libpq(socket_dir: str) -> str:
    """The folder of Postgres's Unix socket, under a name that a connection string can contain: one in UTF-8."""
    try:
        socket_dir.encode()
    except UnicodeEncodeError:
        # It stays open for as long as this process lives.
        folder = os.open(socket_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{folder}"
    return socket_dir

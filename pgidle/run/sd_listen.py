"""What a process inherits at its start: the standard streams and, from a service manager, listening sockets
(sd_listen_fds(3)) and the address that it wants to be notified at (sd_notify(3)).
"""

from __future__ import annotations

import os

from pgidle.base.builtin_modules import socket
from pgidle.base.errors import PgidleError
from pgidle.base.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from pgidle.gate.listeners import Listener
    from pgidle.settings.resolve import Settings

FIRST = 3  # SD_LISTEN_FDS_START
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


@record
class Manager:
    """A service manager's socket (as bind(2) takes it: an abstract name begins with NUL), and the seconds between two
    watchdog messages; None where it has no watchdog."""

    address: str
    ping_every: float | None


def settle_streams() -> None:
    """Make the three standard streams safe to use, and keep every other descriptor from programs that we start.

    If one were missing, the first socket would get its number, and the log would be written to a client. And Postgres
    must not be able to read what root types into a terminal: it gets a descriptor that can only write there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        if os.geteuid() == 0 and os.isatty(number):
            try:
                writer = os.open(os.ttyname(number), os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                continue  # It has no name in this mount namespace.
            os.dup2(writer, number)
            os.close(writer)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # That of the listing itself.


def take_sockets(environ: MutableMapping[str, str]) -> tuple[Listener, ...]:
    """The listeners that were passed to this process, TCP and Unix. The variables are removed, so that no program that
    we start takes them for its own.

    Raises PgidleError for a socket that Postgres could not share.
    """
    from pgidle.gate.listeners import Listener

    given = {name: environ.pop(name, "") for name in VARIABLES}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdigit():
        return ()
    taken = []
    for fd in range(FIRST, FIRST + int(given["LISTEN_FDS"])):
        os.set_inheritable(fd, False)
        inherited = socket.socket(fileno=fd)
        kinds = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        if inherited.family not in kinds or inherited.type != socket.SOCK_STREAM:
            raise PgidleError(
                f"inherited descriptor {fd} is no TCP socket, and no Unix socket of that kind",
                "give pgidle.socket ListenStream=ADDRESS:PORT, or a path",
            )
        is_dual = inherited.family == socket.AF_INET6 and not inherited.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )
        if is_dual:
            # Its IPv4 clients have IPv6 addresses, which no line of pg_hba.conf for IPv4 matches.
            raise PgidleError(
                f"inherited descriptor {fd} takes IPv4 on an IPv6 socket",
                "give pgidle.socket BindIPv6Only=ipv6-only",
            )
        taken.append(Listener(inherited, is_inherited=True))
    return tuple(taken)


def listening_where_inherited(settings: Settings, inherited: Sequence[Listener]) -> Settings:
    """The settings with the port and the addresses of the inherited TCP sockets, if any: Postgres listens there.

    Raises PgidleError where Postgres could not.
    """
    tcp = [one for one in inherited if not one.is_unix]
    if not tcp:
        return settings
    ports = {one.port for one in tcp}
    if len(ports) > 1:
        raise PgidleError(
            f"the inherited sockets have ports {sorted(ports)}", "Postgres has one: give each a service"
        )
    names = [one.name for one in tcp]
    if len(set(names)) < len(names):
        raise PgidleError(
            f"two inherited sockets have the same address: {', '.join(names)}", "name each once"
        )
    return replace(settings, port=ports.pop(), listen_addresses=",".join(names))


def is_reachable(one: Listener, port: int) -> bool:
    """Whether a Unix socket still has its file. If not, Postgres has to make another one there, which exists only as
    long as we run. Call it as Postgres's user. Raises PgidleError for a socket that Postgres would not take for its
    own.
    """
    folder, _, name = one.name.rpartition("/")
    if name != f".s.PGSQL.{port}":
        raise PgidleError(
            f"the inherited Unix socket {one.name} is none of a Postgres on port {port}",
            f"give pgidle.socket ListenStream={folder}/.s.PGSQL.{port}",
        )
    if one.path is None:
        return True
    return os.path.lexists(one.path)


def take_manager(environ: MutableMapping[str, str]) -> Manager | None:
    """The service manager that waits for messages, if one does. The variables are removed: a Postgres that is built
    with systemd support would send messages of its own."""
    given = {name: environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
    path = given["NOTIFY_SOCKET"]
    if not path.startswith(("/", "@")) or len(path) < 2:
        return None
    is_for_us = given["WATCHDOG_PID"] in ("", str(os.getpid()))
    micros = int(given["WATCHDOG_USEC"]) if is_for_us and given["WATCHDOG_USEC"].isdigit() else 0
    # At half the interval, as sd_watchdog_enabled(3) recommends.
    return Manager("\0" + path[1:] if path[0] == "@" else path, micros / 2e6 or None)

"""The HTTP socket, which listens long before there is anything that could answer."""

from __future__ import annotations

import errno

from pgidle.base.builtin_modules import socket
from pgidle.base.errors import PgidleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.settings.resolve import Settings
    from pgidle.system.users import Identity

BACKLOG = 128
NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def listen_http(settings: Settings, identity: Identity | None) -> tuple[socket.socket, ...]:
    """Listen for HTTP where the settings say, if anywhere: a client that connects from now on waits for its answer.

    `identity` is the user that a supervisor which already has the address may run as. Raises PgidleError.
    """
    if settings.http is None:
        return ()
    host, port = settings.http
    try:
        return (_listen_on(host, port) if host else _listen_everywhere(port),)
    except OSError as error:
        from pgidle.system.state_directory import refuse_served
        from pgidle.system.users import acting_as

        # Most often another pgidle on the same data directory has the port: then that is what to report.
        with acting_as(identity):
            refuse_served(settings.state_dir)
        raise PgidleError(
            f"cannot serve HTTP on {host or '*'}:{port}: {error.strerror}", "set --http, or --http off"
        ) from None


def _listen_everywhere(port: int) -> socket.socket:
    """One socket for IPv6 and IPv4, or for IPv4 where there is no IPv6. Raises OSError."""
    try:
        return _listen_on("::", port, both_families=True)
    except OSError as error:
        if error.errno not in NO_IPV6:
            raise
        return _listen_on("0.0.0.0", port)


def _listen_on(host: str, port: int, *, both_families: bool = False) -> socket.socket:
    """Listen on one address; on `::` also for IPv4, whatever net.ipv6.bindv6only says. Raises OSError."""
    family, _, _, _, where = socket.getaddrinfo(
        host.encode(), port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both_families:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener

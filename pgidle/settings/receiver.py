"""The setting on-event: a program, or the address of a web server, whose secrets are not shown. Pure."""

from __future__ import annotations


def is_address(receiver: str) -> bool:
    """Whether a value of on-event is an address of a web server, and no program."""
    return receiver.startswith(("http://", "https://"))


def authority(address: str) -> str:
    """What stands between `//` and the path: user, password, host and port."""
    rest = address.partition("://")[2].replace("?", "/").replace("#", "/")
    return rest.partition("/")[0]


def host_and_port(of: str) -> tuple[str, str | None]:
    """The two that an authority ends with."""
    both = of.rpartition("@")[2]
    host, colon, port = both.rpartition(":")
    return (host, port) if colon and not port.endswith("]") else (both, None)


def harmless_receiver(receiver: str) -> str:
    """A value of on-event without what may be a secret: an address's user, password, path and query."""
    if not is_address(receiver):
        return receiver
    who_and_where = authority(receiver)
    scheme, _, rest = receiver.partition("://")
    return (
        f"{scheme}://{who_and_where.rpartition('@')[2]}{'/***' if len(rest) > len(who_and_where) + 1 else ''}"
    )

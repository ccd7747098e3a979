"""Whether a request's Host can be that of this machine. Pure.

A page of another site may have its own name resolved to 127.0.0.1 (DNS rebinding): a browser on this machine then lets
its scripts read what pgidle says there, as if it came from that site. The name is still in the Host header. Only
requests that arrive on a loopback address are judged: elsewhere a machine has names that it does not know.
"""

from __future__ import annotations

RESERVED = (".localhost", ".local", ".internal", ".home.arpa")
"""Ends of names that nobody can register (RFC 6761, 6762, 8375; ICANN's resolution of 2024 on .internal)."""


def could_be_rebound(host: bytes, local: object) -> bool:
    """Whether a name in a Host header is one that a stranger may own, on a connection to a loopback address. `local`:
    our end, as getsockname(2) tells it."""
    if not isinstance(local, tuple) or not _is_loopback(str(local[0])):
        return False
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return False  # An IPv6 address.
    name = text.partition(":")[0].rstrip(".")
    return "." in name and not _is_ipv4(name) and not name.endswith(RESERVED)


def _is_loopback(address: str) -> bool:
    return address.removeprefix("::ffff:").startswith("127.") or address == "::1"


def _is_ipv4(name: str) -> bool:
    parts = name.split(".")
    return len(parts) == 4 and all(part.isascii() and part.isdigit() for part in parts)

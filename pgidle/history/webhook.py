"""Posts events to a web server, each as a request of its own: `application/json`, without redirects or a proxy."""

from __future__ import annotations

import base64
import http.client
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pgidle.base.errors import fault_text
from pgidle.base.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TIMEOUT = 10.0
"""Seconds for each step of a request: connecting, sending, and receiving more of an answer."""

TRY_AGAIN = (408, 425, 429, *range(500, 600))
"""Statuses that may be others the next time (RFC 9110, RFC 6585, RFC 8470)."""


class NotPosted(Exception):
    """The server has not taken an event, and may do so later. The text says why."""


def post_each(address: str, bodies: Iterable[bytes]) -> Iterator[str]:
    """Post one body after the other; each yields an empty text, or why the server refuses it for good. Raises
    NotPosted."""
    parts = urlsplit(address)
    host, target = parts.hostname or "", f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    headers = {"Content-Type": "application/json", "User-Agent": f"pgidle/{VERSION}", "Connection": "close"}
    if parts.username is not None:
        name_and_password = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(name_and_password).decode()}"
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    for body in bodies:
        connection = kind(host, parts.port, timeout=TIMEOUT)
        try:
            connection.request("POST", target, body, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise NotPosted(fault_text(error)) from None
        finally:
            connection.close()
        if status in TRY_AGAIN:
            raise NotPosted(f"the answer is status {status}")
        yield "" if 200 <= status < 300 else _refusal(status)


def _refusal(status: int) -> str:
    return f"the answer is status {status}{', and redirects are not followed' if 300 <= status < 400 else ''}"

"""`pgidle health` the fast way, without click and http.client, as containers run it twice a minute.

Only the plain case is handled here. In any other (another state directory, a settings file that may name one, no
answer) the result is None, and the caller takes the long way, which prints what is wrong.
"""

from __future__ import annotations

import os
import socket
import time

from pgidle.system import control_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = 4.0
"""Seconds: less than a container engine allows a health check."""
LONGEST = 1 << 16
"""Bytes of an answer that is worth reading."""
REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ANSWERS = ((b"HTTP/1.1 200 ", 0), (b"HTTP/1.1 503 ", 1))


def health(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """What to print, and the exit status."""
    data_dir = environ.get("PGIDLE_DATA_DIR") or environ.get("PGDATA") or ""
    if not data_dir.startswith("/") or {"PGIDLE_STATE_DIR", "PGIDLE_CONFIG"} & environ.keys():
        return None
    if os.path.lexists(f"{data_dir}/../pgidle.toml"):
        return None
    try:
        answer = _ask(f"{data_dir}/pgidle")
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = next((status for begin, status in ANSWERS if head.startswith(begin)), None)
    state = body.removeprefix(b'{"state": "').partition(b'"')[0]
    if status is None or not state.isalpha():
        return None
    return state.decode("ascii"), status


def _ask(state_dir: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(TIMEOUT)
        control_socket.connect(control, state_dir)
        control.sendall(REQUEST)
        answer = b""
        until = time.monotonic() + TIMEOUT
        while (more := control.recv(4096)) and len(answer) < LONGEST and time.monotonic() < until:
            answer += more
        return answer

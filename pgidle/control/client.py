"""The commands' end of the control socket: one HTTP request to the supervisor of a state directory."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pgidle.base.errors import PgidleError, fault_text
from pgidle.system import control_socket

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# Seconds: more than the supervisor takes for anything it can answer at once.
TIMEOUT = 10.0
# Bytes of an answer: a hundred times the longest real one.
LONGEST = 1 << 22


class NotRunning(PgidleError):
    """There is no control socket, or nothing listens on it."""


class NoAnswer(PgidleError):
    """A supervisor is running, but did not answer in time."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, state_dir: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._state_dir = state_dir
        self.pidfd: int | None = None
        """The supervisor's, if its process is visible from here."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        control_socket.connect(self.sock, self._state_dir)
        with contextlib.suppress(OSError):
            self.pidfd = os.pidfd_open(control_socket.peer_of(self.sock).pid)

    def await_end(self, timeout: float | None) -> None:
        """Wait until the supervisor's process has exited, if it is visible from here."""
        if self.pidfd is not None:
            select.select([self.pidfd], [], [], timeout)

    def forget(self) -> None:
        """Close everything. `Connection: close` in an answer closes only the connection."""
        self.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


@contextlib.contextmanager
def _cut_after(seconds: float | None, connected: socket.socket) -> Iterator[None]:
    def cut() -> None:
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    if seconds is None:
        yield
        return
    timer = threading.Timer(2 * seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def not_running(state_dir: str) -> NotRunning:
    """The error where nobody answers."""
    above = os.path.dirname(state_dir)
    gone = "" if os.path.exists(above) else f" ({above} does not exist)"
    return NotRunning(f"no pgidle is running at {state_dir}{gone}", "see --data-dir and --state-dir")


def request(
    state_dir: str,
    method: str,
    path: str,
    timeout: float | None = TIMEOUT,
    *,
    until_gone: Collection[str] = (),
) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON body of the supervisor's answer, within `timeout` seconds (None: no limit).

    After an answer whose `state` is in `until_gone` the supervisor exits, and this waits for that too. Raises
    NotRunning, NoAnswer, or another PgidleError if a supervisor is running but the request failed.
    """
    with _connected(state_dir, timeout) as connection:
        status, body = _answer(connection, method, path, f"the supervisor at {state_dir}")
        if body.get("state") in until_gone:
            connection.await_end(timeout)
        return status, body


def request_text(state_dir: str, path: str, timeout: float = TIMEOUT) -> str:
    """The text that the supervisor answers with. Raises as `request` does, and PgidleError for any status but 200."""
    with _connected(state_dir, timeout) as connection:
        status, answer = _ask(connection, "GET", path, f"the supervisor at {state_dir}")
    if status != http.client.OK:
        raise PgidleError(f"the supervisor at {state_dir} answered {status} to {path}")
    return answer.decode(errors="replace")


@contextlib.contextmanager
def _connected(state_dir: str, timeout: float | None) -> Iterator[_Connection]:
    """A connection to the supervisor. Raises NotRunning or another PgidleError if there can be none."""
    with contextlib.ExitStack() as ends:
        connection = _Connection(state_dir, timeout)
        ends.callback(connection.forget)
        try:
            connection.connect()
            # A socket timeout is for each recv(): a byte now and then would keep us waiting for ever.
            ends.enter_context(_cut_after(timeout, connection.sock))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise not_running(state_dir) from None
        except OSError as error:
            why = "no answer" if isinstance(error, TimeoutError) else error.strerror
            hint = "run this as root or as Postgres's user" if isinstance(error, PermissionError) else ""
            raise PgidleError(f"cannot connect to {control_socket.path(state_dir)}: {why}", hint) from None
        yield connection


def request_url(url: str, path: str, timeout: float) -> tuple[int, dict[str, Any]]:
    """The same from a supervisor's HTTP port, by GET: `url` is http:// or https://, a host, perhaps a port, and perhaps
    what stands before the path. Raises PgidleError."""
    where = urlsplit(url)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    with contextlib.ExitStack() as ends:
        try:
            connection = kind(where.hostname or "", where.port, timeout=timeout)
            ends.callback(connection.close)
            connection.connect()
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = "no answer" if isinstance(error, TimeoutError) else fault_text(error)
            raise PgidleError(f"cannot connect to {url}: {why}") from None
        ends.enter_context(_cut_after(timeout, connection.sock))
        return _answer(connection, "GET", f"{where.path.rstrip('/')}{path}", url)


def _answer(
    connection: http.client.HTTPConnection, method: str, path: str, who: str
) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON object of the answer. Raises PgidleError, NoAnswer if none came in time."""
    status, answer = _ask(connection, method, path, who)
    try:
        body = json.loads(answer)
    except (ValueError, RecursionError):
        raise PgidleError(f"{who} answered {status} without JSON") from None
    if not isinstance(body, dict):
        raise PgidleError(f"{who} answered {status} without a JSON object")
    return status, body


def _ask(connection: http.client.HTTPConnection, method: str, path: str, who: str) -> tuple[int, bytes]:
    """The status and the body of the answer. Raises PgidleError, NoAnswer if none came in time."""
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read(LONGEST)
    except TimeoutError:
        raise NoAnswer(f"{who} did not answer within {connection.timeout:g} s") from None
    except (OSError, http.client.HTTPException):
        if urlsplit(who).scheme:
            raise PgidleError(f"{who} closed the connection: not a pgidle HTTP port?") from None
        raise PgidleError(f"{who} exited before it answered") from None

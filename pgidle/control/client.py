"""The commands' side of the control socket: one HTTP request to the supervisor of a state directory."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from pgidle.base.errors import PgidleError
from pgidle.system import control_socket

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# Seconds: more than the supervisor takes for what it can answer at once.
TIMEOUT = 10.0
# Bytes of an answer: a hundred times what there is to say.
LONGEST = 1 << 22


class NotRunning(PgidleError):
    """There is no control socket, or nobody listens at it."""


class NoAnswer(PgidleError):
    """A supervisor is there, and did not answer in time."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, state_dir: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._state_dir = state_dir
        self.pidfd: int | None = None
        """The supervisor, where its process can be seen from here."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        control_socket.connect(self.sock, self._state_dir)
        with contextlib.suppress(OSError):
            self.pidfd = os.pidfd_open(control_socket.peer_of(self.sock).pid)

    def await_end(self, timeout: float | None) -> None:
        """Wait for the end of the supervisor's process, as far as it can be seen."""
        if self.pidfd is not None:
            select.select([self.pidfd], [], [], timeout)

    def forget(self) -> None:
        """Close all. An answer that says so closes the connection alone."""
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


def request(
    state_dir: str,
    method: str,
    path: str,
    timeout: float | None = TIMEOUT,
    *,
    until_gone: Collection[str] = (),
) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON body of the supervisor's answer, waited for for `timeout` seconds, or for ever.

    An answer whose `state` is one of `until_gone` is its last: its process's end is waited for too. Raises NotRunning,
    NoAnswer, or another PgidleError if a supervisor is there and the answer could not be had.
    """
    with contextlib.ExitStack() as ends:
        connection = _Connection(state_dir, timeout)
        ends.callback(connection.forget)
        try:
            connection.connect()
            # The timeout is for each piece: who sends one now and then would be waited for without end.
            ends.enter_context(_cut_after(timeout, connection.sock))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            above = os.path.dirname(state_dir)
            gone = "" if os.path.exists(above) else f", as there is no {above}"
            raise NotRunning(
                f"no supervisor runs at {state_dir}{gone}", "see --data-dir and --state-dir"
            ) from None
        except OSError as error:
            why = "it does not answer" if isinstance(error, TimeoutError) else error.strerror
            hint = "run this as root or as the user of Postgres" if isinstance(error, PermissionError) else ""
            raise PgidleError(f"cannot connect to {control_socket.path(state_dir)}: {why}", hint) from None
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = json.loads(response.read(LONGEST))
            if isinstance(body, dict):
                if body.get("state") in until_gone:
                    connection.await_end(timeout)
                return response.status, body
            why = f"answered {response.status} and no JSON object"
        except TimeoutError:
            raise NoAnswer(f"the supervisor at {state_dir} did not answer within {timeout:g} s") from None
        except (OSError, http.client.HTTPException):
            why = "ended before it answered"
        except (ValueError, RecursionError):
            why = f"answered {response.status} and no JSON"
        raise PgidleError(f"the supervisor at {state_dir} {why}")

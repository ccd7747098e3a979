"""The commands' side of the control socket: one HTTP request to the supervisor of a state directory."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from pgidle.errors import PgidleError
from pgidle.statedir import CONTROL_SOCKET, connect, open_of_another

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds: more than the supervisor itself takes for any answer.
TIMEOUT = 10.0
# Bytes of an answer: a hundred times what there is to say.
LONGEST = 1 << 22


class NotRunning(PgidleError):
    """There is no control socket, or nobody listens at it."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, state_dir: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._state_dir = state_dir

    def connect(self) -> None:
        folder = open_of_another(self._state_dir)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            connect(folder, self.sock)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _cut_after(seconds: float, connected: socket.socket) -> Iterator[None]:
    def cut() -> None:
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(2 * seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def request(state_dir: str, method: str, path: str, timeout: float = TIMEOUT) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON body of the supervisor's answer.

    Raises NotRunning, or PgidleError if a supervisor is there and the answer could not be had.
    """
    with contextlib.closing(_Connection(state_dir, timeout)) as connection, contextlib.ExitStack() as ends:
        try:
            connection.connect()
            # The timeout is for each piece: who sends one now and then would be waited for without end.
            ends.enter_context(_cut_after(timeout, connection.sock))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            above = os.path.dirname(state_dir)  # noqa: PTH120
            gone = "" if os.path.exists(above) else f", as there is no {above}"  # noqa: PTH110
            raise NotRunning(
                f"no supervisor runs at {state_dir}{gone}", "see --data-dir and --state-dir"
            ) from None
        except OSError as error:
            why = "it does not answer" if isinstance(error, TimeoutError) else error.strerror
            hint = "run this as root or as the user of Postgres" if isinstance(error, PermissionError) else ""
            raise PgidleError(f"cannot connect to {state_dir}/{CONTROL_SOCKET}: {why}", hint) from None
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = json.loads(response.read(LONGEST))
            if isinstance(body, dict):
                return response.status, body
            why = f"answered {response.status} and no JSON object"
        except TimeoutError:
            why = f"did not answer within {timeout:g} s"
        except (OSError, http.client.HTTPException):
            why = "ended before it answered"
        except (ValueError, RecursionError):
            why = f"answered {response.status} and no JSON"
        raise PgidleError(f"the supervisor at {state_dir} {why}")

"""A client so cheap that what is measured is the server: PostgreSQL's protocol, version 3, `trust` only.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
PATIENCE = 30.0
"""Seconds after which an answer that has not come never will."""
RETRY = 0.001
"""Seconds between two attempts to connect."""

Where = int | str
"""A port of HOST, or the path of a Unix socket."""

_PROTOCOL = 196608
_numbers = itertools.count(1)


TERMINATE = b"X\0\0\0\4"
READY = b"Z\0\0\0\5I"
"""Ready for the next query, outside of a transaction."""


class RefusedError(Exception):
    """The server answered with an error, or hung up."""


def refusal(body: bytes) -> RefusedError:
    """SQLSTATE and message of an ErrorResponse."""
    fields = {one[:1]: one[1:].decode(errors="replace") for one in body.split(b"\0") if one}
    return RefusedError(f"{fields.get(b'C', '')} {fields.get(b'M', '')}".strip())


def query(statement: str) -> bytes:
    """A simple query."""
    return b"Q" + struct.pack("!I", len(statement) + 5) + statement.encode() + b"\0"


class Conversation:
    """What to send next, and the first column of the first row, of a session with one statement."""

    def __init__(self, statement: str, application: str = "") -> None:
        # One application that comes back after each sleep is flapping, and sleep is put off for it.
        name = application or f"bench {next(_numbers)}"
        fields = ("user", "postgres", "database", "postgres", "application_name", name)
        body = struct.pack("!I", _PROTOCOL) + b"".join(f"{one}\0".encode() for one in fields) + b"\0"
        self.first = struct.pack("!I", len(body) + 4) + body
        self.value: str | None = None
        self._query = query(statement)
        self._asked = False
        self._data = b""

    def received(self, data: bytes) -> bytes:
        """Take what came; what to send. Raises RefusedError."""
        if not data:
            raise RefusedError("the server hung up")
        self._data += data
        answer = b""
        while len(self._data) >= 5:
            kind, length = struct.unpack_from("!cI", self._data)
            if len(self._data) < length + 1:
                break
            body, self._data = self._data[5 : length + 1], self._data[length + 1 :]
            if kind == b"E":
                raise refusal(body)
            if kind == b"D":
                (size,) = struct.unpack_from("!i", body, 2)
                self.value = body[6 : 6 + size].decode()
            elif kind == b"Z" and not self._asked:
                self._asked, answer = True, self._query
        return answer


def connect(where: Where, source: str = HOST) -> socket.socket:
    """Connected; over TCP from a loopback address. Raises OSError."""
    if isinstance(where, int):
        return socket.create_connection((HOST, where), PATIENCE, (source, 0))
    server = socket.socket(socket.AF_UNIX)
    try:
        server.settimeout(PATIENCE)
        server.connect(where)
    except OSError:
        server.close()
        raise
    return server


def ask(where: Where, statement: str = "SELECT 1", source: str = HOST) -> str:
    """Connect once and return the first value. Raises OSError or RefusedError."""
    conversation = Conversation(statement)
    with connect(where, source) as server:
        server.sendall(conversation.first)
        while conversation.value is None:
            server.sendall(conversation.received(server.recv(65536)))
        server.sendall(TERMINATE)
        return conversation.value


def copy_out(port: int, table: str) -> int:
    """COPY a table's rows, text without a zero byte, here and forget them; bytes that came.

    Raises OSError or RefusedError.
    """
    conversation, statement = Conversation(f"COPY {table} TO STDOUT"), b""
    buffer, size, last = bytearray(1 << 20), 0, b""
    with socket.create_connection((HOST, port), PATIENCE) as server:
        server.sendall(conversation.first)
        while not statement:
            server.sendall(statement := conversation.received(server.recv(65536)))
        while not last.endswith(READY):
            if not (count := server.recv_into(buffer)):
                raise RefusedError("the server hung up")
            size += count
            last = (last + buffer[max(0, count - 64) : count])[-64:]
        server.sendall(TERMINATE)
    if b"COPY " not in last:
        raise RefusedError(f"no rows of {table}")
    return size


def first_row(where: Where, is_running: Callable[[], bool]) -> int:
    """Connect until it works, as somebody who waits for a server does; how many attempts failed before.

    Raises OSError or RefusedError when the server is no more.
    """
    failed = 0
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            ask(where)
        except (OSError, RefusedError):
            if time.monotonic() > deadline or not is_running():
                raise
            failed += 1
            time.sleep(RETRY)
        else:
            return failed


def crowd(port: int, count: int) -> tuple[float, int]:
    """So many clients connect at once: seconds until the last was served, and how many never were."""
    began = time.perf_counter()
    deadline = time.monotonic() + PATIENCE
    failed = 0
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as sockets:
        for _ in range(count):
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((HOST, port))
            selector.register(client, selectors.EVENT_WRITE, Conversation("SELECT 1"))
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1.0):
                one, conversation = key.fileobj, key.data
                assert isinstance(one, socket.socket)
                try:
                    if key.events == selectors.EVENT_WRITE:
                        one.sendall(conversation.first)
                        selector.modify(one, selectors.EVENT_READ, conversation)
                    else:
                        one.sendall(conversation.received(one.recv(65536)))
                except (OSError, RefusedError):
                    failed += 1
                    selector.unregister(one)
                else:
                    if conversation.value is not None:
                        selector.unregister(one)
                        one.close()
        failed += len(selector.get_map())
    return time.perf_counter() - began, failed

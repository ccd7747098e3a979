"""A client of so few instructions that what is measured is the server: PostgreSQL's protocol, version 3, `trust` only.

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

_PROTOCOL = 196608
_numbers = itertools.count(1)


class RefusedError(Exception):
    """The server answered with an error, or hung up."""


class Conversation:
    """What to send next, and the first column of the first row, of a session with one statement."""

    def __init__(self, statement: str) -> None:
        # One application that comes back after each sleep is flapping, and sleep is put off for it.
        name = f"bench {next(_numbers)}"
        fields = ("user", "postgres", "database", "postgres", "application_name", name)
        body = struct.pack("!I", _PROTOCOL) + b"".join(f"{one}\0".encode() for one in fields) + b"\0"
        self.first = struct.pack("!I", len(body) + 4) + body
        self.value: str | None = None
        self._query = b"Q" + struct.pack("!I", len(statement) + 5) + statement.encode() + b"\0"
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
                raise RefusedError(body.replace(b"\0", b" ").decode(errors="replace"))
            if kind == b"D":
                (size,) = struct.unpack_from("!i", body, 2)
                self.value = body[6 : 6 + size].decode()
            elif kind == b"Z" and not self._asked:
                self._asked, answer = True, self._query
        return answer


def ask(port: int, statement: str = "SELECT 1") -> str:
    """Connect once, and return the first value. Raises OSError or RefusedError."""
    conversation = Conversation(statement)
    with socket.create_connection((HOST, port), PATIENCE) as server:
        server.sendall(conversation.first)
        while conversation.value is None:
            server.sendall(conversation.received(server.recv(65536)))
        return conversation.value


def first_row(port: int, is_running: Callable[[], bool]) -> None:
    """Connect until it works, as somebody who waits for a server does; an error when the server is no more."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            ask(port)
        except (OSError, RefusedError):
            if time.monotonic() > deadline or not is_running():
                raise
            time.sleep(RETRY)
        else:
            return


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

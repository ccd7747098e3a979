"""Connections that speak HTTP: one request each, and a limit to everything.

h11 parses; asyncio carries the bytes. A ready-made server would wake up many times a second to see whether it should
exit, which is more than everything else an idle pgidle does.

A client that sends its request at once is answered, however many others are connected: when there are too many, the one
that is cut is not the newcomer but the one silent longest, of the address that has most connections.
"""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import h11

from pgidle.control.health_checks import (
    CONNECTIONS,
    CONNECTIONS_OF_ONE,
    END_OF_HEAD,
    LONGEST_HEAD,
    REQUEST_TIME,
    origin,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Answering = Callable[[str, str, str, str], Awaitable["Answer"]]

# Seconds for a client to read its answer. How long making the answer takes is up to `answering`.
CONNECTION_TIME = 10.0
# Seconds that answers under way get when the server closes.
CLOSING_TIME = 0.2


class Answer(NamedTuple):
    """Status, content type, body."""

    status: int
    kind: bytes
    body: bytes


class HttpServer:
    """Answers requests on the connections it is given. Belongs to the loop's thread.

    `answering` is called with a request's method, path and query, and with who asks (empty over TCP); it must not
    raise, and is cancelled if the client disconnects.
    """

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.connections: set[_Connection] = set()
        self._numbers = itertools.count()

    def next_number(self) -> int:
        return next(self._numbers)

    async def let_in(self, connected: socket.socket, data: bytes, peer: str = "") -> None:
        """Serve a connection on which `data` has been read so far. `peer`: who is at the other end of a Unix socket."""
        loop = asyncio.get_running_loop()
        try:
            transport, connection = await loop.connect_accepted_socket(
                lambda: _Connection(self, peer), connected
            )
        except OSError:
            connected.close()  # The client has disconnected meanwhile.
            return
        if data and not transport.is_closing():
            connection.data_received(data)

    def make_room(self) -> None:
        """If there are too many connections, cut the one silent longest."""
        crowd = Counter(one.origin for one in self.connections if one.origin)
        most = max(crowd.values(), default=0)
        if most <= CONNECTIONS_OF_ONE and len(self.connections) <= CONNECTIONS:
            return
        crowded = [one for one in self.connections if crowd[one.origin] == most]
        by_age = sorted(crowded, key=lambda one: one.number)
        next((one for one in by_age if one.is_silent()), by_age[-1]).cut()

    async def close(self) -> None:
        """Let answers under way finish, and cut the rest."""
        tasks = [one.task for one in self.connections if one.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSING_TIME)
        for connection in list(self.connections):
            connection.cut()
        # The transports notify their protocols, and close their sockets, on the loop's next turn.
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One connection, up to the end of its one answer."""

    def __init__(self, server: HttpServer, peer: str) -> None:
        self.task: asyncio.Task[None] | None = None
        self.number = server.next_number()
        self.origin = ""
        self._server = server
        self._peer = peer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self._request: h11.Request | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(REQUEST_TIME, self.cut)
        self.origin = origin(transport.get_extra_info("peername"))
        self._server.connections.add(self)
        self._server.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._server.connections.discard(self)
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        if self.task is not None or self._transport.is_closing():
            return
        try:
            self._http.receive_data(data)
            self._proceed()
        except h11.RemoteProtocolError as error:
            answer = Answer(error.error_status_hint, b"text/plain; charset=utf-8", f"{error}\n".encode())
            self._send(answer, has_body=True)

    def eof_received(self) -> bool:
        # A client that has shut down only its sending side still reads the answer. One that has closed the socket does
        # not, which a Unix socket reports.
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        is_gone = any(event & select.POLLHUP for _, event in poll.poll(0))
        return self.task is not None and not is_gone

    def cut(self) -> None:
        # Remove it now: the transport calls connection_lost only on the loop's next turn.
        self._server.connections.discard(self)
        self._transport.abort()

    def is_silent(self) -> bool:
        """Whether no complete request has arrived, not even in the kernel's buffer: in a flood, connections are
        accepted before any of them is read."""
        if self.task is not None or self._transport.is_closing():
            return self.task is None
        looked_into = socket.socket(fileno=self._transport.get_extra_info("socket").fileno())
        try:
            return END_OF_HEAD not in looked_into.recv(LONGEST_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return True
        finally:
            looked_into.detach()

    def _proceed(self) -> None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request = event
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._end.cancel()
                self.task = asyncio.get_running_loop().create_task(self._answer(self._request))
                self.task.add_done_callback(self._answered)
                return
            elif event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[])
                    self._transport.write(self._http.send(go_on) or b"")
                return

    async def _answer(self, request: h11.Request) -> None:
        path, _, query = request.target.decode("ascii", "replace").partition("?")
        method = request.method.decode("ascii")
        answer = await self._server.answering(method, path, query, self._peer)
        self._send(answer, has_body=method != "HEAD")

    def _answered(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.cut()
            context = {"message": "a request could not be answered", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _send(self, answer: Answer, *, has_body: bool) -> None:
        headers = [
            (b"content-type", answer.kind),
            (b"content-length", b"%d" % len(answer.body)),
            (b"cache-control", b"no-store"),
            # One request each: keeping a connection until the next check is not worth it.
            (b"connection", b"close"),
        ]
        response = h11.Response(
            status_code=answer.status, headers=headers, reason=HTTPStatus(answer.status).phrase
        )
        body = h11.Data(data=answer.body if has_body else b"")
        sent = [self._http.send(event) for event in (response, body, h11.EndOfMessage())]
        self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(CONNECTION_TIME, self.cut)
        self._transport.write(b"".join(part for part in sent if part))
        self._transport.close()

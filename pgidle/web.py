"""The two HTTP doors: one on TCP that only tells, one on a Unix socket that also takes orders.

Every answer comes from memory, in any state, and asks Postgres nothing, so it never counts as use. uvicorn
parses HTTP; its `Server` is left out, because it wakes ten times a second to see whether it should end: more
than all the rest of an idle supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from pgidle.inbox import Requested
from pgidle.lifecycle import State
from pgidle.status import as_dict, as_metrics

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

    from pgidle.inbox import Inbox
    from pgidle.meter import Meter
    from pgidle.status import Report

    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]

    Answer = tuple[int, bytes, bytes]

# Seconds that the supervisor has for granting or refusing a request.
REPLY_TIMEOUT = 5.0
# Seconds from connect to the end of the answer: a silent or endless client is not kept.
CONNECTION_TIME = 10.0
# Connections at a time and door; more are closed at once, so that a flood does not take every descriptor.
CONNECTIONS = 64
# Bytes of a request's head.
LONGEST_HEAD = 8192

JSON = b"application/json"
PLAIN = b"text/plain; charset=utf-8"
# The version of the text format: https://prometheus.io/docs/instrumenting/exposition_formats/
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"

PARAMETERS = {"sleep": ("force",), "wake": (), "hold": ("seconds", "why"), "release": ()}


def _json(status: int, body: Mapping[str, object]) -> Answer:
    return status, JSON, json.dumps(body).encode() + b"\n"


def _error(status: int, message: str) -> Answer:
    return _json(status, {"error": message})


class Application:
    """One door's ASGI application. Runs on the backstage's loop; `report` is called there."""

    def __init__(self, report: Callable[[], Report], meter: Meter, orders: Inbox | None = None) -> None:
        """`orders`: where requests go; None makes the door read-only."""
        self._report = report
        self._meter = meter
        self._orders = orders

    async def __call__(self, scope: Any, _receive: Receive, send: Send) -> None:
        status, kind, body = await self._answer(scope["method"], scope["path"], scope["query_string"])
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            # One request each: no connection is worth keeping for the next check.
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, method: str, path: str, query: bytes) -> Answer:
        look = {
            "/health": self._health,
            "/ready": self._ready,
            "/status": self._status,
            "/metrics": self._metrics,
        }.get(path)
        if look:
            return look() if method in ("GET", "HEAD") else _error(405, f"{path} takes GET")
        verb = path.removeprefix("/")
        if self._orders is None or verb not in PARAMETERS or path == verb:
            return _error(404, f"no such path: {path}")
        if method != "POST":
            return _error(405, f"{path} takes POST")
        try:
            request = _parse(verb, query)
        except ValueError as error:
            return _error(400, str(error))
        return await self._order(self._orders, verb, *request)

    def _health(self) -> Answer:
        state = self._report().state
        return _json(503 if state is State.FAILED else 200, {"state": state.noun})

    def _ready(self) -> Answer:
        state = self._report().state
        return _json(200 if state is State.AWAKE else 503, {"state": state.noun})

    def _status(self) -> Answer:
        report = self._report()
        memory = self._meter.read(report.postmaster_pid)
        return _json(200, as_dict(report, time.monotonic(), time.time(), memory))

    def _metrics(self) -> Answer:
        report = self._report()
        memory = self._meter.read(report.postmaster_pid)
        return 200, PROMETHEUS, as_metrics(report, time.monotonic(), memory).encode()

    async def _order(self, orders: Inbox, verb: str, force: bool, seconds: float, why: str) -> Answer:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[bool, str]] = loop.create_future()

        def resolve(granted: bool, text: str) -> None:
            if not future.done():
                future.set_result((granted, text))

        def reply(granted: bool, text: str) -> None:
            # The loop is closed when the supervisor answers on its way out: nobody is left to hear it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve, granted, text)

        orders.post(Requested(verb, force, seconds, why, reply))
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                granted, text = await future
        except TimeoutError:
            return _error(504, f"the supervisor did not answer within {REPLY_TIMEOUT:g} s")
        return _json(200 if granted else 409, {"granted": granted, "message": text})


def _parse(verb: str, query: bytes) -> tuple[bool, float, str]:
    """What a query string asks for: force, seconds, why. Raises ValueError with a line for the asker."""
    known = PARAMETERS[verb]
    given: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True):
        if name not in known or name in given:
            raise ValueError(f"/{verb}: parameter {name!r} is unknown or given twice")
        given[name] = value
    if (force := given.get("force", "0")) not in ("0", "1"):
        raise ValueError(f"force: {force!r} is not 0 or 1")
    try:
        seconds = float(given.get("seconds", "nan" if verb == "hold" else "0"))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf or (verb == "hold" and not seconds):
        raise ValueError(f"seconds: {given.get('seconds', '')!r} is not a number of seconds above 0")
    return force == "1", seconds, given.get("why", "")


class _OneRequest(H11Protocol):
    """A connection with a limited life, which uvicorn does not give to one that never sends anything."""

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._end = self.loop.call_later(CONNECTION_TIME, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end:
            self._end.cancel()
        super().connection_lost(exc)


class Door:
    """A listening socket, taken over, and the application behind it. Belongs to the loop's thread."""

    def __init__(self, application: Application, listener: socket.socket) -> None:
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._state = ServerState()
        self._config = Config(
            application,
            http=_OneRequest,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # A client's garbage is no news; a fault of this program is.
            log_level="error",
            access_log=False,
            # uvicorn's environment variables are not ours: without these it would read and judge them.
            workers=1,
            forwarded_allow_ips="",
            proxy_headers=False,
            h11_max_incomplete_event_size=LONGEST_HEAD,
        )
        self._config.load()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.Protocol:
            return _OneRequest(self._config, self._state, {}, loop)

        self._server = await loop.create_server(connect, sock=self._listener)

    async def close(self) -> None:
        """Let nobody in any more, let answers under way end (0.2 s), and cut the rest."""
        if self._server:
            self._server.close()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=0.2)
        for connection in list(self._state.connections):
            connection.transport.abort()
        # The transports tell their protocols, and close their sockets, on the loop's next turn.
        await asyncio.sleep(0)

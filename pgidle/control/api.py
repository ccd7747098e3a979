"""Answers to HTTP requests: read-only over TCP; over the control socket, orders are taken too.

Every answer comes from memory, in any state, and never counts as use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from pgidle.control.http_server import Answer
from pgidle.control.orders import LONGEST_WHY, Hold, Program, Release, Requested, Sleep, Wake
from pgidle.control.status import NO_LOOK, as_dict
from pgidle.lifecycle.transitions import State
from pgidle.settings.options import LONGEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pgidle.control.memory_use import MemoryReader
    from pgidle.control.orders import Order
    from pgidle.control.status import Report
    from pgidle.history.totals import Counted

# Seconds that a request for the status waits for a look taken after it arrived.
FRESH_TIMEOUT = 2.0

# Seconds around a change of state within which its line of the journal was written.
AROUND = 3.0

JSON = b"application/json"
# The version of the text format: https://prometheus.io/docs/instrumenting/exposition_formats/
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"

# Seconds that `/history` looks back, unless asked for others, and at most.
SINCE, LONGEST_SINCE = 86400, 366 * 86400

PARAMETERS = {
    "sleep": ("force", "wait"),
    "wake": ("wait",),
    "hold": ("seconds", "why", "pid", "started", "program"),
    "release": ("name",),
}


def _json(status: int, body: Mapping[str, object]) -> Answer:
    return Answer(status, JSON, json.dumps(body).encode() + b"\n")


def _error(status: int, message: str) -> Answer:
    return _json(status, {"error": message})


class Application:
    """The answers of one HTTP server."""

    def __init__(
        self,
        report: Callable[[], Awaitable[Report]],
        state: Callable[[], State],
        meter: MemoryReader,
        take: Callable[[Requested], None] | None = None,
        look: Callable[[Callable[[], None]], None] = lambda reply: reply(),
        *,
        counted: Callable[[], Counted],
        folder: int,
    ) -> None:
        """`report` returns the current report, `state` the state last heard of. `take` is called with orders; None
        makes the server read-only. `look` calls back once there has been a look, or none can be had. `counted`
        returns what is counted over all runs; it raises OSError. `folder`: the state directory's descriptor."""
        self._report = report
        self._state = state
        self._meter = meter
        self._take = take
        self._look = look
        self._folder = folder
        self._reading = asyncio.Lock()
        """One reads the journal at a time, so that many requests take no more memory than one."""
        self._counted = counted

    async def answer(self, method: str, path: str, query: str, peer: str) -> Answer:
        """The answer to a request, which may be an error. `peer`: who asks, at the control socket."""
        look = {
            "/health": self._health,
            "/ready": self._ready,
            "/status": self._status,
            "/metrics": self._metrics,
        }.get(path)
        if look:
            if method not in ("GET", "HEAD"):
                return _error(405, f"{path}: the method must be GET")
            if path == "/status" and self._take is not None and query != NO_LOOK:
                await self._look_now()
            return look(await self._report())
        if path in ("/", "/history"):
            if method not in ("GET", "HEAD"):
                return _error(405, f"{path}: the method must be GET")
            return await self._history(query) if path == "/history" else _page()
        verb = path.removeprefix("/")
        if self._take is None or verb not in PARAMETERS or path == verb:
            return _error(404, f"no such path: {path}")
        if method != "POST":
            return _error(405, f"{path}: the method must be POST")
        try:
            order = _read_order(verb, query)
        except ValueError as error:
            return _error(400, str(error))
        return await self._order(self._take, order, peer)

    def _health(self, report: Report) -> Answer:
        # A failed start is not reported as unhealthy: a platform would restart us, and clients that wait would be lost.
        problem = {"problem": report.failed_start.why} if report.failed_start is not None else {}
        return _json(503 if report.state is State.FAILED else 200, {"state": report.state.noun, **problem})

    def _ready(self, report: Report) -> Answer:
        return _json(200 if report.state is State.AWAKE else 503, {"state": report.state.noun})

    def _status(self, report: Report) -> Answer:
        memory = self._meter.read(report.resident, report.postmaster_pid)
        # Only the control socket knows who asks: root, or Postgres's user.
        with_statements = self._take is not None
        now, wall = time.monotonic(), time.time()
        waker = ""
        if report.state is State.AWAKE and report.last_use is None:
            from pgidle.history.last_wake import last_waker  # Rarely asked for.

            # The line is written at about the moment when the state is entered.
            waker = last_waker(self._folder, wall - (now - report.since) - AROUND)
        return _json(200, as_dict(report, now, wall, memory, with_statements=with_statements, waker=waker))

    def _metrics(self, report: Report) -> Answer:
        from pgidle.control.metrics import of_running

        memory = self._meter.read(report.resident, report.postmaster_pid)
        try:
            counted = self._counted()
        except OSError as error:
            return _error(500, f"cannot read the journal: {error.strerror}")
        return Answer(
            200, PROMETHEUS, of_running(report, counted, memory, time.monotonic(), time.time()).encode()
        )

    async def _history(self, query: str) -> Answer:
        from pgidle.control.history_answer import history

        try:
            seconds = _since(query)
        except ValueError as error:
            return _error(400, str(error))
        try:
            async with self._reading:
                # Only the control socket knows who asks: root, or Postgres's user.
                with_statements = self._take is not None
                said = await history(self._folder, seconds, time.time(), with_statements=with_statements)
                return _json(200, said)
        except OSError as error:
            return _error(500, f"cannot read the journal: {error.strerror}")

    async def _look_now(self) -> None:
        """Looks may be half a minute apart: have one taken now, if it does not take long."""
        looked = asyncio.Event()
        self._look(looked.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FRESH_TIMEOUT):
                await looked.wait()

    async def _order(self, take: Callable[[Requested], None], order: Order, peer: str) -> Answer:
        """Pass the order on, and wait for its answer for as long as the client does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[bool, str]] = loop.create_future()

        def resolve(granted: bool, text: str) -> None:
            if not future.done():
                future.set_result((granted, text))

        def reply(granted: bool, text: str) -> None:
            # May be called from the thread that writes holds, and after the loop was closed: then no client is left.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve, granted, text)

        take(Requested(order, peer, reply, lambda: not future.done()))
        granted, text = await future
        body = {"granted": granted, "message": text, "state": self._state().noun}
        return _json(200 if granted else 409, body)


def _page() -> Answer:
    from pgidle.control.web_page import page

    return page()


def _since(query: str) -> float:
    """How many seconds back a request for the history asks. Raises ValueError with a line for the client."""
    given = parse_qsl(query, keep_blank_values=True)
    text = dict(given).get("since", str(SINCE))
    if len(given) > 1 or dict(given).keys() - {"since"}:
        raise ValueError("/history: the only parameter is since, once")
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= LONGEST_SINCE):
        raise ValueError(f"since: {text!r} is not a whole number of seconds from 1 to {LONGEST_SINCE}")
    return float(text)


def _read_order(verb: str, query: str) -> Order:
    """The order in a request. Raises ValueError with a line for the client."""
    known = PARAMETERS[verb]
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known or name in given:
            raise ValueError(f"/{verb}: parameter {name!r} is unknown or given twice")
        given[name] = value
    if verb == "sleep":
        return Sleep(_flag(given, "force"), _flag(given, "wait"))
    if verb == "wake":
        return Wake(_flag(given, "wait"))
    if verb == "release":
        return Release(given.get("name"))
    why = given.get("why", "")
    if len(why) > LONGEST_WHY:
        raise ValueError(f"why: {len(why)} characters, at most {LONGEST_WHY} are allowed")
    program = _program(given)
    return Hold(_seconds(given) if "seconds" in given or program is None else None, why, program)


def _flag(given: Mapping[str, str], name: str) -> bool:
    if (text := given.get(name, "0")) not in ("0", "1"):
        raise ValueError(f"{name}: {text!r} is not 0 or 1")
    return text == "1"


def _seconds(given: Mapping[str, str]) -> float:
    text = given.get("seconds", "")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"seconds: {text!r} is not a number of seconds above 0 and up to {LONGEST}")
    return seconds


def _program(given: Mapping[str, str]) -> Program | None:
    if not {"pid", "started", "program"} & given.keys():
        return None
    numbers = [given.get(name, "") for name in ("pid", "started")]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
        raise ValueError("pid, started: expected two numbers, as in /proc/PID/stat")
    return Program(int(numbers[0]), int(numbers[1]), given.get("program", "")[:LONGEST_WHY])

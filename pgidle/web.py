"""What is answered over HTTP: one application only tells, for TCP, and one, for the Unix socket, also takes orders.

Every answer comes from memory, in any state, and asks Postgres nothing, so it never counts as use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from pgidle.door import Answer
from pgidle.inbox import LookWanted, Requested
from pgidle.lifecycle import State
from pgidle.options import LONGEST
from pgidle.status import as_dict, as_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgidle.inbox import Inbox
    from pgidle.meter import Meter
    from pgidle.status import Report

# Seconds that the supervisor has for granting or refusing a request.
REPLY_TIMEOUT = 5.0

# Seconds that who asks for the status waits for a look that is younger than the question.
FRESH_TIMEOUT = 2.0

JSON = b"application/json"
# The version of the text format: https://prometheus.io/docs/instrumenting/exposition_formats/
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"

PARAMETERS = {"sleep": ("force",), "wake": (), "hold": ("seconds", "why"), "release": ()}


def _json(status: int, body: Mapping[str, object]) -> Answer:
    return Answer(status, JSON, json.dumps(body).encode() + b"\n")


def _error(status: int, message: str) -> Answer:
    return _json(status, {"error": message})


class Application:
    """What one door says. Runs on the backstage's loop; `report` is called there."""

    def __init__(self, report: Callable[[], Report], meter: Meter, orders: Inbox | None = None) -> None:
        """`orders`: where requests go; None makes the door read-only."""
        self._report = report
        self._meter = meter
        self._orders = orders

    async def answer(self, method: str, path: str, query: str) -> Answer:
        """The answer to a request; whatever is wrong with it is an answer too."""
        look = {
            "/health": self._health,
            "/ready": self._ready,
            "/status": self._status,
            "/metrics": self._metrics,
        }.get(path)
        if look:
            if path == "/status" and self._orders is not None:
                await self._look_now(self._orders)
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
        return Answer(200, PROMETHEUS, as_metrics(report, time.monotonic(), memory).encode())

    async def _look_now(self, orders: Inbox) -> None:
        """Looks may be half a minute apart: have one, where that can be had soon."""
        loop = asyncio.get_running_loop()
        looked = asyncio.Event()

        def reply() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(looked.set)

        orders.post(LookWanted(reply))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FRESH_TIMEOUT):
                await looked.wait()

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
            undecided = f"not decided within {REPLY_TIMEOUT:g} s, and may come yet: see pgidle status"
            return _error(504, f"{verb}: {undecided}")
        return _json(200 if granted else 409, {"granted": granted, "message": text})


def _parse(verb: str, query: str) -> tuple[bool, float, str]:
    """What a query string asks for: force, seconds, why. Raises ValueError with a line for the asker."""
    known = PARAMETERS[verb]
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known or name in given:
            raise ValueError(f"/{verb}: parameter {name!r} is unknown or given twice")
        given[name] = value
    if (force := given.get("force", "0")) not in ("0", "1"):
        raise ValueError(f"force: {force!r} is not 0 or 1")
    try:
        seconds = float(given.get("seconds", "nan" if verb == "hold" else "0"))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST or (verb == "hold" and not seconds):
        text = given.get("seconds", "")
        raise ValueError(f"seconds: {text!r} is not a number of seconds above 0, up to {LONGEST}")
    return force == "1", seconds, given.get("why", "")

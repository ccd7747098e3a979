"""Journals for tests of what reads them: a script of what happened, with both of its clocks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pgidle.history.events import parse_all

if TYPE_CHECKING:
    from pgidle.history.events import Event

DAY = 86400.0
MIDNIGHT = 20_000 * DAY
"""Unix time: the beginning of a day."""


class Script:
    """`wall` is Unix time, `up` seconds since the run began."""

    def __init__(self, wall: float = MIDNIGHT) -> None:
        self.wall = wall
        self.up = 0.0
        self.run = 0
        self.number = 0
        self.lines: list[bytes] = []

    @property
    def events(self) -> list[Event]:
        return [*parse_all(self.lines)]

    def wait(self, seconds: float) -> Script:
        self.wall += seconds
        self.up += seconds
        return self

    def set_clock(self, by: float) -> Script:
        self.wall += by
        return self

    def lose(self, lines: int = 1) -> Script:
        self.number += lines
        return self

    def note(self, event: str, **fields: Any) -> Script:
        self.number += 1
        head = {"at": round(self.wall, 3), "up": round(self.up, 3), "run": self.run, "n": self.number}
        self.lines.append(json.dumps(head | {"event": event} | fields).encode() + b"\n")
        return self

    def started(self, timeout: float | None = 300.0, min_awake: float = 0.0) -> Script:
        self.run = max(self.run + 1, int(self.wall * 1000))
        self.up, self.number = 0.0, 0
        settings = {"idle-timeout": timeout, "min-awake": min_awake, "when-idle": "stay"}
        return self.note("started", why="pgidle started", version="1", settings=settings)

    def woken(self, cause: str = "client", by: str = "10.0.0.3", took: float = 0.5) -> Script:
        """`took` has passed before that."""
        who = [by] if cause == "client" else []
        waited = took if cause == "client" else None
        fields = {"cause": cause, "by": who, "parked": len(who), "wait": waited, "took": took}
        return self.wait(took).note("woken", why="1 client parked at the gate", **fields)

    def slept(self, idle: float | None = 300.0, **fields: Any) -> Script:
        said = {"why": "idle", "last_use": 'app "web"', "idle": idle, "checkpoint": None, "shutdown": 0.0}
        return self.note("slept", **said | {"cut": [], "cut_count": 0} | fields)

    def exited(self, state: str = "leaving") -> Script:
        return self.note("exited", status=int(state == "failed"), why="so be it", state=state)

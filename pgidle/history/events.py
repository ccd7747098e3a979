"""The journal's events, as they are read: one record for each line. Pure.

A line that is not one (torn by a power loss, or made by something else) is skipped. A kind of event that this version
does not know, as a later one may have written it, is OTHER: so its line does not count as lost. Moments are Unix time,
durations seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pgidle.base.checked import LATEST, MOST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Kind(Enum):
    """What has happened. The values stand in the journal, and are never given another meaning."""

    STARTED = "started"
    """pgidle has started, and Postgres starts."""
    WOKEN = "woken"
    """Postgres accepts clients, after it slept, or after pgidle started, or after a crash."""
    CLIENT = "client"
    """Which client came first after a wake: known from a look, some time later."""
    USE = "use"
    """Postgres was used after it had been idle for a while."""
    SLEPT = "slept"
    """Postgres was put to sleep."""
    CRASHED = "crashed"
    """Postgres has crashed, or was ended by somebody else; it is started again."""
    START_FAILED = "start-failed"
    """Postgres does not start; it is tried again."""
    STOP = "stop"
    """pgidle was asked to stop."""
    EXITED = "exited"
    """pgidle exits."""
    HOLD = "hold"
    RELEASE = "release"
    HOLD_ENDED = "hold-ended"
    SETTINGS = "settings"
    """Settings have changed."""
    FLAPPING = "flapping"
    """A client reconnects as soon as it is cut, so sleep comes later."""
    POLL = "poll"
    """Something asks in a rhythm that keeps Postgres awake."""
    OTHER = "other"
    """Something that a later version knows of."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `up`: seconds since the run began, on a clock that never jumps; `run` names the run, and `number`
    counts its lines."""

    at: float
    up: float
    run: int
    number: int
    kind: Kind
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A field that is a text; empty if it is not there, or no text."""
        return value if isinstance(value := self.fields.get(name), str) else ""

    def seconds(self, name: str) -> float | None:
        """A field that is a duration; None if it is not there, or none."""
        return _seconds(self.fields.get(name))

    def count(self, name: str) -> int:
        """A field that is a count; 0 if it is not there, or none."""
        value = self.fields.get(name)
        return value if type(value) is int and 0 <= value < MOST else 0

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that is a list of texts."""
        value = self.fields.get(name)
        return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()

    def terms(self) -> Terms | None:
        """The settings in force, of STARTED and SETTINGS; None if they are not there."""
        settings = self.fields.get("settings")
        if not isinstance(settings, dict) or "idle-timeout" not in settings:
            return None
        when_idle = settings.get("when-idle")
        return Terms(
            _seconds(settings["idle-timeout"]),
            _seconds(settings.get("min-awake")) or 0.0,
            when_idle if isinstance(when_idle, str) else "",
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings that decide on sleep: `idle_timeout` (None: never), with `extra` on top for a client that reconnects
    as soon as it is cut; `min_awake`; `when_idle` as it is written."""

    idle_timeout: float | None
    min_awake: float
    when_idle: str
    extra: float = 0.0


_decode = json.JSONDecoder().decode
_KINDS = {kind.value: kind for kind in Kind}


def parse(line: bytes | str) -> Event | None:
    """The event in a line; None if there is none."""
    try:
        fields = _decode(line if isinstance(line, str) else line.decode())
        kind = _KINDS.get(fields["event"], Kind.OTHER)
        at, up, run, number = fields["at"], fields["up"], fields["run"], fields["n"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(run) is not int or type(number) is not int or not (0 < run < MOST and 0 < number < MOST):
        return None
    if (at := _seconds(at)) is None or (up := _seconds(up)) is None:
        return None
    return Event(at, up, run, number, kind, fields)


def parse_all(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events in lines."""
    return (event for line in lines if (event := parse(line)) is not None)


def _seconds(value: object) -> float | None:
    if type(value) in (int, float) and 0 <= value <= LATEST:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    return None

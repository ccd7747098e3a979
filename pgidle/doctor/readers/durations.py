"""Durations as the platforms write them, in seconds. None: not a duration that the platform would take."""

from __future__ import annotations

import re

from pgidle.settings.options import format_duration

_GO = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SYSTEMD = {
    **dict.fromkeys(("usec", "us", "µs"), 1e-6),
    **dict.fromkeys(("msec", "ms"), 1e-3),
    **dict.fromkeys(("seconds", "second", "sec", "s", ""), 1.0),
    **dict.fromkeys(("minutes", "minute", "min", "m"), 60.0),
    **dict.fromkeys(("hours", "hour", "hr", "h"), 3600.0),
    **dict.fromkeys(("days", "day", "d"), 86400.0),
}
_PART = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([a-zµ]*)")


def go_duration(text: str) -> float | None:
    """As in fly.toml and Compose: Go's time.ParseDuration ("1m30s"); a bare number is seconds."""
    if text.isdecimal():
        return float(text)
    return _sum(text, _GO)


def systemd_span(text: str) -> float | None:
    """systemd.time(7)'s time span ("1min 30s", "90"). 0 is infinite, too, as it is to systemd's timeouts."""
    if text.strip() == "infinity":
        return float("inf")
    seconds = _sum(text, _SYSTEMD)
    return float("inf") if seconds == 0 else seconds


def _sum(text: str, units: dict[str, float]) -> float | None:
    at, seconds = 0, 0.0
    text = text.strip()
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or part[2] not in units:
            return None
        seconds += float(part[1]) * units[part[2]]
        at = part.end()
    return seconds if text else None


def written(seconds: float) -> str:
    """A duration for people, written so that pgidle's own settings accept it, unless it is infinite."""
    if seconds == float("inf"):
        return "infinite"
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    return format_duration(seconds) if seconds.is_integer() else f"{seconds:.1f}s"

"""Seconds on the command line, where a number needs no unit."""

from __future__ import annotations

from pgidle.base.errors import SettingsError
from pgidle.settings.options import parse_duration

SHORTEST, LONGEST = 0.1, 86400.0
"""Seconds between two questions."""


def read_seconds(option: str, text: str) -> float:
    """The seconds given to an option: 30, 2min. Raises SettingsError."""
    try:
        seconds = parse_duration(f"{text}s" if text[-1:].isdigit() else text)
    except SettingsError as error:
        raise SettingsError(f"{option}: {error.message}", error.hint) from None
    if seconds <= 0:
        raise SettingsError(f"{option}: {text!r} is not a time", "write 30 or 2min")
    return seconds


def read_interval(option: str, text: str) -> float:
    """The seconds between two questions. Raises SettingsError."""
    seconds = read_seconds(option, text)
    if not SHORTEST <= seconds <= LONGEST:
        raise SettingsError(f"{option}: {text!r} is not between {SHORTEST:g}s and {LONGEST / 3600:g}h")
    return seconds

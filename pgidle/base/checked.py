"""Numbers from JSON that somebody else could have written: checked before they are used."""

from __future__ import annotations

LATEST = 253_402_300_799.0
"""Unix time at the end of the year 9999."""

MOST = 2**53
"""More than any count: up to here a float knows every whole number, too."""


def seconds(value: object) -> float:
    """A moment (Unix time) or a duration. Raises ValueError."""
    # Before it becomes a float, as JSON's whole numbers may have any length; and true is no number.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LATEST:
        raise ValueError(f"{value!r:.40} is no moment and no duration")
    return float(value)


def count(value: object) -> int:
    """A count. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST:
        raise ValueError(f"{value!r:.40} is no count")
    return value

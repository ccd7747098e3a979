"""Past sleeps, which outlive the supervisor: why Postgres slept, and what keeps waking it. Times are Unix time."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pgidle.base import checked
from pgidle.idle.flapping import LastSleep, Sleep
from pgidle.system.state_directory import LAST_SLEEP, open_of_another, read_kept

if TYPE_CHECKING:
    from pgidle.system.state_directory import StateDir

KEPT = 12
"""How many sleeps are remembered: more than it takes to double a second up to an hour."""


@dataclass(frozen=True, slots=True)
class History:
    """Oldest first. The last sleep's `woken_at` is 0 while it lasts; `seconds` is how long its shutdown took, None if
    not known."""

    why: str = ""
    sleeps: tuple[Sleep, ...] = ()
    seconds: float | None = None

    def slept(self, why: str, now: float, cut: frozenset[str], seconds: float) -> History:
        return History(why, (*self.sleeps, Sleep(asleep_at=now, woken_at=0.0, cut=cut))[-KEPT:], seconds)

    def woke(self, now: float) -> History:
        """Record that the last sleep has ended, unless its end is known already."""
        if not self.sleeps or self.sleeps[-1].woken_at:
            return self
        return replace(self, sleeps=(*self.sleeps[:-1], replace(self.sleeps[-1], woken_at=now)))

    def woken_by(self, who: str) -> History:
        """Record which client came first after the last sleep, unless that is known already."""
        if not self.sleeps or self.sleeps[-1].woken_by is not None:
            return self
        return replace(self, sleeps=(*self.sleeps[:-1], replace(self.sleeps[-1], woken_by=who)))

    @property
    def last(self) -> LastSleep | None:
        """The last sleep that began, if any did."""
        return LastSleep(self.why, self.sleeps[-1].asleep_at, self.seconds) if self.sleeps else None


def load(state_dir: StateDir) -> History:
    """The history on disk; empty if its file cannot be read."""
    try:
        kept: dict[str, Any] = json.loads(state_dir.find(LAST_SLEEP) or "{}")
        sleeps = tuple(
            Sleep(
                checked.seconds(one["asleep_at"]),
                checked.seconds(one["woken_at"]),
                frozenset(map(str, one["cut"])),
                _client(one["woken_by"]),
            )
            for one in kept.get("sleeps", ())
        )
        return History(str(kept.get("why", "")), sleeps, _seconds(kept))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return History()


def save(state_dir: StateDir, history: History) -> None:
    """Write it for the next supervisor, and for `pgidle status` while none runs. Raises OSError."""
    sleeps = [
        {
            "asleep_at": one.asleep_at,
            "woken_at": one.woken_at,
            "cut": sorted(one.cut),
            "woken_by": one.woken_by,
        }
        for one in history.sleeps
    ]
    at = history.sleeps[-1].asleep_at if history.sleeps else 0.0
    kept = {"why": history.why, "at": at, "seconds": history.seconds, "sleeps": sleeps}
    state_dir.keep(LAST_SLEEP, json.dumps(kept, indent=1) + "\n")


def remember(state_dir: StateDir, why: str, now: float, seconds: float) -> None:
    """Record a sleep that began `now`, without knowing which clients it cut."""
    try:
        save(state_dir, load(state_dir).slept(why, now, frozenset(), seconds))
    except OSError:
        return  # The log has the sleep.


def last_sleep(state_dir: str) -> LastSleep | None:
    """The last sleep on record, for other processes than the supervisor; None if there is none that can be read."""
    try:
        folder = open_of_another(state_dir)
        try:
            kept: dict[str, Any] = json.loads(read_kept(folder, LAST_SLEEP))
        finally:
            os.close(folder)
        return LastSleep(str(kept["why"]), checked.seconds(kept["at"]), _seconds(kept))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _seconds(kept: dict[str, Any]) -> float | None:
    """None in files written before shutdowns were measured."""
    return None if kept.get("seconds") is None else checked.seconds(kept["seconds"])


def _client(value: Any) -> str | None:
    """Raises ValueError."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not a client")
    return value

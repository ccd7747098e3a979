"""How often, and after which pauses, a Postgres that crashes or does not start is started again."""

from __future__ import annotations

from pgidle.base.record import record

WINDOW = 60.0
"""Seconds in which crashes are counted."""

MOST_CRASHES = 5
"""So many crashes in the window are one too many, where something else starts pgidle again."""

MOST_FAILED_STARTS = 3
"""So many starts in a row that never got ready are too many there."""

QUICK = 3.0
"""Seconds for which a crash lengthens the pause after another: Postgres served in between, and may well do so again."""

DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next start, after so many crashes that count, or failed starts in a row."""


@record
class Restarts:
    """The crashes that still count: monotonic times, and how many starts in a row never got ready."""

    crashes: tuple[float, ...] = ()
    failed_starts: int = 0

    def crashed(self, now: float, was_ready: bool) -> Restarts:
        recent = tuple(at for at in self.crashes if now - at < WINDOW)
        return Restarts((*recent, now), 0 if was_ready else self.failed_starts + 1)

    def started(self) -> Restarts:
        """Postgres has become ready."""
        return Restarts(self.crashes)

    @property
    def exhausted(self) -> bool:
        return len(self.crashes) >= MOST_CRASHES or self.failed_starts >= MOST_FAILED_STARTS

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start."""
        quick = sum(self.crashes[-1] - at < QUICK for at in self.crashes)
        return DELAYS[min(max(quick, self.failed_starts), len(DELAYS)) - 1] if self.crashes else 0.0


@record
class FailedStart:
    """Of starts in a row that have failed: why the last did, how many they are, since when, and when the next is due
    (monotonic). Replaced as a whole."""

    why: str
    count: int
    since: float
    next_at: float

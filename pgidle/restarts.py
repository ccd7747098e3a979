"""How often a Postgres that crashes is started again."""

from __future__ import annotations

from pgidle.record import record

WINDOW = 60.0
"""Seconds in which crashes are counted."""

MOST_CRASHES = 5
"""So many crashes in the window are one too many."""

MOST_FAILED_STARTS = 3
"""So many starts in a row that never got ready: trying again will not help."""

DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the first, second, ... restart in the window."""


@record
class Restarts:
    """The crashes that still count: monotonic times, and how many starts in a row never got ready."""

    crashes: tuple[float, ...] = ()
    failed_starts: int = 0

    def crashed(self, now: float, was_ready: bool) -> Restarts:
        recent = tuple(at for at in self.crashes if now - at < WINDOW)
        return Restarts((*recent, now), 0 if was_ready else self.failed_starts + 1)

    @property
    def exhausted(self) -> bool:
        return len(self.crashes) >= MOST_CRASHES or self.failed_starts >= MOST_FAILED_STARTS

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start."""
        return DELAYS[min(len(self.crashes), len(DELAYS)) - 1] if self.crashes else 0.0

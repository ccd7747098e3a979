"""How often a Postgres that crashes or fails to start is started again, and after what pauses."""

from __future__ import annotations

from pgidle.base.record import record

WINDOW = 60.0
"""Seconds in which crashes are counted."""

MOST_CRASHES = 5
"""Crashes within WINDOW after which pgidle gives up, where a platform starts it again."""

MOST_FAILED_STARTS = 3
"""Failed starts in a row after which pgidle gives up there."""

QUICK = 3.0
"""Seconds within which one crash lengthens the pause after the next. If more have passed, Postgres has served in
between, and may well do so again."""

DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next start, by the number of crashes within QUICK, or of failed starts in a row."""


@record
class Restarts:
    """The crashes that still count (monotonic times), and how many starts in a row never became ready."""

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
    """Failed starts in a row: why the last one failed, how many there were, since when, and when the next is due
    (monotonic). Replaced as a whole."""

    why: str
    count: int
    since: float
    next_at: float

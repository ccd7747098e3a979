"""What past sleeps tell of the next one: who comes back as soon as it is cut, and how much longer to wait for that."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgidle.history.sleeps import load, save
from pgidle.idle.flapping import SOON, Backoff, applications, flapping, ignored_waker, waker

if TYPE_CHECKING:
    from pgidle.idle.flapping import LastSleep
    from pgidle.idle.snapshot import Snapshot
    from pgidle.settings.settings import Settings
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir


class PastSleeps:
    """Kept in the state directory, so that they outlive the observer and the supervisor."""

    def __init__(self, settings: Settings, state_dir: StateDir, log: Log) -> None:
        self.backoff = Backoff()
        self._settings = settings
        self._state_dir = state_dir
        self._log = log
        self._history = load(state_dir)
        self._connected: frozenset[str] = frozenset()

    @property
    def last(self) -> LastSleep | None:
        """The last sleep that began, if any did."""
        return self._history.last

    def adopt(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        self._settings = settings
        self._weigh()

    def ended(self) -> None:
        """Postgres is awake again."""
        self._history = self._history.woke(time.time())
        self._weigh()

    def seen(self, look: Snapshot, awake_for: float) -> None:
        """A look at Postgres, which has been awake for so many seconds."""
        self._connected = applications(look, self._settings)
        if awake_for >= SOON:
            return
        # Whoever is seen first, and soon enough, has woken Postgres.
        if (who := waker(look, self._settings)) is not None:
            before, self._history = self._history, self._history.woken_by(who)
            if self._history is not before:
                self._weigh()
        # A client that is ignored and yet wakes Postgres makes sleeping pointless, without being in its way.
        if (ignored := ignored_waker(look, self._settings)) is not None:
            self._log.once(
                "ignore",
                f"{ignored} is ignored, yet was the first to come: whoever is at the gate wakes Postgres, less no-wake",
            )

    def record(self, why: str, seconds: float) -> None:
        """Postgres sleeps: remember why, which sessions that cut, and how many seconds the shutdown took."""
        self._history = self._history.slept(why, time.time(), self._connected, seconds)
        try:
            save(self._state_dir, self._history)
        except OSError as error:
            self._log.once("history", f"this sleep is not remembered: {error}")

    def _weigh(self) -> None:
        backoff = flapping(self._history.sleeps, self._settings.idle_timeout)
        if backoff.extra and backoff != self.backoff:
            self._log.note(
                "flapping",
                f"{backoff.culprit} comes back as soon as it is cut: waiting {backoff.extra:g} s longer",
            )
        self.backoff = backoff

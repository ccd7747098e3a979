"""What past sleeps mean for the next: which client reconnects as soon as it is cut, and how much longer to wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgidle.history.sleeps import load, save
from pgidle.idle.flapping import SOON, Backoff, applications, flapping, ignored_waker, waker

if TYPE_CHECKING:
    from pgidle.idle.flapping import LastSleep
    from pgidle.idle.snapshot import Snapshot
    from pgidle.observer.journal_notes import JournalNotes
    from pgidle.settings.resolve import Settings
    from pgidle.system.log import Log
    from pgidle.system.state_directory import StateDir


class PastSleeps:
    """Kept in the state directory, so that they outlive the observer and the supervisor."""

    def __init__(self, settings: Settings, state_dir: StateDir, log: Log, notes: JournalNotes) -> None:
        self.backoff = Backoff()
        self._settings = settings
        self._state_dir = state_dir
        self._log = log
        self._notes = notes
        self._history = load(state_dir)
        self._connected: frozenset[str] = frozenset()

    @property
    def last(self) -> LastSleep | None:
        """The last sleep that began, if any did."""
        return self._history.last

    @property
    def woken_by(self) -> str | None:
        """Which client came first after the last sleep, if a look has seen one."""
        return self._history.sleeps[-1].woken_by if self._history.sleeps else None

    def adopt(self, settings: Settings) -> None:
        """Use these settings from now on."""
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
        # The first client seen, if soon enough, is the one that woke Postgres.
        if (who := waker(look, self._settings)) is not None:
            before, self._history = self._history, self._history.woken_by(who)
            if self._history is not before:
                self._weigh()
        # An ignored client does not delay sleep, but if it wakes Postgres it makes sleeping pointless.
        if (ignored := ignored_waker(look, self._settings)) is not None:
            self._log.once(
                "ignore",
                f"{ignored} is ignored, but woke Postgres: every client at the gate does, unless no-wake matches it",
            )

    def record(self, why: str, seconds: float) -> None:
        """Record a sleep: why Postgres sleeps, which clients that cut, and how many seconds the shutdown took."""
        self._history = self._history.slept(why, time.time(), self._connected, seconds)
        try:
            save(self._state_dir, self._history)
        except OSError as error:
            self._log.once("history", f"cannot record this sleep: {error}")

    def _weigh(self) -> None:
        backoff = flapping(self._history.sleeps, self._settings.idle_timeout)
        if backoff.extra and backoff != self.backoff:
            self._log.note(
                "flapping",
                f"{backoff.culprit} reconnects as soon as it is cut: idle-timeout extended by {backoff.extra:g} s",
            )
            self._notes.note("flapping", client=backoff.culprit, extra=backoff.extra)
        self.backoff = backoff

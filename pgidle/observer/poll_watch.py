"""Polls that keep Postgres awake: found by `idle.polls`, logged and noted once for as long as they last."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgidle.idle.polls import Polls

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgidle.idle.polls import Findings
    from pgidle.idle.reasons import Verdict
    from pgidle.idle.snapshot import Key, Snapshot
    from pgidle.observer.journal_notes import JournalNotes
    from pgidle.settings.resolve import Settings
    from pgidle.system.log import Log


class PollWatch:
    """Belongs to the judge. Times are monotonic seconds."""

    def __init__(self, log: Log, notes: JournalNotes) -> None:
        self._log = log
        self._notes = notes
        self.begin()

    def begin(self) -> None:
        """Postgres has become ready."""
        self._polls = Polls(time.monotonic())
        self._told: frozenset[tuple[str, str]] = frozenset()

    @property
    def findings(self) -> Findings:
        """The statements that come in a rhythm, as far as they are sure."""
        return self._polls.findings(time.monotonic())

    def next_look(self, now: float, due: float) -> float:
        """Seconds to the next look, given when it would be due anyway."""
        return self._polls.next_look(now, due)

    def doubt(self, now: float) -> None:
        """A look has failed."""
        self._polls.doubt(now)

    def see(
        self, look: Snapshot, verdict: Verdict, settings: Settings, passed_over: Collection[Key], now: float
    ) -> None:
        """Log and note the polls without which Postgres would have slept. `passed_over`: sessions whose use, since the
        look before, does not count."""
        self._polls.see(look, verdict.reasons, settings, passed_over)
        found = self._polls.findings(now)
        self._told &= {poll.label for poll in found.polls}
        if not found.consequence:
            return
        news = [poll for poll in found.polls if poll.label not in self._told]
        if news:
            self._told |= {poll.label for poll in found.polls}
            self._log.note(
                "poll", f"{', '.join(poll.full_text for poll in found.polls)}; {found.consequence}"
            )
        for poll in news:
            self._notes.note(
                "poll",
                client=poll.client,
                statement=poll.statement,
                every=round(poll.every, 3),
                since=round(time.time() - (now - poll.since), 3),
            )

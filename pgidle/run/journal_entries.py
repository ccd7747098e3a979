"""What the supervisor puts into the journal: an entry for each event that changes something, with who caused it.

Nothing here may delay a client: who waits is looked up while Postgres starts, and entries are written once it serves.
"""

from __future__ import annotations

import os
import time

from pgidle.base.version import VERSION
from pgidle.history.journal import Journal
from pgidle.lifecycle.transitions import Event, State
from pgidle.system.proc_files import process_start
from pgidle.system.users import local_user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.base.json_text import Value
    from pgidle.gate.listeners import Waiting
    from pgidle.history.journal import RunClock
    from pgidle.lifecycle.transitions import Moment
    from pgidle.run.runtime import Runtime
    from pgidle.settings.resolve import Settings

WRITE_AFTER = 0.3
"""Seconds after an event until it is written."""

LOOK_UP_EVERY, LOOK_UP_FOR = 0.02, 5.0
"""Seconds between two looks for clients that wait, until there is one; and for how long."""

MOST_NAMED = 8
"""Clients that are named of those that wait for the same wake."""

SAME, MERGED_FOR = 0.25, 600.0
"""Uses are merged into one entry if each idle time before them is as long as the average so far, but for this part; and
for at most so many seconds."""


class JournalEntries:
    """`moment` and `settings` are the supervisor's. `written` is called when there are new lines in the file."""

    def __init__(
        self, runtime: Runtime, moment: Moment, settings: Settings, written: Callable[[], None]
    ) -> None:
        self._journal = Journal(runtime.state_dir, runtime.log)
        self._gate = runtime.gate
        self._loop = runtime.loop
        self._moment = moment
        self._written = written
        self._cause, self._why, self._since = "start", moment.why, process_start()
        self._by: tuple[str, ...] = ()
        self._parked = 0
        self._failing = ""
        self._last_look = ""
        self._use: _MergedUse | None = None
        self._note(
            "started",
            {"why": moment.why, "pid": os.getpid(), "version": VERSION, "settings": _relevant(settings)},
        )
        self._look_up()

    @property
    def clock(self) -> RunClock:
        """The clock that the journal's moments are measured with."""
        return self._journal.clock

    @property
    def last(self) -> tuple[int, int]:
        """The run, and the number of the journal's last line."""
        return self._journal.last

    def asked_by(self, peer: str) -> None:
        """Somebody asks for a wake at the control socket. A start under way has its cause already."""
        if self._moment.state is not State.STARTING:
            self._by = (peer,)

    def entered(self, event: Event, before: Moment, after: Moment) -> None:
        """The state has changed with an event."""
        self._moment = after
        match before.state, after.state:
            case State.ASLEEP | State.LEAVING, State.STARTING:
                self._on_waking(event, after)
            case State.STARTING, State.AWAKE:
                self._on_awake(after)
            case State.STOPPING, State.ASLEEP:
                shutdown = after.since - before.since
                self._note("slept", {"why": before.why, "shutdown": round(shutdown, 3)}, self._last_look)
            case _, State.TERMINATING:
                self._note("stop", {"why": after.why})
        if after.state is not State.STARTING:
            self._loop.cancel("who")

    def gone(self, why: str, failed_starts: int) -> None:
        """Postgres has ended although it should not have: a crash or, with `failed_starts` in a row, a failed start,
        which is noted when it failed in another way than the one before."""
        if not failed_starts:
            self._cause, self._why, self._since, self._by, self._parked = (
                "crash",
                why,
                time.monotonic(),
                (),
                0,
            )
            self._note("crashed", {"why": why})
        elif why != self._failing:
            self._failing = why
            self._note("start-failed", {"why": why, "count": failed_starts})

    def used(self, idle: float, by: str) -> None:
        """Postgres was used, after so many seconds in which it was not."""
        if self._use is None or not self._use.takes(idle, by):
            self._end_use()
            self._use = _MergedUse(by)
            self._loop.after(MERGED_FOR, "use", self._end_use)
        self._use.add(idle)

    def last_look(self, fields: str) -> None:
        """What the observer knows of a sleep that may follow, as JSON."""
        self._last_look = fields

    def changed(self, changes: dict[str, tuple[str, str]], settings: Settings) -> None:
        """Settings have changed: names, and the values before and after."""
        if changes:
            self._note("settings", {"changed": changes, "settings": _relevant(settings)})

    def observed(self, event: str, fields: str) -> None:
        """An entry of the observer's, whose fields are JSON."""
        self._note(event, {}, fields)

    def reduced(self) -> None:
        """The older lines are in the day totals now."""
        self._journal.rotate()

    def exited(self, status: int) -> None:
        """The supervisor exits with this status. Everything is written now."""
        self._note("exited", {"status": status, "why": self._moment.why, "state": self._moment.state.noun})
        self.write()

    def write(self) -> None:
        """Write what has been noted."""
        if self._journal.write():
            self._written()

    def _note(self, event: str, fields: dict[str, Value], more: str = "") -> None:
        self._end_use()
        self._journal.note(event, fields, more)
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._loop.is_set("journal"):
            self._loop.after(WRITE_AFTER, "journal", self._write)

    def _write(self) -> None:
        """Write, unless clients wait, or could at any moment: the disk may be slow."""
        is_waking = self._moment.state is State.STARTING and not self._failing
        if is_waking or self._moment.state in (State.DROWSY, State.STOPPING):
            self._write_soon()
        else:
            self.write()

    def _on_waking(self, event: Event, after: Moment) -> None:
        self._why, self._since, self._parked = after.why, after.since, 0
        if event is Event.CLIENT_PARKED:
            self._cause, self._by = "client", ()
            self._look_up()
        else:
            self._cause = "hold" if after.why.startswith("hold ") else "order"

    def _look_up(self) -> None:
        """Find out who waits, once somebody does."""
        self._loop.after(LOOK_UP_EVERY, "who", self._on_time_to_look_up)

    def _on_time_to_look_up(self) -> None:
        try:
            parked = self._gate.parked()
            waiting = self._gate.who(MOST_NAMED) if parked else []
        except OSError:
            return  # The kernel does not tell.
        if not waiting:
            if time.monotonic() - self._moment.since < LOOK_UP_FOR:
                self._look_up()
            return
        self._parked = max(parked, len(waiting))
        self._by = tuple({_name(one): None for one in waiting})[:MOST_NAMED]
        if self._cause == "start":
            self._cause = "client"

    def _on_awake(self, after: Moment) -> None:
        took = round(max(0.0, after.since - self._since), 3)
        fields: dict[str, Value] = {
            "why": self._why,
            "cause": self._cause,
            "by": self._by,
            "parked": self._parked,
            "wait": took if self._parked else None,
            "took": took,
        }
        self._failing, self._last_look, self._by = "", "", ()
        self._note("woken", fields)

    def _end_use(self) -> None:
        if self._use is not None:
            fields, self._use = self._use.fields(), None
            self._journal.note("use", fields)
            self._write_soon()


class _MergedUse:
    """Uses that are alike: by the same client, after idle times of about the same length."""

    def __init__(self, by: str) -> None:
        self._by = by
        self._since = time.monotonic()
        self._count = 0
        self._idle = 0.0

    def takes(self, idle: float, by: str) -> bool:
        """Whether one more is like them."""
        average = self._idle / max(1, self._count)
        is_recent = time.monotonic() - self._since < MERGED_FOR
        return by == self._by and is_recent and abs(idle - average) <= SAME * average

    def add(self, idle: float) -> None:
        self._count += 1
        self._idle += idle

    def fields(self) -> dict[str, Value]:
        return {"idle": round(self._idle / self._count, 3), "count": self._count, "by": self._by}


def _relevant(settings: Settings) -> dict[str, Value]:
    """The settings that decide on sleep, in seconds."""
    return {
        "idle-timeout": settings.idle_timeout,
        "min-awake": settings.min_awake,
        "when-idle": settings.when_idle.value,
    }


def _name(one: Waiting) -> str:
    if one.port:
        return one.address
    return "Unix socket" if one.uid is None else f"user {local_user_name(one.uid)}, Unix socket"

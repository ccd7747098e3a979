"""What the supervisor asks its observer to do, and what it makes of the answers: doubt means busy."""

from __future__ import annotations

import time

from pgidle.base.version import VERSION
from pgidle.gate.gatekeeper import parked_text
from pgidle.lifecycle.transitions import Event, State
from pgidle.observer import messages as say
from pgidle.observer.messages import Judgement
from pgidle.observer.supervisor_side import Observer
from pgidle.settings.options import WhenIdle
from pgidle.system import control_socket
from pgidle.system.proc_files import is_quiet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.base.builtin_modules import socket
    from pgidle.lifecycle.transitions import Moment
    from pgidle.observer.messages import Situation, ToSupervisor
    from pgidle.observer.socket_pair import PairEnd
    from pgidle.run.journal_entries import JournalEntries
    from pgidle.run.live_settings import LiveSettings
    from pgidle.run.postgres_server import Server
    from pgidle.run.runtime import Runtime

EXIT_PATIENCE = 0.5
"""Seconds that the observer gets to exit, so that requests for the status under way are answered."""

CONFIRM_LIMIT = 10.0
"""Seconds for the last look, including the time that a forced sleep waits for clients to finish logging in."""

FRESH = 1.0
"""Seconds: an older judgement does not count, as either process may have been suspended since."""

LINGER = 60.0
"""Seconds for which the observer stays after a request while Postgres sleeps."""

ATTEND_AFTER = 0.15
"""Seconds after a wake that are left to Postgres and its clients before an observer is started."""

QUIET_POLL, QUIET_PATIENCE, QUIET_PART = 0.5, 10.0, 0.1
"""Where many other processes wait for a processor, perhaps other databases that wake: seconds between two looks whether
that is over; and most seconds for which an observer is put off, which is at most this part of the idle timeout."""

WAKING = (b"POST /wake", b"POST /hold")
"""How requests begin that need Postgres to be awake."""


class ObserverDialogue:
    """Belongs to the supervisor, which alone knows the state: `moment` and `situation` (given the number of the latest
    question) return it, and `happen` is called with the events that follow from the observer's judgements."""

    def __init__(
        self,
        runtime: Runtime,
        settings: LiveSettings,
        server: Server,
        entries: JournalEntries,
        moment: Callable[[], Moment],
        situation: Callable[[int], Situation],
        happen: Callable[[Event, str], None],
    ) -> None:
        self.wakes = 0
        """How many postmasters have been watched."""
        self._runtime = runtime
        self._settings = settings
        self._server = server
        self._entries = entries
        self._gate = runtime.gate
        self._loop = runtime.loop
        self._log = runtime.log
        self._moment = moment
        self._situation = situation
        self._happen = happen
        self._observer = Observer(runtime.loop, runtime.log, self._serve, self._on_said, self._on_lost)
        self._attended: int | None = None
        self._served_since = 0.0
        self._period = 0
        self._heard = 0
        """The number of the observer's latest question."""
        self._holds: str | None = None
        self._looks = (0, 0)

    @property
    def pid(self) -> int | None:
        """The observer's pid, if there is one."""
        return self._observer.pid

    @property
    def is_ready(self) -> bool:
        """Whether there is an observer that reads its messages."""
        return self._observer.is_ready

    def tell(self, message: say.ToObserver) -> bool:
        """Send the observer a message; False if there is none that reads it."""
        return self._observer.tell(message)

    def tell_situation(self) -> None:
        if self._observer.is_ready:
            self._observer.tell(self._situation(self._heard))

    def attend(self) -> None:
        """Have Postgres watched, from now on or again."""
        if self._state is not State.AWAKE or self._server.pid is None:
            return
        self._loop.cancel("attend")
        if self._attended != self._server.pid:
            self._attended = self._server.pid
            self.wakes += 1
        if not self._observer.is_ready:
            self._observer.want()
            return
        self._period += 1
        self._observer.tell(say.Attend(self._period, self._server.pid))

    def attend_soon(self) -> None:
        """Postgres has just begun to serve. Everything else that a wake needs comes after that: on one core, clients
        would wait for it."""
        self._served_since = time.monotonic()
        if self._observer.is_ready:
            self._loop.after(0.0, "attend", self.attend)
        else:
            self._loop.after(ATTEND_AFTER, "attend", self._attend_when_quiet)

    def _attend_when_quiet(self) -> None:
        timeout = self._settings.current.idle_timeout
        patience = QUIET_PATIENCE if timeout is None else min(QUIET_PATIENCE, QUIET_PART * timeout)
        left = self._served_since + ATTEND_AFTER + patience - time.monotonic()
        if left <= 0 or self._observer.is_ready or is_quiet():
            self.attend()
        else:
            self._loop.after(min(left, QUIET_POLL), "attend", self._attend_when_quiet)

    def confirm_idle(self) -> None:
        """Ask for the last look, now that the gate is shut."""
        self._period += 1
        self._loop.after(CONFIRM_LIMIT, "confirm", self._on_unconfirmed)
        if not self._observer.tell(say.Confirm(self._period)):
            self._happen(Event.ACTIVITY_SEEN, "no observer to take the last look")

    def record_sleep(self, why: str, seconds: float) -> None:
        """Have the sleep recorded: why Postgres sleeps, and how many seconds its shutdown took."""
        if not self._observer.tell(say.Slept(why, seconds)):
            from pgidle.history.sleeps import remember

            remember(self._runtime.state_dir, why, time.time(), seconds)

    def on_question(self, connected: socket.socket, data: bytes) -> None:
        """An HTTP request for more than a health check has arrived."""
        self._observer.hand_over(say.Connection(False, data), connected)
        self.part_later()

    def on_order(self, connected: socket.socket, data: bytes) -> None:
        """A request has arrived at the control socket."""
        peer = control_socket.peer_text(connected)
        if self._state is not State.AWAKE and data.startswith(WAKING):
            # Counts like a client, at once: by the time the observer has read it, the supervisor might have exited.
            self._entries.asked_by(peer)
            asked = "hold taken" if data.startswith(WAKING[1]) else "asked to wake"
            self._happen(Event.WAKE_REQUESTED, f"{asked} by {peer}")
        self._observer.hand_over(say.Connection(True, data, peer), connected)
        self.part_later()

    def part_later(self) -> None:
        """Let the observer go while Postgres sleeps, unless it gets requests now and then."""
        if self._state is State.ASLEEP and self._settings.current.when_idle is not WhenIdle.EXIT:
            left = self._observer.asked_at + LINGER - time.monotonic()
            self._loop.after(max(left, 0.0), "part", self._part)

    def receive(self) -> None:
        """Handle all messages that the observer has sent by now."""
        self._observer.receive()

    def leave(self, status: int) -> None:
        """End the observer, as the supervisor exits with this status."""
        self._observer.leave(status, EXIT_PATIENCE)

    @property
    def _state(self) -> State:
        return self._moment().state

    def _serve(self, end: PairEnd, is_urgent: bool) -> None:
        """What the fork runs as the observer."""
        from pgidle.observer.process import ObserverStart, serve

        begun = ObserverStart(
            self._runtime,
            self._settings.current,
            self._runtime.supervisor_pid,
            self._situation(self._heard),
            self._holds,
            *self._looks,
            self._server.files_read,
            self._settings.signature,
            self._entries.clock,
            VERSION,
        )
        serve(begun, end, is_urgent=is_urgent)

    def _on_said(self, message: ToSupervisor) -> None:
        match message:
            case say.Ready():
                self.tell_situation()
                if self._state is State.AWAKE:
                    self.attend()
            case say.Judged():
                self._on_judged(message)
            case say.WakeWanted(number, why):
                self._heard = number
                self._happen(Event.WAKE_REQUESTED, why)
            case say.SituationWanted(number):
                self._heard = number
                self.tell_situation()
            case say.FilesChanged(_, True):
                self._settings.read()
            case say.FilesChanged(names, False):
                self._log.note("reload", f"{', '.join(names)} changed: reloading Postgres")
                self._server.reload()
            case say.HoldsChanged(content):
                self._holds = content
            case say.Looks(taken, failed):
                self._looks = (taken, failed)
            case _:
                self._on_entry(message)

    def _on_entry(self, message: ToSupervisor) -> None:
        """Something for the journal."""
        match message:
            case say.Noted(event, fields):
                self._entries.observed(event, fields)
            case say.Used(idle, by):
                self._entries.used(idle, by)
            case say.LastLook(fields):
                self._entries.last_look(fields)
            case say.JournalReduced():
                self._entries.reduced()

    def _on_judged(self, judged: say.Judged) -> None:
        """A judgement of an earlier period does not count."""
        if judged.period != self._period:
            return
        match self._state, judged.judgement:
            case State.AWAKE, Judgement.IDLE if _is_fresh(judged):
                self._happen(Event.IDLE_JUDGED, judged.why)
            case State.AWAKE, _:
                self.attend()  # So that it goes on looking.
            case State.DROWSY, Judgement.CONFIRMED:
                self._on_confirmed(judged)
            case State.DROWSY, Judgement.USED:
                self._happen(Event.ACTIVITY_SEEN, judged.why)

    def _on_confirmed(self, judged: say.Judged) -> None:
        """Nobody uses Postgres, but a client may have arrived meanwhile."""
        if parked := self._gate.parked():
            self._happen(Event.CLIENT_PARKED, parked_text(parked))
        elif _is_fresh(judged):
            self._happen(Event.IDLE_CONFIRMED, judged.why)
        else:
            self._happen(Event.ACTIVITY_SEEN, "the last look is too old to count")

    def _on_unconfirmed(self) -> None:
        self._happen(Event.ACTIVITY_SEEN, f"no last look within {CONFIRM_LIMIT:g} s")
        self._observer.give_up("did not take the last look in time")

    def _on_lost(self, why: str) -> None:
        """Without an observer no session can be seen, so none may be cut."""
        self._heard = 0
        if self._state is State.DROWSY:
            self._happen(Event.ACTIVITY_SEEN, f"observer lost: {why}")
        elif self._state is State.AWAKE:
            self._observer.want()

    def _part(self) -> None:
        if self._state is not State.ASLEEP:
            return
        if self._observer.asked_at + LINGER > time.monotonic():
            self.part_later()
        else:
            self._observer.end()


def _is_fresh(judged: say.Judged) -> bool:
    return time.monotonic() - judged.at < FRESH

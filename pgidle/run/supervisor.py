"""The supervisor: the only place that knows the state, and the only one that changes it.

Everything that happens arrives here, in one thread: signals, the end of a child, a client who parks, a health check,
and what the observer says. What it means is `lifecycle.advance`'s to say; `_EFFECTS` names the methods that carry it
out. Looking, orders, other HTTP and watching files are the observer's, a process of its own that is started once
clients are being served, and ends while Postgres sleeps.
"""

from __future__ import annotations

import os
import time
from collections import deque

from pgidle.base.builtin_modules import signal
from pgidle.base.errors import FAULTS, fault_text
from pgidle.base.record import record
from pgidle.control.probes import HttpListener
from pgidle.gate.gatekeeper import Gatekeeper, parked_text
from pgidle.lifecycle.restarts import FailedStart, Restarts
from pgidle.lifecycle.transitions import Effect, Event, State, advance
from pgidle.observer import messages as say
from pgidle.observer.handle import Observer
from pgidle.observer.messages import Judgement, Situation
from pgidle.run.sd_notify import Notifier
from pgidle.run.server import Server
from pgidle.settings.options import WhenIdle
from pgidle.system.file_signature import signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.base.builtin_modules import socket
    from pgidle.observer.messages import ToSupervisor
    from pgidle.observer.pair import PairEnd
    from pgidle.postgres.postmaster import Postmaster
    from pgidle.run.runtime import House, SettingsRead
    from pgidle.system.file_signature import Signature

SERVING = (State.AWAKE, State.DROWSY)

ATTEND_AFTER = 0.15
"""Seconds that a wake leaves to Postgres and its clients before an observer is started."""

EXIT_PATIENCE = 0.5
"""Seconds that the observer gets to end: who asks for the status at this moment is answered."""

CONFIRM_LIMIT = 10.0
"""Seconds for the last look, and for those on whom a forced sleep waits meanwhile."""

FRESH = 1.0
"""Seconds: an older judgement is none. The observer may have been stopped since, or we."""

LINGER = 60.0
"""Seconds for which the observer stays, while Postgres sleeps, after somebody has asked it."""

WAKING = (b"POST /wake", b"POST /hold")
"""How orders begin that Postgres has to be awake for."""

SETTINGS_POLL = 10.0
"""Seconds between two looks at the settings file: nobody else watches it while Postgres sleeps."""

STOP_DRAIN, STOP_DRAIN_POLL = 0.5, 0.002
"""Of the stop timeout, the part that Postgres gets at most to serve whoever has come before it is told to stop; and
seconds between two looks at that."""

SHUTDOWN_PATIENCE, SHUTDOWN_POLL = 60.0, 0.1
"""Seconds that clients wait at most, rather than have unlogged tables emptied; and between two looks at that."""

IMMEDIATE_PATIENCE = 1.0
"""Seconds that an immediate shutdown gets before what is left is killed."""


@record
class Moment:
    """The state, since when (monotonic), and why. Replaced as a whole."""

    state: State
    since: float
    why: str


class Supervisor:
    """Owner of the state. `run` returns the exit status."""

    def __init__(self, house: House, early: Postmaster | None) -> None:
        """`early` was spawned already."""
        self.house = house
        self.settings = house.settings
        self.moment = Moment(State.STARTING, time.monotonic(), "pgidle was started")
        self.started = self.moment.since
        self.restarts = Restarts()
        self.failed_start: FailedStart | None = None
        self.wakes = 0
        self.sleeps = 0
        self.crashes = 0
        self._gate = house.gate
        self._loop = house.loop
        self._gatekeeper = Gatekeeper(house.gate, house.loop, house.log, self._happen, house.settings.no_wake)
        self._log = house.log
        self._notifier = Notifier(house.manager, house.loop, house.log)
        self._events: deque[tuple[Event, str]] = deque()
        self._observer = Observer(house.loop, house.log, self._serve, self._on_said, self._on_observer_lost)
        self._http: list[HttpListener] = []
        self._control: HttpListener | None = None
        self._exit_status: int | None = None
        self._attended: int | None = None
        self._period = 0
        self._heard = 0
        """The number of what the observer has asked last."""
        self._holds: str | None = None
        self._looks = (0, 0)
        self._settings_signature = self._seen_signature = self._signature()
        self._delay = 0.0
        self._stop_since = 0.0
        self._is_wanted = False
        """Somebody asked for a wake while Postgres was going to sleep."""
        self._slept_because, self._sleep_since = "", 0.0
        self.server = Server(house, early, self._gatekeeper, self._happen)

    @property
    def state(self) -> State:
        return self.moment.state

    def run(self) -> int:
        """Live until there is nothing left to do; the exit status."""
        try:
            status = self._live()
        except Exception as error:  # noqa: BLE001 - a mistake of ours, say: Postgres ends in good order all the same
            status = 1
            self._enter(State.FAILED, f"cannot go on: {fault_text(error)} ({_place(error)})")
            self.server.end()
        if status:
            self.house.state_dir.keep_failure(self.moment.why)
        try:
            self._leave(status)
        except FAULTS as error:
            # What was to be kept is kept, and Postgres has ended.
            self._log.note("exit", f"something is left behind: {fault_text(error)}")
        self._log.note("exit", f"status {status}: {self.moment.why}")
        return status

    def _live(self) -> int:
        self._loop.on_fault(self._on_fault)
        self._loop.on_signal(self._on_signal)
        for listener in self.house.doors.tcp:
            self._http.append(HttpListener(listener, self._loop, self._asked, self._on_asked))
        self._control = HttpListener(
            self.house.doors.control, self._loop, self._asked, self._on_order, (0, os.geteuid())
        )
        if self.house.files.settings_file:
            self._loop.after(SETTINGS_POLL, "settings", self._look_at_settings)
        self._log.line(State.STARTING, self.moment.why, gate=self._gate.mode.value)
        self._notifier.entered(State.STARTING, self.moment.why, self.settings.stop_timeout)
        self._do(Effect.START_POSTMASTER)
        while self._exit_status is None:
            self._carry_out()
            if self._exit_status is None:
                self._loop.turn()
        return self._exit_status

    def _leave(self, status: int) -> None:
        self._notifier.leaving(self.state, self._slept_because)
        self._tell_situation()
        for listener in (*self._http, *([self._control] if self._control is not None else [])):
            listener.accept()  # Who has asked by now is answered.
        self._observer.leave(status, EXIT_PATIENCE)
        self._gatekeeper.close()

    def _happen(self, event: Event, why: str) -> None:
        """Note an event; it is dealt with when the callback that noticed it has returned."""
        self._events.append((event, why))

    def _carry_out(self) -> None:
        while self._events and self._exit_status is None:
            event, why = self._events.popleft()
            if event in (Event.POSTMASTER_CRASHED, Event.POSTMASTER_EXITED_CLEANLY, Event.RESTARTS_EXHAUSTED):
                event, why = self._on_postmaster_gone(event, why)
            elif event is Event.POSTMASTER_READY:
                self._on_started()
            before = self.moment
            after, effects = advance(before.state, event)
            if after is not before.state:
                self._enter(after, why)
            for effect in effects:
                self._do(effect)
            if self.moment is not before or event is Event.WAKE_REQUESTED:
                self._tell_situation()

    def _do(self, effect: Effect) -> None:
        """Carry out an effect. One that fails (FAULTS) never ends us: where there is an event for it, that is what has
        happened; one that can be left out is; any other is tried again after a pause, while it is asked for."""
        moment = self.moment

        def carry_out() -> None:
            if self.moment is moment or effect in _ALWAYS_DUE:
                _EFFECTS[effect](self)

        if effect not in _IF_IT_FAILS:
            self._loop.attempt(effect, carry_out)
            return
        try:
            carry_out()
        except FAULTS as error:
            self._on_fault(error)
            if (event := _IF_IT_FAILS[effect]) is not None:
                self._happen(event, f"not done: {fault_text(error)}")

    def _on_fault(self, error: BaseException | None) -> None:
        if error is not None:
            self._log.once("fault", f"{fault_text(error)}: it is tried again")
        else:
            self._log.forget("fault")

    def _enter(self, after: State, why: str) -> None:
        """Change the state, and tell whoever goes by it."""
        before = self.state
        self.moment = Moment(after, time.monotonic(), why)
        self._log.line(after, why, **{"from": before})
        self._notifier.entered(after, why, self.settings.stop_timeout)
        if after is State.STOPPING:
            self._slept_because, self._sleep_since = why, self.moment.since
        if after is not State.DROWSY:
            self._loop.cancel("confirm")
        if after is State.ASLEEP:
            self._part_later()

    def _on_postmaster_gone(self, event: Event, why: str) -> tuple[Event, str]:
        """Nobody accepts any more. Whether it is started again depends on how often it has crashed."""
        self._gatekeeper.gone()
        self.house.state_dir.remember_postmaster(None)
        is_sleep = event is Event.POSTMASTER_EXITED_CLEANLY and self.state is State.STOPPING
        if event is Event.RESTARTS_EXHAUSTED or self.state is State.TERMINATING or is_sleep:
            return event, why
        self.crashes += event is Event.POSTMASTER_CRASHED
        self.restarts = self.restarts.crashed(time.monotonic(), self.server.is_ready)
        if self.restarts.exhausted and self.settings.when_idle is WhenIdle.EXIT:
            return (
                Event.RESTARTS_EXHAUSTED,
                f"{why} once too often: put it right (pgidle doctor may know), then start pgidle again",
            )
        self._delay = self.restarts.delay
        if self.restarts.failed_starts:
            self._on_start_failed(why)
        if self.state is State.STARTING:
            self.moment = Moment(State.STARTING, self.moment.since, f"{why}; it is tried again")
            self._tell_situation()
            self._observer.tell(say.StartFailed(self.moment.why))
        return event, why

    def _on_start_failed(self, why: str) -> None:
        """Who waits goes on waiting."""
        now = time.monotonic()
        since = self.failed_start.since if self.failed_start is not None else now
        self.failed_start = FailedStart(why, self.restarts.failed_starts, since, now + self._delay)
        self._log.once("start", f"Postgres does not start, and is tried again: {why}")

    def _on_started(self) -> None:
        self.restarts = self.restarts.started()
        self.failed_start = None
        self._log.forget("start")
        self.house.state_dir.keep_failure(None)

    # What is noticed

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            name = "SIGTERM" if number == signal.SIGTERM else "SIGINT"
            self._happen(Event.STOP_REQUESTED, f"{name} received")
        elif number == signal.SIGQUIT:
            self._happen(Event.STOP_REQUESTED, "SIGQUIT received: immediate shutdown")
            self._happen(Event.STOP_TIMED_OUT, "SIGQUIT received")
        elif number == signal.SIGHUP:
            self._log.note("reload", "SIGHUP received: Postgres is told to reload")
            self._notifier.reloading()
            self.server.reload()
            self._observer.tell(say.TryStart())
            self._read_settings()
            self._notifier.reloaded()
        elif number == signal.SIGCHLD and os.getpid() == 1:
            self._reap_strangers()

    def _reap_strangers(self) -> None:
        """A container's first process is given everybody's orphans. Our own child is reaped when its pidfd says so."""
        try:
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in (*self.server.children, self._observer.pid):
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)
        except ChildProcessError:
            return

    def _on_stop_timeout(self) -> None:
        """Who waits for a sleep to end is served sooner, unless that would cost what is in unlogged tables."""
        waited = time.monotonic() - self._sleep_since
        if self.state is State.STOPPING and waited < SHUTDOWN_PATIENCE and self.server.would_lose_unlogged():
            self._loop.after(SHUTDOWN_POLL, "stop", self._on_stop_timeout)
        else:
            self._happen(Event.STOP_TIMED_OUT, "the fast shutdown took longer than --stop-timeout")

    def _on_kill_timeout(self) -> None:
        self._happen(Event.STOP_TIMED_OUT, "the immediate shutdown took too long")

    # The observer

    def _serve(self, end: PairEnd, is_urgent: bool) -> None:
        """What a fork of ours does."""
        from pgidle.observer.process import Begun, serve

        begun = Begun(
            self.house,
            self.settings,
            self.house.supervisor_pid,
            self._situation(),
            self._holds,
            *self._looks,
            self.server.files_read,
            self._settings_signature,
        )
        serve(begun, end, is_urgent=is_urgent)

    def _situation(self) -> Situation:
        moment = self.moment
        return Situation(
            moment.state,
            moment.since,
            moment.why,
            self._parked(),
            self.server.pid,
            self.server.is_initialising,
            self.started,
            self.wakes,
            self.sleeps,
            self.crashes,
            self.failed_start,
            _resident(),
            self._heard,
        )

    def _parked(self) -> int:
        try:
            return self._gate.parked()
        except OSError:
            return 0  # Not known in this moment.

    def _tell_situation(self) -> None:
        if self._observer.is_ready:
            self._observer.tell(self._situation())

    def _on_said(self, message: ToSupervisor) -> None:
        match message:
            case say.Ready():
                self._tell_situation()
                if self.state is State.AWAKE:
                    self._attend()
            case say.Judged():
                self._on_judged(message)
            case say.WakeWanted(number, why):
                self._heard = number
                self._happen(Event.WAKE_REQUESTED, why)
            case say.SituationWanted(number):
                self._heard = number
                self._tell_situation()
            case say.FilesChanged(_, True):
                self._read_settings()
            case say.FilesChanged(names, False):
                self._log.note("reload", f"{', '.join(names)} has changed: Postgres is told to reload")
                self.server.reload()
            case say.HoldsChanged(content):
                self._holds = content
            case say.Looks(taken, failed):
                self._looks = (taken, failed)

    def _on_judged(self, judged: say.Judged) -> None:
        """A judgement of an earlier period is none."""
        if judged.period != self._period:
            return
        match self.state, judged.judgement:
            case State.AWAKE, Judgement.IDLE if _is_fresh(judged):
                self._happen(Event.IDLE_JUDGED, judged.why)
            case State.AWAKE, _:
                self._attend()  # It goes on looking.
            case State.DROWSY, Judgement.CONFIRMED:
                self._on_confirmed(judged)
            case State.DROWSY, Judgement.USED:
                self._happen(Event.ACTIVITY_SEEN, judged.why)

    def _on_confirmed(self, judged: say.Judged) -> None:
        """Nobody uses Postgres; and nobody has come meanwhile?"""
        if parked := self._gate.parked():
            self._happen(Event.CLIENT_PARKED, parked_text(parked))
        elif _is_fresh(judged):
            self._happen(Event.IDLE_CONFIRMED, judged.why)
        else:
            self._happen(Event.ACTIVITY_SEEN, "the last look is too long ago to count")

    def _on_observer_lost(self, why: str) -> None:
        """Nobody can be seen, so nobody may be cut."""
        self._heard = 0
        if self.state is State.DROWSY:
            self._happen(Event.ACTIVITY_SEEN, f"nobody looks at Postgres: {why}")
        elif self.state is State.AWAKE:
            self._observer.want()

    def _on_unconfirmed(self) -> None:
        self._happen(Event.ACTIVITY_SEEN, f"no last look within {CONFIRM_LIMIT:g} s")
        self._observer.give_up("it does not look")

    def _part_later(self) -> None:
        """Have no observer while Postgres sleeps, unless somebody asks it now and then."""
        left = self._observer.asked_at + LINGER - time.monotonic()
        if self.state is not State.ASLEEP or self.settings.when_idle is WhenIdle.EXIT:
            return
        self._loop.after(max(left, 0.0), "part", self._part)

    def _part(self) -> None:
        if self.state is State.ASLEEP:
            if self._observer.asked_at + LINGER > time.monotonic():
                self._part_later()
            else:
                self._observer.end()

    def _asked(self) -> tuple[State, str]:
        return self.state, self.failed_start.why if self.failed_start is not None else ""

    def _on_asked(self, connected: socket.socket, data: bytes) -> None:
        self._observer.hand_over(say.Connection(False, data), connected)
        self._part_later()

    def _on_order(self, connected: socket.socket, data: bytes) -> None:
        if self.state is not State.AWAKE and data.startswith(WAKING):
            # As good as a client: when the observer knows of it there might be nobody left to be told.
            self._happen(Event.WAKE_REQUESTED, "asked to wake")
        self._observer.hand_over(say.Connection(True, data), connected)
        self._part_later()

    # Settings

    def _signature(self) -> Signature:
        return signature(self.house.files.settings_file) if self.house.files.settings_file else None

    def _look_at_settings(self) -> None:
        """Read what has changed, once it changes no more."""
        seen, self._seen_signature = self._seen_signature, self._signature()
        if self._seen_signature not in (self._settings_signature, None) and seen == self._seen_signature:
            self._read_settings()
        self._loop.after(SETTINGS_POLL, "settings", self._look_at_settings)

    def _read_settings(self) -> None:
        self._settings_signature = self._signature()
        self._on_settings(self.house.files.read())

    def _on_settings(self, message: SettingsRead) -> None:
        if message.settings is None:
            self._log.once("settings", f"the settings stay as they were: {message.error}")
            return
        from pgidle.postgres.conninfo import harmless
        from pgidle.settings.settings import describe, live_changes

        self._log.forget("settings")
        before = dict(describe(self.settings, harmless))
        self.settings, waiting = live_changes(self.settings, message.settings)
        self._gatekeeper.spare(self.settings.no_wake)
        self.server.stop_timeout = self.settings.stop_timeout
        now = describe(self.settings, harmless)
        changed = [f"{name} is {value} now" for name, value in now if before[name] != value]
        changed += [f"{name} changes only with a restart" for name in waiting]
        self._log.note("settings", f"read again: {'; '.join(changed) or 'nothing that counts has changed'}")
        if self.state is State.ASLEEP and self.settings.when_idle is WhenIdle.EXIT:
            self._gatekeeper.look_at_queue(self.settings.when_idle)
        self._observer.tell(say.Adopt(self.settings))
        self._part_later()

    # What is done

    def _start_postmaster(self) -> None:
        self._loop.cancel("stop")
        self._loop.cancel("kill")
        self._is_wanted = False
        self._gatekeeper.before_start()
        self.server.start(self._delay)
        self._delay = 0.0

    def _open_gate(self) -> None:
        self._gatekeeper.open()
        # What a wake needs besides comes after the clients have been served: on one core they would wait for it.
        self._loop.after(0.0 if self._observer.is_ready else ATTEND_AFTER, "attend", self._attend)

    def _attend(self) -> None:
        """Have Postgres looked at, from now on or again."""
        if self.state is not State.AWAKE or self.server.pid is None:
            return
        self._loop.cancel("attend")
        if self._attended != self.server.pid:
            self._attended = self.server.pid
            self.wakes += 1
        if not self._observer.is_ready:
            self._observer.want()
            return
        self._period += 1
        self._observer.tell(say.Attend(self._period, self.server.pid))

    def _confirm_idle(self) -> None:
        self._period += 1
        self._loop.after(CONFIRM_LIMIT, "confirm", self._on_unconfirmed)
        if not self._observer.tell(say.Confirm(self._period)):
            self._happen(Event.ACTIVITY_SEEN, "nobody looks at Postgres")

    def _stop_fast(self) -> None:
        # At once: every moment after the last look is one in which an idle session may stop being idle.
        self.server.stop_fast()

    def _stop_drained(self) -> None:
        self._stop_since = time.monotonic()
        if self.server.is_ready and not self._gate.is_ending:
            if not self._gate.is_open:
                self._gatekeeper.open()  # Whoever has come while it was shut is served.
            self._drain_and_stop()
        else:
            self._gatekeeper.drain()  # Whoever comes from now on gets no answer.
            self._stop_fast()

    def _drain_and_stop(self) -> None:
        """Let Postgres take whoever has come, and then nobody any more: who waits when we end is cut."""
        limit = STOP_DRAIN * self.settings.stop_timeout
        if not self._gatekeeper.drain() and time.monotonic() - self._stop_since < limit:
            self._loop.after(STOP_DRAIN_POLL, "drain", self._drain_and_stop)
        else:
            self._gatekeeper.shut()

    def _stop_settled(self) -> None:
        """Nobody is accepted any more. A client who is just being authenticated gets a session first: it would be cut
        in the middle of connecting, which no client tells from a server that is broken."""
        limit = STOP_DRAIN * self.settings.stop_timeout
        if self.server.connecting and time.monotonic() - self._stop_since < limit:
            self._loop.after(STOP_DRAIN_POLL, "drain", self._stop_settled)
        else:
            self._stop_fast()

    def _limit_stop(self) -> None:
        if not self._loop.is_set("stop"):
            self._loop.after(self.settings.stop_timeout, "stop", self._on_stop_timeout)

    def _stop_immediate(self) -> None:
        if self._loop.is_set("kill"):
            return  # Asked again, by another SIGQUIT: it has its time all the same.
        self._loop.cancel("drain")
        # What that means is known, and said, when Postgres has ended.
        self._log.note("stop", "immediate shutdown")
        self.server.stop_immediate()
        # A process that does not even hear that is killed.
        self._loop.after(IMMEDIATE_PATIENCE, "kill", self._on_kill_timeout)

    def _keep_wish(self) -> None:
        self._is_wanted = True

    def _record_sleep(self) -> None:
        self.sleeps += 1
        slept = say.Slept(self._slept_because, time.monotonic() - self._sleep_since)
        if not self._observer.tell(slept):
            from pgidle.history.sleeps import remember

            remember(self.house.state_dir, slept.why, time.time(), slept.seconds)

    def _look_at_queue(self) -> None:
        self._loop.cancel("stop")
        self._loop.cancel("kill")
        if self._is_wanted:
            self._happen(Event.WAKE_REQUESTED, "asked to wake while it was going to sleep")
        else:
            self._gatekeeper.look_at_queue(self.settings.when_idle)

    def _exit_clean(self) -> None:
        # An order that has come is as good as a client.
        if self._control is not None:
            self._control.accept()
        self._observer.receive()
        if not any(event is Event.WAKE_REQUESTED for event, _ in self._events):
            self._exit_status = 0

    def _exit_failed(self) -> None:
        self._exit_status = 1


def _is_fresh(judged: say.Judged) -> bool:
    return time.monotonic() - judged.at < FRESH


def _resident() -> int:
    """Bytes of our own memory (proc_pid_statm(5)); 0 where that is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _place(error: BaseException) -> str:
    """Where it happened, for who mends it."""
    import traceback

    return "; ".join(f"{one.name}: {one.line}" for one in traceback.extract_tb(error.__traceback__)[-2:])


_EFFECTS: dict[Effect, Callable[[Supervisor], None]] = {
    Effect.START_POSTMASTER: Supervisor._start_postmaster,
    Effect.OPEN_GATE: Supervisor._open_gate,
    Effect.SHUT_GATE: lambda supervisor: supervisor._gatekeeper.shut(),
    Effect.CONFIRM_IDLE: Supervisor._confirm_idle,
    Effect.STOP_FAST: Supervisor._stop_fast,
    Effect.STOP_DRAINED: Supervisor._stop_drained,
    Effect.STOP_SETTLED: Supervisor._stop_settled,
    Effect.LIMIT_STOP: Supervisor._limit_stop,
    Effect.KEEP_WISH: Supervisor._keep_wish,
    Effect.STOP_IMMEDIATE: Supervisor._stop_immediate,
    Effect.RECORD_SLEEP: Supervisor._record_sleep,
    Effect.LOOK_AT_QUEUE: Supervisor._look_at_queue,
    Effect.BEGIN_LEAVING: lambda supervisor: supervisor._gatekeeper.begin_leaving(),
    Effect.CALL_OFF_LEAVING: lambda supervisor: supervisor._gatekeeper.call_off(),
    Effect.LEAVE_AGAIN_LATER: lambda supervisor: supervisor._gatekeeper.leave_again_later(),
    Effect.EXIT_CLEAN: Supervisor._exit_clean,
    Effect.EXIT_FAILED: Supervisor._exit_failed,
}

_IF_IT_FAILS: dict[Effect, Event | None] = {
    # Doubt means busy, and a start that cannot be begun is one that has failed.
    Effect.START_POSTMASTER: Event.POSTMASTER_CRASHED,
    Effect.SHUT_GATE: Event.GATE_SILENT,
    Effect.CONFIRM_IDLE: Event.GATE_SILENT,
    Effect.BEGIN_LEAVING: Event.LEAVING_PUT_OFF,
    Effect.RECORD_SLEEP: None,
}
"""What has happened if an effect fails."""

_ALWAYS_DUE = frozenset({Effect.CALL_OFF_LEAVING})
"""Clients are kept away until it is done, whatever comes."""

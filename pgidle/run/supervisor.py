"""The supervisor: the only place that knows the state, and the only one that changes it.

Everything that happens arrives here, in one thread: signals, the exit of a child, a client that parks, a health check,
and the observer's messages. `lifecycle.advance` decides what each event means; `_EFFECTS` names the methods that carry
out its effects. Looks, orders, other HTTP requests and watching files are the observer's business, a process of its own
that is started once clients are being served, and that ends while Postgres sleeps.
"""

from __future__ import annotations

import os
import time

from pgidle.base.builtin_modules import signal
from pgidle.base.errors import FAULTS, fault_text, place_text
from pgidle.control.health_checks import HttpListener
from pgidle.gate.gatekeeper import Gatekeeper
from pgidle.lifecycle.restarts import FailedStart, Restarts
from pgidle.lifecycle.transitions import Effect, Event, Moment, State, advance
from pgidle.observer import messages as say
from pgidle.observer.messages import Situation
from pgidle.run.event_delivery import EventDelivery
from pgidle.run.journal_entries import JournalEntries
from pgidle.run.live_settings import LiveSettings
from pgidle.run.observer_dialogue import ObserverDialogue
from pgidle.run.postgres_server import Server
from pgidle.run.sd_notify import Notifier
from pgidle.run.shutdown import Shutdown
from pgidle.settings.options import WhenIdle
from pgidle.system import control_socket
from pgidle.system.forked import reap_strangers
from pgidle.system.proc_files import resident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.postgres.postmaster import Postmaster
    from pgidle.run.runtime import Runtime
    from pgidle.settings.resolve import Settings

SERVING = (State.AWAKE, State.DROWSY)


class Supervisor:
    """Owner of the state. `run` returns the exit status."""

    def __init__(self, runtime: Runtime, early: Postmaster | None) -> None:
        """`early`: a postmaster that was spawned already."""
        self.runtime = runtime
        self.moment = Moment(State.STARTING, time.monotonic(), "pgidle started")
        self.started = self.moment.since
        self.restarts = Restarts()
        self.failed_start: FailedStart | None = None
        self.sleeps = 0
        self.crashes = 0
        self._gate = runtime.gate
        self._loop = runtime.loop
        self._log = runtime.log
        self._events: list[tuple[Event, str]] = []
        self._settings = LiveSettings(runtime, self._adopt)
        self._gatekeeper = Gatekeeper(
            runtime.gate, runtime.loop, runtime.log, self._happen, runtime.settings.no_wake
        )
        self.server = Server(runtime, early, self._gatekeeper, self._happen)
        self._shutdown = Shutdown(
            self.server,
            runtime.gate,
            self._gatekeeper,
            runtime.loop,
            runtime.log,
            runtime.settings,
            self._moment,
            self._happen,
        )
        self._entries = JournalEntries(
            runtime, self.moment, runtime.settings, lambda: self._delivery.written()
        )
        run, _ = self._entries.last
        self._delivery = EventDelivery(runtime, (run, 0), self._is_waking, self._on_events_settled)
        self._observer = ObserverDialogue(
            runtime,
            self._settings,
            self.server,
            self._entries,
            self._moment,
            self._situation,
            self._happen,
        )
        self._notifier = Notifier(runtime.manager, runtime.loop, runtime.log)
        self._http: list[HttpListener] = []
        self._control: HttpListener | None = None
        self._exit_status: int | None = None
        self._delay = 0.0
        self._is_wake_pending = False
        """Whether a wake was asked for while Postgres was going to sleep."""
        self._slept_because, self._sleep_since = "", 0.0

    @property
    def state(self) -> State:
        return self.moment.state

    def run(self) -> int:
        """Run until there is nothing left to do; the exit status."""
        try:
            status = self._live()
        except Exception as error:  # noqa: BLE001 - such as a bug of ours: Postgres is stopped in good order all the same
            status = 1
            self._enter(State.FAILED, f"cannot continue: {fault_text(error)} ({place_text(error)})")
            self.server.end()
        if status:
            self.runtime.state_dir.keep_failure(self.moment.why)
        try:
            self._entries.exited(status)  # While a client that comes only waits: the disk may be slow.
            self._leave(status)
        except FAULTS as error:
            # By now everything is written, and Postgres has exited.
            self._log.note("exit", f"cleanup is incomplete: {fault_text(error)}")
        self._log.note("exit", f"status {status}: {self.moment.why}")
        if self.state is not State.LEAVING:  # After a sleep a client may come: the exit must not take longer.
            self._delivery.leave(self._settings.current.stop_timeout, self.moment.since)
        return status

    def _live(self) -> int:
        self._loop.on_fault(self._on_fault)
        self._loop.on_signal(self._on_signal)
        for listener in self.runtime.listening.http:
            self._http.append(HttpListener(listener, self._loop, self._asked, self._observer.on_question))
        self._control = HttpListener(
            self.runtime.listening.control,
            self._loop,
            self._asked,
            self._observer.on_order,
            control_socket.allowed_users(),
        )
        self._settings.watch()
        self._log.line(State.STARTING, self.moment.why, gate=self._gate.mode.value)
        self._notifier.entered(State.STARTING, self.moment.why, self._settings.current.stop_timeout)
        self._do(Effect.START_POSTMASTER)
        while self._exit_status is None:
            self._carry_out()
            if self._exit_status is None:
                self._loop.turn()
        return self._exit_status

    def _leave(self, status: int) -> None:
        self._notifier.leaving(self.state, self._slept_because)
        self._observer.tell_situation()
        for listener in (*self._http, *([self._control] if self._control is not None else [])):
            listener.accept()  # Requests that have arrived by now are answered.
        self._observer.leave(status)
        self._gatekeeper.close()

    def _moment(self) -> Moment:
        return self.moment

    def _adopt(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._delivery.adopt(settings, self._entries.last)
        self._entries.changed(self._settings.changes, settings)
        self._gatekeeper.adopt(settings)
        self.server.adopt(settings)
        self._shutdown.adopt(settings)
        self._observer.tell(say.Adopt(settings))
        self._observer.part_later()
        if self.state is State.ASLEEP and settings.when_idle is WhenIdle.EXIT:
            self._delivery.settle()  # The sleep may still be told.

    def _happen(self, event: Event, why: str) -> None:
        """Queue an event; it is handled once the callback that noticed it has returned."""
        self._events.append((event, why))

    def _carry_out(self) -> None:
        while self._events and self._exit_status is None:
            event, why = self._events.pop(0)
            if event in (Event.POSTMASTER_CRASHED, Event.POSTMASTER_EXITED_CLEANLY, Event.RESTARTS_EXHAUSTED):
                event, why = self._on_postmaster_gone(event, why)
            elif event is Event.POSTMASTER_READY:
                self._on_started()
            before = self.moment
            after, effects = advance(before.state, event)
            if after is not before.state:
                self._enter(after, why)
                self._entries.entered(event, before, self.moment)
            for effect in effects:
                self._do(effect)
            if self.moment is not before or event is Event.WAKE_REQUESTED:
                self._observer.tell_situation()

    def _do(self, effect: Effect) -> None:
        """Carry out an effect. One that fails (FAULTS) never ends pgidle: if `_IF_IT_FAILS` has an event for it, that
        event happens; if it has None, the effect is skipped; any other is retried after a pause, while it is due."""
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
                self._happen(event, f"could not {_words(effect)}: {fault_text(error)}")

    def _on_fault(self, error: BaseException | None) -> None:
        if error is not None:
            self._log.once("fault", f"{fault_text(error)}; retrying")
        else:
            self._log.forget("fault")

    def _enter(self, after: State, why: str) -> None:
        """Change the state, and tell everything that depends on it."""
        before = self.state
        self.moment = Moment(after, time.monotonic(), why)
        self._log.line(after, why, before)
        self._notifier.entered(after, why, self._settings.current.stop_timeout)
        if after is State.STOPPING:
            self._slept_because, self._sleep_since = why, self.moment.since
        if after is not State.DROWSY:
            self._loop.cancel("confirm")
        if after is State.ASLEEP:
            self._observer.part_later()

    def _on_postmaster_gone(self, event: Event, why: str) -> tuple[Event, str]:
        """Nobody accepts clients any more. Whether Postgres is started again depends on how often it has crashed."""
        self._gatekeeper.gone()
        self.runtime.state_dir.remember_postmaster(None)
        is_sleep = event is Event.POSTMASTER_EXITED_CLEANLY and self.state is State.STOPPING
        if event is Event.RESTARTS_EXHAUSTED or self.state is State.TERMINATING or is_sleep:
            return event, why
        self.crashes += event is Event.POSTMASTER_CRASHED
        self.restarts = self.restarts.crashed(time.monotonic(), self.server.is_ready)
        self._entries.gone(why, self.restarts.failed_starts)
        if self.restarts.exhausted and self._settings.current.when_idle is WhenIdle.EXIT:
            return (
                Event.RESTARTS_EXHAUSTED,
                f"{why}; failed too often: fix the cause (pgidle doctor may find it), then start pgidle again",
            )
        self._delay = self.restarts.delay
        if self.restarts.failed_starts:
            self._on_start_failed(why)
        if self.state is State.STARTING:
            self.moment = Moment(State.STARTING, self.moment.since, f"{why}; retrying")
            self._observer.tell_situation()
            self._observer.tell(say.StartFailed(self.moment.why))
        return event, why

    def _on_start_failed(self, why: str) -> None:
        """Clients that wait go on waiting."""
        now = time.monotonic()
        since = self.failed_start.since if self.failed_start is not None else now
        self.failed_start = FailedStart(why, self.restarts.failed_starts, since, now + self._delay)
        self._log.once("start", f"Postgres does not start (retrying): {why}")

    def _on_started(self) -> None:
        self.restarts = self.restarts.started()
        self.failed_start = None
        self._log.forget("start")
        self.runtime.state_dir.keep_failure(None)

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            name = "SIGTERM" if number == signal.SIGTERM else "SIGINT"
            self._happen(Event.STOP_REQUESTED, f"{name} received")
        elif number == signal.SIGQUIT:
            self._happen(Event.STOP_REQUESTED, "SIGQUIT received: immediate shutdown")
            self._happen(Event.STOP_TIMED_OUT, "SIGQUIT received")
        elif number == signal.SIGHUP:
            self._log.note("reload", "SIGHUP received: reloading Postgres")
            self._notifier.reloading()
            self.server.reload()
            self._observer.tell(say.TryStart())
            self._settings.read()
            self._notifier.reloaded()
        elif number == signal.SIGCHLD and os.getpid() == 1:
            reap_strangers((*self.server.children, self._observer.pid, self._delivery.pid))

    def _situation(self, heard: int) -> Situation:
        moment = self.moment
        return Situation(
            moment.state,
            moment.since,
            moment.why,
            self._parked(),
            self.server.pid,
            self.server.is_initialising,
            self.started,
            self._observer.wakes,
            self.sleeps,
            self.crashes,
            self.failed_start,
            resident(),
            heard,
        )

    def _parked(self) -> int:
        try:
            return self._gate.parked()
        except OSError:
            return 0  # Not known at the moment.

    def _asked(self) -> tuple[State, str]:
        return self.state, self.failed_start.why if self.failed_start is not None else ""

    def _start_postmaster(self) -> None:
        self._shutdown.over()
        self._is_wake_pending = False
        self._gatekeeper.before_start()
        self.server.start(self._delay)
        self._delay = 0.0

    def _open_gate(self) -> None:
        self._gatekeeper.open()
        self._observer.attend_soon()

    def _remember_wake(self) -> None:
        self._is_wake_pending = True

    def _record_sleep(self) -> None:
        self.sleeps += 1
        self._observer.record_sleep(self._slept_because, time.monotonic() - self._sleep_since)

    def _look_at_queue(self) -> None:
        self._shutdown.over()
        if self._is_wake_pending:
            self._happen(Event.WAKE_REQUESTED, "asked to wake while going to sleep")
        else:
            settings = self._settings.current
            is_telling = settings.when_idle is WhenIdle.EXIT and settings.on_event is not None
            self._gatekeeper.look_at_queue(WhenIdle.STAY if is_telling else settings.when_idle)
            if is_telling:
                # Told before the exit: the next run, which would tell it otherwise, may be days away.
                self._entries.write()
                self._delivery.settle()

    def _is_waking(self) -> bool:
        return self.state is State.STARTING and self.failed_start is None

    def _on_events_settled(self) -> None:
        if self.state is State.ASLEEP and self._settings.current.when_idle is WhenIdle.EXIT:
            self._gatekeeper.look_at_queue(WhenIdle.EXIT)

    def _exit_clean(self) -> None:
        if self.state is State.LEAVING and self._is_ordered_to_wake():
            return
        self._exit_status = 0

    def _is_ordered_to_wake(self) -> bool:
        """An order that has arrived counts like a client."""
        if self._control is not None:
            self._control.accept()
        self._observer.receive()
        return any(event is Event.WAKE_REQUESTED for event, _ in self._events)

    def _exit_failed(self) -> None:
        self._exit_status = 1


def _words(effect: Effect) -> str:
    return effect.name.lower().replace("_", " ")


_EFFECTS: dict[Effect, Callable[[Supervisor], None]] = {
    Effect.START_POSTMASTER: Supervisor._start_postmaster,
    Effect.OPEN_GATE: Supervisor._open_gate,
    Effect.SHUT_GATE: lambda supervisor: supervisor._gatekeeper.shut(),
    Effect.CONFIRM_IDLE: lambda supervisor: supervisor._observer.confirm_idle(),
    Effect.STOP_FAST: lambda supervisor: supervisor._shutdown.fast(),
    Effect.STOP_DRAINED: lambda supervisor: supervisor._shutdown.drain(),
    Effect.STOP_SETTLED: lambda supervisor: supervisor._shutdown.settle(),
    Effect.LIMIT_STOP: lambda supervisor: supervisor._shutdown.limit(),
    Effect.REMEMBER_WAKE: Supervisor._remember_wake,
    Effect.STOP_IMMEDIATE: lambda supervisor: supervisor._shutdown.immediate(),
    Effect.RECORD_SLEEP: Supervisor._record_sleep,
    Effect.LOOK_AT_QUEUE: Supervisor._look_at_queue,
    Effect.BEGIN_LEAVING: lambda supervisor: supervisor._gatekeeper.begin_leaving(),
    Effect.CALL_OFF_LEAVING: lambda supervisor: supervisor._gatekeeper.call_off(),
    Effect.LEAVE_AGAIN_LATER: lambda supervisor: supervisor._gatekeeper.leave_again_later(),
    Effect.EXIT_CLEAN: Supervisor._exit_clean,
    Effect.EXIT_FAILED: Supervisor._exit_failed,
}

_IF_IT_FAILS: dict[Effect, Event | None] = {
    # Doubt means busy, and a start that cannot even begin has failed.
    Effect.START_POSTMASTER: Event.POSTMASTER_CRASHED,
    Effect.SHUT_GATE: Event.GATE_SILENT,
    Effect.CONFIRM_IDLE: Event.GATE_SILENT,
    Effect.BEGIN_LEAVING: Event.LEAVING_PUT_OFF,
    Effect.RECORD_SLEEP: None,
}
"""The event that follows when an effect fails; None: nothing does."""

_ALWAYS_DUE = frozenset({Effect.CALL_OFF_LEAVING})
"""Carried out even if the state has changed meanwhile: until then, clients are kept away."""

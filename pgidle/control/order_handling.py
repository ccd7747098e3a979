"""Orders from the control socket: carried out, and answered once their outcome is known. In the observer."""

from __future__ import annotations

import time

from pgidle.base.errors import PgidleError
from pgidle.base.record import replace
from pgidle.control.orders import Hold, Release, Sleep, Wake
from pgidle.lifecycle.transitions import State
from pgidle.settings.options import WhenIdle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.control.orders import Requested
    from pgidle.observer.idle_judge import Judge

SERVING = (State.AWAKE, State.DROWSY)


class OrderHandler:
    """Carries out orders, and keeps those that wait for an outcome."""

    def __init__(self, want_wake: Callable[[str], int]) -> None:
        """`want_wake` asks the supervisor for a wake; it returns the number that identifies the answer."""
        self._want_wake = want_wake
        self._for_wake: list[tuple[int, Requested]] = []
        self._for_sleep: list[Requested] = []

    def take(self, request: Requested, state: State, why: str, judge: Judge) -> None:
        """Carry out an order; `why` is the reason for the current state."""
        # Forget requests whose client has disconnected.
        self._for_wake = [(number, one) for number, one in self._for_wake if one.is_awaited()]
        self._for_sleep = [one for one in self._for_sleep if one.is_awaited()]
        if state in (State.TERMINATING, State.FAILED):
            request.reply(False, f"not possible while {state.noun}: {why}")
            return
        match request.order:
            case Wake(wait):
                judge.wanted()
                number = self._want_wake(f"asked to wake by {request.by}")
                if wait:
                    self._for_wake.append((number, request))
                else:
                    was = "awake" if state is State.AWAKE else f"waking, was {state.noun}"
                    request.reply(True, was)
            case Hold() as hold:
                self._hold(request, hold, judge)
            case Release(name):
                self._release(request, name, judge)
            case Sleep() as sleep:
                self._sleep(request, sleep, state, why, judge)

    def _hold(self, request: Requested, order: Hold, judge: Judge) -> None:
        until = f" until {_moment(order.seconds)}" if order.seconds is not None else ""

        def kept(number: int, error: str) -> None:
            unsaved = f"; not saved, so it ends with pgidle: {error}" if error else ""
            request.reply(True, f"hold {number}: held awake{until}{unsaved}")

        # A program begins once Postgres is ready, whether or not its hold could be saved.
        try:
            number = judge.hold(order, request.by, kept if order.program is None else _nothing)
        except PgidleError as error:
            request.reply(False, str(error))
            return
        wake = self._want_wake(f"hold {number} taken")
        if order.program is not None:
            said = f"hold {number}: held awake for {order.program.name}{until}"
            waiting = replace(
                request, reply=lambda granted, why: request.reply(granted, said if granted else why)
            )
            self._for_wake.append((wake, waiting))

    def _release(self, request: Requested, name: str | None, judge: Judge) -> None:
        def kept(ended: int, error: str) -> None:
            unsaved = f"; not saved, so back when pgidle restarts: {error}" if error else ""
            request.reply(True, f"{ended} hold{'s' * (ended != 1)} ended{unsaved}")

        try:
            judge.release(name, request.by, kept)
        except PgidleError as error:
            request.reply(False, str(error))

    def _sleep(self, request: Requested, order: Sleep, state: State, why: str, judge: Judge) -> None:
        deciding = self._then_wait(request) if order.wait else request
        if state in SERVING:
            judge.asked_to_sleep(deciding)
        elif state is State.STARTING:
            request.reply(False, f"not put to sleep: starting: {why}")
        elif state is State.ASLEEP:
            request.reply(True, "already asleep")
        else:
            deciding.reply(True, f"already {state.noun}")

    def _then_wait(self, request: Requested) -> Requested:
        """A request whose client goes on waiting if the sleep is granted."""

        def reply(granted: bool, text: str) -> None:
            if granted:
                self._for_sleep.append(request)
            else:
                request.reply(False, text)

        return replace(request, reply=reply)

    def entered(self, before: State, after: State, why: str, when_idle: WhenIdle, number: int) -> None:
        """The supervisor has handled something: answer the requests that waited for it. `number` is that of the last
        wake asked for by then."""
        if after is State.AWAKE:
            self._answer_wakes(number, True, "awake: Postgres accepts connections")
        if after is before:
            return
        if after is State.ASLEEP and when_idle is WhenIdle.STAY:
            self._answer_sleeps(True, f"asleep: {why}")
        elif after is State.STARTING:
            slept = before in (State.ASLEEP, State.LEAVING)
            said = "slept, and woke again at once" if slept else "not put to sleep"
            self._answer_sleeps(False, f"{said}: {why}")

    def start_failed(self, why: str) -> None:
        """The start is retried, but requests for a wake are answered now, and may be made again."""
        self._answer_wakes(None, False, f"not awake: {why}")

    def leaving(self, state: State, status: int, why: str) -> None:
        """The supervisor exits, in this state: this is the last answer that waiting requests can get."""
        self._answer_wakes(None, False, f"pgidle is exiting: {why}")
        slept = "asleep, and pgidle has exited" if state is State.LEAVING else f"stopped: {why}"
        self._answer_sleeps(status == 0, slept if status == 0 else f"pgidle is exiting: {why}")

    def _answer_wakes(self, number: int | None, granted: bool, text: str) -> None:
        """Answer the requests for a wake up to a number, or all."""
        waiting, self._for_wake = self._for_wake, []
        for asked, one in waiting:
            if number is not None and asked > number:
                self._for_wake.append((asked, one))
            else:
                one.reply(granted, text)

    def _answer_sleeps(self, granted: bool, text: str) -> None:
        waiting, self._for_sleep = self._for_sleep, []
        for one in waiting:
            one.reply(granted, text)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + seconds))


def _nothing(_number: int, _error: str) -> None:
    """No answer waits for it."""

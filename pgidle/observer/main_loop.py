"""The observer's loop: carries out the supervisor's messages, and reports back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pgidle.control.api import Application
from pgidle.control.holds import Holds
from pgidle.control.http_server import HttpServer
from pgidle.control.memory_use import MemoryReader
from pgidle.control.order_handling import SERVING, OrderHandler
from pgidle.control.report import make_report
from pgidle.history.journal import is_full
from pgidle.idle.between_looks import ignores_statements
from pgidle.lifecycle.transitions import State
from pgidle.observer import messages as say
from pgidle.observer.idle_judge import Judge
from pgidle.observer.journal_notes import JournalNotes
from pgidle.observer.looks import Looks
from pgidle.observer.results import Checkpointed, Looked, StartTried
from pgidle.observer.timers import Timers
from pgidle.observer.watch_target import make_watcher, start_question
from pgidle.settings.options import WhenIdle

if TYPE_CHECKING:
    from pgidle.control.orders import Requested
    from pgidle.control.status import Report
    from pgidle.history.totals import Counted, Totals
    from pgidle.observer.messages import Judgement, Situation, ToSupervisor
    from pgidle.observer.process import ObserverStart
    from pgidle.observer.results import Ended
    from pgidle.observer.socket_pair import PairEnd

REDUCE_EVERY = 3600.0
"""Seconds between two looks whether the journal's file is to be moved aside."""


def run(begun: ObserverStart, end: PairEnd) -> None:
    """Serve until told to end, or until the supervisor exits. Raises whatever goes wrong."""
    gc.enable()
    asyncio.run(_run(begun, end))


async def _run(begun: ObserverStart, end: PairEnd) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        serving = ObserverLoop(begun, end, group)
        loop.set_exception_handler(lambda _, context: serving.fail(context))
        loop.add_reader(end.fileno(), serving.receive)
        serving.tell(say.Ready())
        serving.reduce_journal()
        await serving.ended
        await serving.close()


class ObserverLoop:
    """Owns everything in the observer. Belongs to the running loop."""

    def __init__(self, begun: ObserverStart, end: PairEnd, group: asyncio.TaskGroup) -> None:
        runtime = begun.runtime
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begun = begun
        self._runtime = runtime
        self._end = end
        self._group = group
        self._situation = begun.situation
        self._number = begun.situation.number
        self._period = 0
        self._watched: int | None = None
        self._is_ending = False
        self._unsent: deque[ToSupervisor] = deque()
        self._asking: dict[int, asyncio.Future[None]] = {}
        self._noticing: asyncio.Task[None] | None = None
        self._coming: set[asyncio.Task[None]] = set()
        """Connections that are just being taken over."""
        timers = self._timers = Timers()
        self._looks = Looks(self._on_ended, group)
        self._notes = JournalNotes(self.tell)
        holds = Holds(
            runtime.state_dir, timers, runtime.log, begun.holds, self._on_holds_changed, self._on_hold_ended
        )
        self._judge = Judge(
            begun.settings,
            self._looks,
            holds,
            timers,
            runtime.log,
            runtime.state_dir,
            self._on_judged,
            start_question(runtime),
            self._own_fault,
            self._notes,
            (begun.looks, begun.looks_failed),
        )
        self._ordering = OrderHandler(self._want_wake)
        meter = MemoryReader()
        self._totals: Totals | None = None
        folder = runtime.state_dir.folder
        self._telling = HttpServer(
            Application(self._report, self._state, meter, counted=self._counted, folder=folder).answer
        )
        self._control = HttpServer(
            Application(
                self._report,
                self._state,
                meter,
                self._take,
                self._look_for,
                counted=self._counted,
                folder=folder,
            ).answer
        )

    @property
    def _is_watching(self) -> bool:
        return self._situation.state in SERVING and self._watched is not None

    def tell(self, message: ToSupervisor) -> None:
        """Send the supervisor a message, as soon as it reads."""
        self._unsent.append(message)
        if len(self._unsent) == 1:
            self._send()

    def receive(self) -> None:
        """Handle all messages of the supervisor."""
        while True:
            try:
                received = self._end.receive()
            except EOFError:
                self._finish()
                return
            if received is None:
                return
            self._do(*received)

    def reduce_journal(self) -> None:
        """Once the journal's file is large enough to be moved aside, reduce the one before it to day totals. Looks for
        that now and then."""
        self._timers.after(REDUCE_EVERY, "journal", self.reduce_journal)
        if is_full(self._runtime.state_dir) and not self._is_ending:
            self._group.create_task(self._reduce_journal())

    async def _reduce_journal(self) -> None:
        state_dir = self._runtime.state_dir
        from pgidle.history.files import reduce_older

        try:
            await asyncio.to_thread(reduce_older, state_dir)
        except OSError as error:
            self._runtime.log.note("journal", f"cannot reduce its older part to day totals: {error.strerror}")
        else:
            self.tell(say.JournalReduced())

    def fail(self, context: dict[str, Any]) -> None:
        """An error outside of any task."""
        if not self.ended.done():
            self.ended.set_exception(context.get("exception") or RuntimeError(context["message"]))

    async def close(self) -> None:
        """Finish answers, and release everything."""
        if self._noticing is not None:
            self._noticing.cancel()
        self._looks.unwatch()
        await asyncio.gather(*self._coming)
        for server in (self._telling, self._control):
            await server.close()
        asyncio.get_running_loop().remove_reader(self._end.fileno())

    def _do(self, message: say.ToObserver, descriptor: int | None) -> None:
        match message:
            case say.Connection(is_control, data, peer) if descriptor is not None:
                server = self._control if is_control else self._telling
                coming = self._group.create_task(server.let_in(socket.socket(fileno=descriptor), data, peer))
                self._coming.add(coming)
                coming.add_done_callback(self._coming.discard)
            case say.Situation():
                self._on_situation(message)
            case say.StartFailed(why):
                self._ordering.start_failed(why)
            case say.Ping():
                self.tell(say.Pong())
            case say.End(is_exit, status):
                if is_exit:
                    self._ordering.leaving(self._situation.state, status, self._situation.why)
                self._finish()
            case _:
                self._judge_of(message)

    def _judge_of(self, message: say.ToObserver) -> None:
        """Handle messages that concern the judge."""
        match message:
            case say.Attend(period, postmaster_pid):
                self._attend(period, postmaster_pid)
            case say.Confirm(period):
                self._period = period
                self._judge.confirm()
            case say.Adopt(settings):
                self._judge.adopt(settings)
                if self._is_watching and self._situation.state is State.AWAKE:
                    self._judge.look_now()
            case say.TryStart() if self._is_watching:
                self._judge.try_start()
            case say.Slept(why, seconds):
                self._judge.past_sleeps.record(why, seconds)

    def _answer_up_to(self, number: int) -> None:
        """Release the requests for the situation, up to this number: it is known now."""
        for one in [one for one in self._asking if one <= number]:
            asking = self._asking.pop(one)
            if not asking.done():
                asking.set_result(None)

    def _finish(self) -> None:
        self._is_ending = True
        self._answer_up_to(self._number)
        if not self.ended.done():
            self.ended.set_result(None)

    def _attend(self, period: int, postmaster_pid: int) -> None:
        self._period = period
        if self._noticing is None:
            self._noticing = self._group.create_task(self._notice())
        if postmaster_pid != self._watched:
            self._watched = postmaster_pid
            judge = self._judge
            self._looks.watch(
                make_watcher(
                    *(self._runtime, judge.settings, postmaster_pid),
                    lambda: ignores_statements(judge.settings),
                )
            )
            self._judge.begin()
        else:
            self._judge.resume()

    def _on_situation(self, now: Situation) -> None:
        before, self._situation = self._situation, now
        if before.state in SERVING and now.state is not before.state:
            if now.state not in SERVING:
                self._judge.pause(now.why, granted=now.state is State.STOPPING)
            elif before.state is State.DROWSY:
                self._judge.answer(False, f"not put to sleep: {now.why}")
        if now.state not in SERVING and self._watched is not None:
            self._watched = None
            self._looks.unwatch()
        self._ordering.entered(before.state, now.state, now.why, self._judge.settings.when_idle, now.number)
        self._answer_up_to(now.number)

    async def _notice(self) -> None:
        from pgidle.observer.changed_files import notice_changes

        files = self._runtime.files
        known = {f"{files.data_dir}/{name}": was for name, was in self._begun.postgres_files.items()}
        if files.settings_file:
            known[files.settings_file] = self._begun.settings_file

        def changed(paths: tuple[str, ...]) -> None:
            if files.settings_file in paths:
                self.tell(say.FilesChanged((), is_settings=True))
            names = tuple(sorted(path.rpartition("/")[2] for path in paths if path != files.settings_file))
            if self._is_watching:
                # At once: a last look that ends in the meantime must not count.
                self._judge.try_start()
            if names:
                self.tell(say.FilesChanged(names, is_settings=False))

        await notice_changes(known, changed)

    def _on_ended(self, ended: Ended) -> None:
        """A look, a checkpoint or a start trial has ended."""
        match ended:
            case Looked() if self._situation.state in SERVING:
                self._judge.looked(ended)
                self.tell(say.Looks(self._judge.looks, self._judge.looks_failed))
            case Checkpointed() if self._situation.state is State.AWAKE:
                self._judge.checkpointed(ended)
            case StartTried() if self._situation.state in SERVING:
                self._judge.start_tried(ended)

    def _on_judged(self, judgement: Judgement, why: str, at: float) -> None:
        self.tell(say.Judged(self._period, judgement, why, at))

    def _on_holds_changed(self, content: str) -> None:
        self.tell(say.HoldsChanged(content))

    def _on_hold_ended(self, number: int) -> None:
        self._notes.note("hold-ended", name=str(number))
        if self._watched is not None:
            self._judge.on_hold_changed()

    def _own_fault(self) -> str:
        """Why pgidle itself would not start again, where it exits to sleep; empty: it would."""
        is_exiting = self._judge.settings.when_idle is WhenIdle.EXIT
        return self._runtime.files.read().error if is_exiting else ""

    def _state(self) -> State:
        return self._situation.state

    def _want_wake(self, why: str) -> int:
        self._number += 1
        self.tell(say.WakeWanted(self._number, why))
        return self._number

    def _take(self, request: Requested) -> None:
        self._ordering.take(request, self._situation.state, self._situation.why, self._judge)

    def _look_for(self, reply: Any) -> None:
        if self._watched is not None and self._situation.state is State.AWAKE:
            self._judge.look_for(reply)
        else:
            reply()

    async def _report(self) -> Report:
        """The current report, after asking the supervisor for its situation."""
        if not self._is_ending:
            self._number += 1
            number = self._number
            asking = self._asking[number] = asyncio.get_running_loop().create_future()
            self.tell(say.SituationWanted(number))
            try:
                await asking
            finally:
                self._asking.pop(number, None)
        begun = self._begun
        return make_report(self._situation, self._judge, self._runtime, begun.supervisor_pid, begun.version)

    def _counted(self) -> Counted:
        """What the journal adds up to. Raises OSError."""
        state_dir = self._runtime.state_dir
        if self._totals is None:
            from pgidle.history.totals import Totals

            self._totals = Totals(state_dir.folder, self._begun.journal_clock)
        counted = self._totals.count(time.time())
        with contextlib.suppress(OSError):  # A full disk: then the next observer reads more of the journal.
            self._totals.keep(state_dir)
        return counted

    def _send(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._end.fileno())
        while self._unsent:
            try:
                self._end.send(self._unsent[0])
            except BlockingIOError:
                loop.add_writer(self._end.fileno(), self._send)
                return
            except OSError:
                self._finish()  # The supervisor has exited.
                return
            self._unsent.popleft()

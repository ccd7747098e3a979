"""The second thread: an asyncio loop with everything that talks, so that the supervisor never waits for it.

It looks at Postgres over SQL, serves HTTP, and notices changed files. Results go to the supervisor's inbox;
orders come in by the methods of `Backstage`, from any thread. What it needs is imported by the thread
itself, once it runs: those imports take longer than Postgres takes to start.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from pgidle.inbox import BackstageFailed
from pgidle.lean import import_lean

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pgidle.house import Doors, Files
    from pgidle.inbox import Inbox
    from pgidle.looks import Looks, Watching
    from pgidle.startable import StartQuestion
    from pgidle.status import Report


class Backstage(threading.Thread):
    """The thread. Every order but `stop` returns at once, and may be given before the thread is going."""

    def __init__(self, inbox: Inbox, report: Callable[[], Report], doors: Doors, files: Files) -> None:
        """`report` is called on this thread, whenever somebody asks over HTTP."""
        super().__init__(name="backstage", daemon=True)
        self._inbox = inbox
        self._report = report
        self._doors = doors
        self._files = files
        self._lock = threading.Lock()
        self._early: list[Callable[[Looks], object]] = []
        self._ready: tuple[asyncio.AbstractEventLoop, Looks] | None = None

    def watch(self, connect: Callable[[], Watching]) -> None:
        """Postgres is ready: from now on look at it through what `connect` makes, on this thread."""
        self._order(lambda looks: looks.watch(connect))

    def unwatch(self) -> None:
        """Postgres is about to stop: give up what is under way, and disconnect."""
        self._order(lambda looks: looks.unwatch())

    def disconnect(self) -> None:
        """No look is due for a while: be in nobody's way until then."""
        self._order(lambda looks: looks.disconnect())

    def look(self, ticket: int, deadline: float, *, may_connect: bool = True) -> None:
        """Have one look within `deadline` seconds. Answered by one `Looked`, whatever happens."""
        self._order(lambda looks: looks.look(ticket, deadline, may_connect=may_connect))

    def checkpoint(self, timeout: float) -> None:
        """Have a checkpoint within `timeout` seconds. Answered by one `Checkpointed`, whatever happens."""
        self._order(lambda looks: looks.checkpoint(timeout))

    def try_start(self, ticket: int, question: StartQuestion) -> None:
        """Have it tried whether Postgres would start now. Answered by one `StartTried`, whatever happens."""
        self._order(lambda looks: looks.try_start(ticket, question))

    def stop(self, timeout: float) -> bool:
        """Close everything and end the thread; False if it has not ended after `timeout` seconds."""
        self._order(lambda looks: looks.ended.set())
        self.join(timeout)
        return not self.is_alive()

    def run(self) -> None:
        try:
            import_lean()
            import asyncio

            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - whatever ended it, the supervisor must hear that it ended
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self._inbox.post(BackstageFailed(f"{type(error).__name__}: {error}"))

    def _order(self, order: Callable[[Looks], object]) -> None:
        with self._lock:
            if self._ready is None:
                self._early.append(order)
                return
            loop, looks = self._ready
        # The loop is closed when the thread has ended, which the supervisor knows or is about to read.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(order, looks)

    async def _serve(self) -> None:
        import asyncio

        from pgidle.door import Door
        from pgidle.looks import Looks
        from pgidle.meter import Meter
        from pgidle.reload import notice_changes
        from pgidle.web import Application

        meter = Meter()
        telling = Application(self._report, meter)
        ordering = Application(self._report, meter, self._inbox)
        doors = [Door(telling.answer, _taken_over(listener)) for listener in self._doors.tcp]
        doors.append(Door(ordering.answer, _taken_over(self._doors.control), (0, os.geteuid())))
        async with asyncio.TaskGroup() as group:
            looks = Looks(self._inbox, group)
            try:
                for door in doors:
                    await door.open()
                noticing = group.create_task(notice_changes(self._files, self._inbox))
                self._begin(looks)
                await looks.ended.wait()
                noticing.cancel()
                looks.unwatch()
            finally:
                for door in doors:
                    await door.close()

    def _begin(self, looks: Looks) -> None:
        """Carry out what was ordered before, and take orders directly from now on."""
        import asyncio

        with self._lock:
            loop = asyncio.get_running_loop()
            self._ready = (loop, looks)
            for order in self._early:
                loop.call_soon(order, looks)


def _taken_over(listener: socket.socket) -> socket.socket:
    """A socket of `pgidle.light` as asyncio needs it."""
    return socket.socket(fileno=listener.detach())

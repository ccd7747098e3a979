"""Looks at Postgres, checkpoints and start trials, one at a time: each is answered, however it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pgidle.idle.snapshot import LookFailed
from pgidle.idle.start_result import Startable, StartResult
from pgidle.observer.lean_imports import collect_garbage
from pgidle.observer.results import Checkpointed, Looked, StartTried
from pgidle.postgres.start_trial import try_start

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pgidle.idle.snapshot import Snapshot
    from pgidle.idle.start_result import StartQuestion
    from pgidle.observer.results import Ended

# Seconds that the watcher gets on top of its own limit, so that it can report itself what took so long.
GRACE = 1.0
GIVEN_UP = "cancelled, as Postgres is stopping"

T = TypeVar("T")


class Watching(Protocol):
    """What a watcher of one running Postgres offers. Times are seconds."""

    async def look(self, deadline: float, /, *, may_connect: bool = True) -> Snapshot | LookFailed: ...

    async def checkpoint(self, deadline: float, /) -> Checkpointed: ...

    async def close(self) -> None:
        """Disconnect until the next look."""

    async def end(self) -> None:
        """Disconnect for good."""


class Looks:
    """Belongs to the loop's thread. A bug in a watcher (an exception) ends the task group."""

    def __init__(self, ended: Callable[[Ended], None], group: asyncio.TaskGroup) -> None:
        """`ended` is called with each result, on the loop."""
        self._ended = ended
        self._group = group
        self._turn = asyncio.Lock()
        self._trial = asyncio.Lock()
        self._latest_trial = 0
        """Ticket: earlier trials that still wait are skipped."""
        self._under_way: set[asyncio.Task[Any]] = set()
        self._watching: Watching | None = None

    def watch(self, connect: Callable[[], Watching]) -> None:
        """Look through the watcher that `connect` makes, in place of the one before."""
        self.unwatch()
        self._start(self._open(connect), lambda _: None)

    def unwatch(self) -> None:
        """Cancel what is under way, and close the connection."""
        for task in self._under_way:
            task.cancel()
        self._group.create_task(self._close())

    def disconnect(self) -> None:
        """Close the connection until the next look."""
        self._start(self._disconnect(), lambda _: None)

    def look(self, ticket: int, deadline: float, *, may_connect: bool = True) -> None:
        def answer(seen: Snapshot | LookFailed | None) -> None:
            self._ended(Looked(ticket, seen or LookFailed(GIVEN_UP)))

        self._start(self._look(deadline, may_connect), answer)

    def checkpoint(self, deadline: float) -> None:
        def answer(ended: Checkpointed | None) -> None:
            self._ended(ended or Checkpointed(GIVEN_UP))

        self._start(self._checkpoint(deadline), answer)

    def try_start(self, ticket: int, question: StartQuestion) -> None:
        def answer(found: StartResult | None) -> None:
            self._ended(StartTried(ticket, found or StartResult(Startable.UNKNOWN, GIVEN_UP)))

        self._latest_trial = ticket
        self._start(self._try_start(ticket, question), answer)

    def _start(self, order: Coroutine[None, None, T], answer: Callable[[T | None], None]) -> None:
        """Run a coroutine, then call `answer` with its result; None: it was cancelled, perhaps before it began."""

        def done(task: asyncio.Task[T]) -> None:
            self._under_way.discard(task)
            if task.cancelled():
                answer(None)
            elif not task.exception():
                answer(task.result())

        task = self._group.create_task(order)
        self._under_way.add(task)
        task.add_done_callback(done)

    async def _open(self, connect: Callable[[], Watching]) -> None:
        async with self._turn:
            self._watching = connect()

    async def _close(self) -> None:
        async with self._turn:
            watching, self._watching = self._watching, None
            if watching:
                await watching.end()
                # After all of this has been released; and while Postgres stops, nobody waits for us.
                asyncio.get_running_loop().call_soon(collect_garbage)

    async def _disconnect(self) -> None:
        async with self._turn:
            if self._watching is not None:
                await self._watching.close()

    async def _look(self, deadline: float, may_connect: bool) -> Snapshot | LookFailed:
        try:
            async with asyncio.timeout(deadline + GRACE), self._turn:
                if self._watching is None:
                    return LookFailed("no watcher is running")
                return await self._watching.look(deadline, may_connect=may_connect)
        except TimeoutError:
            return LookFailed(f"timed out after {deadline:g} s")

    async def _try_start(self, ticket: int, question: StartQuestion) -> StartResult:
        async with self._trial:
            if ticket != self._latest_trial:
                return StartResult(Startable.UNKNOWN, "superseded by a newer trial")
            return await try_start(question)

    async def _checkpoint(self, deadline: float) -> Checkpointed:
        try:
            async with asyncio.timeout(deadline + GRACE), self._turn:
                if self._watching is None:
                    return Checkpointed("no watcher is running")
                return await self._watching.checkpoint(deadline)
        except TimeoutError:
            return Checkpointed(f"timed out after {deadline:g} s")

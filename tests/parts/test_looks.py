"""One look at a time, every order answered, and no end of it unnoticed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from pgidle.base.record import replace
from pgidle.idle.snapshot import LookFailed, Snapshot
from pgidle.idle.start_result import Startable, StartQuestion, StartResult
from pgidle.observer import looks
from pgidle.observer.looks import Looks
from pgidle.observer.results import Checkpointed, Ended, Looked, StartTried

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PATIENCE = 20.0


class Watcher:
    """Looks at nothing, for as long as the test says: `go` lets one order end."""

    def __init__(self) -> None:
        self.go = asyncio.Semaphore(0)
        self.began = asyncio.Semaphore(0)
        self.closed = asyncio.Event()
        self.at_once = 0
        self.overlapped = False
        self.fault: Exception | None = None

    async def look(self, _deadline: float, /, *, may_connect: bool = True) -> Snapshot | LookFailed:
        await self._take_time()
        return Snapshot(at=0.0, server_version=180000)

    async def checkpoint(self, _deadline: float, /) -> Checkpointed:
        await self._take_time()
        return Checkpointed(None)

    async def close(self) -> None: ...

    async def end(self) -> None:
        self.closed.set()

    async def _take_time(self) -> None:
        self.at_once += 1
        self.overlapped |= self.at_once > 1
        self.began.release()
        try:
            if self.fault:
                raise self.fault
            await self.go.acquire()
        finally:
            self.at_once -= 1


class Scene:
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._ended: asyncio.Queue[Ended] = asyncio.Queue()
        self.looks = Looks(self._ended.put_nowait, group)

    async def receive(self) -> Ended:
        async with asyncio.timeout(PATIENCE):
            return await self._ended.get()


def play(act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            scene = Scene(group)
            await act(scene)
            scene.looks.unwatch()

    asyncio.run(run())


def test_a_watcher_leaves_no_garbage() -> None:
    """Python would collect it in the end, and keep the memory."""

    async def act(scene: Scene) -> None:
        gone = asyncio.Event()
        made = asyncio.Event()

        def connect() -> Watcher:
            watcher = Watcher()
            watcher.fault = ValueError()
            watcher.fault.args = (watcher,)
            weakref.finalize(watcher, gone.set)
            made.set()
            return watcher

        scene.looks.watch(connect)
        await made.wait()
        scene.looks.unwatch()
        async with asyncio.timeout(PATIENCE):
            await gone.wait()

    gc.disable()
    try:
        play(act)
    finally:
        gc.enable()


def test_orders_never_overlap_and_are_answered_in_turn() -> None:
    async def act(scene: Scene) -> None:
        watcher = Watcher()
        scene.looks.watch(lambda: watcher)
        scene.looks.look(1, PATIENCE)
        scene.looks.checkpoint(PATIENCE)
        scene.looks.look(2, PATIENCE)
        await watcher.began.acquire()
        for _ in range(3):
            watcher.go.release()
        first, second, third = [await scene.receive() for _ in range(3)]
        assert isinstance(first, Looked)
        assert second == Checkpointed(None)
        assert isinstance(third, Looked)
        assert (first.ticket, third.ticket) == (1, 2)
        assert not watcher.overlapped

    play(act)


def test_without_a_postgres_every_order_is_answered_with_a_failure() -> None:
    async def act(scene: Scene) -> None:
        scene.looks.look(1, PATIENCE)
        scene.looks.checkpoint(PATIENCE)
        assert await scene.receive() == Looked(1, LookFailed("no watcher is running"))
        assert await scene.receive() == Checkpointed("no watcher is running")

    play(act)


def test_when_postgres_stops_what_is_under_way_and_what_waits_is_given_up() -> None:
    async def act(scene: Scene) -> None:
        watcher = Watcher()
        scene.looks.watch(lambda: watcher)
        scene.looks.look(1, PATIENCE)
        await watcher.began.acquire()
        scene.looks.look(2, PATIENCE)
        scene.looks.checkpoint(PATIENCE)
        scene.looks.unwatch()
        answers = [await scene.receive() for _ in range(3)]
        assert Looked(1, LookFailed(looks.GIVEN_UP)) in answers
        assert Looked(2, LookFailed(looks.GIVEN_UP)) in answers
        assert Checkpointed(looks.GIVEN_UP) in answers
        await watcher.closed.wait()

    play(act)


def test_a_new_postgres_is_watched_by_a_new_watcher() -> None:
    async def act(scene: Scene) -> None:
        old, new = Watcher(), Watcher()
        scene.looks.watch(lambda: old)
        scene.looks.look(1, PATIENCE)
        await old.began.acquire()
        scene.looks.watch(lambda: new)
        scene.looks.look(2, PATIENCE)
        new.go.release()
        assert await scene.receive() == Looked(1, LookFailed(looks.GIVEN_UP))
        seen = await scene.receive()
        assert isinstance(seen, Looked)
        assert isinstance(seen.look, Snapshot)
        assert old.closed.is_set()

    play(act)


def test_a_look_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "GRACE", 0.01)

    async def act(scene: Scene) -> None:
        watcher = Watcher()
        scene.looks.watch(lambda: watcher)
        scene.looks.look(1, 0.01)
        scene.looks.checkpoint(0.01)
        assert await scene.receive() == Looked(1, LookFailed("timed out after 0.01 s"))
        assert await scene.receive() == Checkpointed("timed out after 0.01 s")

    play(act)


def test_a_fault_of_a_watcher_ends_all() -> None:
    async def act(scene: Scene) -> None:
        watcher = Watcher()
        watcher.fault = RuntimeError("out of order")
        scene.looks.watch(lambda: watcher)
        scene.looks.look(1, PATIENCE)
        await scene.receive()

    with pytest.raises(ExceptionGroup) as ended:
        play(act)
    assert ended.group_contains(RuntimeError, match="out of order")


def test_of_start_trials_that_wait_only_the_last_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    async def act(scene: Scene) -> None:
        go, began = asyncio.Event(), asyncio.Event()

        async def try_start(question: StartQuestion) -> StartResult:
            tried.append(question.version)
            began.set()
            await go.wait()
            return StartResult(Startable.YES)

        monkeypatch.setattr(looks, "try_start", try_start)
        question = StartQuestion((), 0, "", "", {})
        scene.looks.try_start(1, replace(question, version=1))
        await began.wait()
        for ticket in (2, 3, 4):
            scene.looks.try_start(ticket, replace(question, version=ticket))
        # In turn: the three are waiting by the time that this is answered.
        scene.looks.look(9, PATIENCE)
        assert isinstance(await scene.receive(), Looked)
        go.set()
        answers = [await scene.receive() for _ in range(4)]
        assert [one.ticket for one in answers if isinstance(one, StartTried)] == [1, 2, 3, 4]

    play(act)
    assert tried == [1, 4]

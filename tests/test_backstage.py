"""The second thread: one look at a time, every order answered, and no end of it unnoticed."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING

import pytest
from backstaged import PATIENCE, Backstaged

from pgidle import looks
from pgidle.inbox import BackstageFailed, Checkpointed, Looked, StartTried
from pgidle.record import replace
from pgidle.snapshot import LookFailed, Snapshot
from pgidle.startable import Startable, StartQuestion, StartResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Watcher:
    """Looks at nothing, for as long as the test says: `go` lets one order end."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.closed = threading.Event()
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
            while not self.go.acquire(blocking=False):  # noqa: ASYNC110 - the test lets it go, in its own thread
                await asyncio.sleep(0.001)
        finally:
            self.at_once -= 1


@pytest.fixture
def backstaged(tmp_path: Path) -> Iterator[Backstaged]:
    with Backstaged(tmp_path) as made:
        yield made


def test_orders_from_before_the_start_are_carried_out(tmp_path: Path) -> None:
    made, watcher = Backstaged(tmp_path), Watcher()
    watcher.go.release()
    made.backstage.watch(lambda: watcher)
    made.backstage.look(7, PATIENCE)
    with made:
        seen = made.mail.receive()
    assert isinstance(seen, Looked)
    assert seen.ticket == 7
    assert isinstance(seen.look, Snapshot)
    assert watcher.closed.is_set()


def test_a_watcher_leaves_no_garbage(backstaged: Backstaged) -> None:
    """Python would collect it in the end, and keep the memory: thousands of sleeps must take no more than ten."""
    made, gone = threading.Event(), threading.Event()

    def connect() -> Watcher:
        watcher = Watcher()
        watcher.fault = ValueError()
        watcher.fault.args = (watcher,)
        made.set()
        weakref.finalize(watcher, gone.set)
        return watcher

    gc.disable()
    try:
        backstaged.backstage.watch(connect)
        assert made.wait(PATIENCE)
        backstaged.backstage.unwatch()
        assert gone.wait(PATIENCE)
    finally:
        gc.enable()


def test_orders_never_overlap_and_are_answered_in_turn(backstaged: Backstaged) -> None:
    watcher = Watcher()
    backstaged.backstage.watch(lambda: watcher)
    backstaged.backstage.look(1, PATIENCE)
    backstaged.backstage.checkpoint(PATIENCE)
    backstaged.backstage.look(2, PATIENCE)
    assert backstaged.ask("/health")
    watcher.go.release(3)
    first, second, third = (backstaged.mail.receive() for _ in range(3))
    assert isinstance(first, Looked)
    assert second == Checkpointed(None)
    assert isinstance(third, Looked)
    assert (first.ticket, third.ticket) == (1, 2)
    assert not watcher.overlapped


def test_without_a_postgres_every_order_is_answered_with_a_failure(backstaged: Backstaged) -> None:
    backstaged.backstage.look(1, PATIENCE)
    backstaged.backstage.checkpoint(PATIENCE)
    assert backstaged.mail.receive() == Looked(1, LookFailed("nothing watches Postgres"))
    assert backstaged.mail.receive() == Checkpointed("nothing watches Postgres")


def test_when_postgres_stops_what_is_under_way_and_what_waits_is_given_up(backstaged: Backstaged) -> None:
    watcher = Watcher()
    backstaged.backstage.watch(lambda: watcher)
    backstaged.backstage.look(1, PATIENCE)
    assert watcher.began.acquire(timeout=PATIENCE)
    backstaged.backstage.look(2, PATIENCE)
    backstaged.backstage.checkpoint(PATIENCE)
    backstaged.backstage.unwatch()
    answers = [backstaged.mail.receive() for _ in range(3)]
    assert Looked(1, LookFailed(looks.GIVEN_UP)) in answers
    assert Looked(2, LookFailed(looks.GIVEN_UP)) in answers
    assert Checkpointed(looks.GIVEN_UP) in answers
    assert watcher.closed.wait(PATIENCE)


def test_a_new_postgres_is_watched_by_a_new_watcher(backstaged: Backstaged) -> None:
    old, new = Watcher(), Watcher()
    backstaged.backstage.watch(lambda: old)
    backstaged.backstage.look(1, PATIENCE)
    assert old.began.acquire(timeout=PATIENCE)
    backstaged.backstage.watch(lambda: new)
    backstaged.backstage.look(2, PATIENCE)
    new.go.release()
    assert backstaged.mail.receive() == Looked(1, LookFailed(looks.GIVEN_UP))
    seen = backstaged.mail.receive()
    assert isinstance(seen, Looked)
    assert isinstance(seen.look, Snapshot)
    assert old.closed.is_set()


def test_a_look_that_hangs_is_ended(backstaged: Backstaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "GRACE", 0.01)
    watcher = Watcher()
    backstaged.backstage.watch(lambda: watcher)
    backstaged.backstage.look(1, 0.01)
    backstaged.backstage.checkpoint(0.01)
    assert backstaged.mail.receive() == Looked(1, LookFailed("it took longer than 0.01 s"))
    assert backstaged.mail.receive() == Checkpointed("it took longer than 0.01 s")


def _look_at_fault(made: Backstaged) -> None:
    watcher = Watcher()
    watcher.fault = RuntimeError("out of order")
    made.backstage.watch(lambda: watcher)
    made.backstage.look(1, PATIENCE)


def _connect_at_fault(made: Backstaged) -> None:
    def connect() -> Watcher:
        raise RuntimeError("out of order")

    made.backstage.watch(connect)


@pytest.mark.parametrize("fault", [_look_at_fault, _connect_at_fault])
def test_a_fault_of_the_thread_is_told(backstaged: Backstaged, fault: Callable[[Backstaged], None]) -> None:
    fault(backstaged)
    assert backstaged.mail.receive() == BackstageFailed("RuntimeError: out of order")
    backstaged.backstage.join(PATIENCE)
    assert not backstaged.backstage.is_alive()
    backstaged.backstage.look(2, PATIENCE)


def test_the_thread_imports_what_it_needs_and_not_the_caller() -> None:
    heavy = {"asyncio", "h11", "psutil", "watchfiles"}
    code = f"import sys, pgidle.backstage; print(*({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_of_start_trials_that_wait_only_the_last_is_run(
    backstaged: Backstaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, began = threading.Event(), threading.Semaphore(0)
    tried: list[int] = []

    async def try_start(question: StartQuestion) -> StartResult:
        tried.append(question.version)
        began.release()
        while not go.is_set():  # noqa: ASYNC110 - the test lets it go, in its own thread
            await asyncio.sleep(0.001)
        return StartResult(Startable.YES)

    monkeypatch.setattr(looks, "try_start", try_start)
    question = StartQuestion((), 0, "", "", {})
    backstaged.backstage.try_start(1, replace(question, version=1))
    assert began.acquire(timeout=PATIENCE)
    for ticket in (2, 3, 4):
        backstaged.backstage.try_start(ticket, replace(question, version=ticket))
    # In turn: the three are waiting by the time that this is answered.
    backstaged.backstage.look(9, PATIENCE)
    assert isinstance(backstaged.mail.receive(), Looked)
    go.set()
    answers = [backstaged.mail.receive() for _ in range(4)]
    assert [one.ticket for one in answers if isinstance(one, StartTried)] == [1, 2, 3, 4]
    assert tried == [1, 4]

"""Clients that connect at random instants, each for one short session, and what went wrong with them."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from bench import wire

if TYPE_CHECKING:
    from types import TracebackType


class Visitors:
    """So many at a time, each at most `pause` seconds after its last session, at random. `with` ends them.

    With a `lull`, nobody comes now and then for up to so many seconds, and they all do for up to as many.

    A connection counts as failed when it got no row, for whatever reason; `failed` counts by reason.
    """

    def __init__(
        self, port: int, *, workers: int = 8, pause: float = 0.4, lull: float = 0.0, seed: int = 1
    ) -> None:
        self.came = threading.Event()
        """Set whenever one is about to connect."""
        self.served = 0
        self.failed: Counter[str] = Counter()
        self.longest = 0.0
        """Seconds that a client that was served waited at most."""
        self._port, self._pause = port, pause
        self._ending, self._tide = threading.Event(), threading.Event()
        self._tide.set()
        self._lock = threading.Lock()
        chances = [random.Random(f"{seed} {worker}") for worker in range(workers)]
        self._threads = [
            threading.Thread(target=self._come, args=(worker, chance), daemon=True)
            for worker, chance in enumerate(chances)
        ]
        if lull:
            turn = threading.Thread(target=self._turn, args=(lull, random.Random(seed)), daemon=True)
            self._threads.append(turn)

    @property
    def tried(self) -> int:
        return self.served + self.failed.total()

    def __enter__(self) -> Visitors:
        for one in self._threads:
            one.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for one in self._threads:
            one.join()

    def _turn(self, lull: float, chance: random.Random) -> None:
        while not self._ending.wait(chance.uniform(0, lull)):
            self._tide.clear()
            self._ending.wait(chance.uniform(0, lull))
            self._tide.set()

    def _come(self, worker: int, chance: random.Random) -> None:
        # Ports of one address would run out: each connection leaves one waiting for a minute (TIME_WAIT).
        source = f"127.0.1.{worker + 1}"
        while not self._ending.wait(chance.uniform(0, self._pause)):
            self._tide.wait()
            self.came.set()
            began = time.monotonic()
            try:
                wire.ask(self._port, source=source)
            except (OSError, wire.RefusedError) as problem:
                with self._lock:
                    self.failed[reason(problem)] += 1
            else:
                with self._lock:
                    self.served += 1
                    self.longest = max(self.longest, time.monotonic() - began)


def reason(problem: OSError | wire.RefusedError) -> str:
    """In few words, the same for all that failed alike."""
    if isinstance(problem, wire.RefusedError):
        return str(problem)
    if isinstance(problem, TimeoutError):
        return f"no answer in {wire.PATIENCE:g} s"
    return errno.errorcode.get(problem.errno or 0, type(problem).__name__)

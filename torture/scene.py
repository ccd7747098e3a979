"""What a fault script works with: the machine, its platform, a random generator, and the record of what it did."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING, Any

from pgidle.base.errors import PgidleError
from pgidle.control.client import request
from torture.record import Allowance, Window

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterator

    from torture.machine import Keeper, Machine, Proxy
    from torture.record import Round
    from torture.scenario import Crowd
    from torture.volume import Volume

MOMENTS = ("drowsy", "stopping", "asleep", "starting", "terminating", "leaving", "awake")
"""States in which a fault may come just then."""

LOCAL_PROBE = "local probe"

POLL = 0.003
"""Seconds between two looks at other processes."""

MOMENT = 1.0
"""Seconds to wait for such a state: it may not come."""

LOG_LAG = 0.1
"""Seconds by which a line of the log may be read late. The gate opens after it says so."""

ANSWER = 90.0
"""Seconds in which an order is answered: a sleep is decided by a checkpoint, a minute at most, and looks."""

RECOVERY = 60.0
"""Seconds in which a client must be served again after any fault."""


OBSERVER = "pgidle-observer"


@dataclass(slots=True)
class Scene:
    """One round, for whoever breaks it."""

    machine: Machine
    platform: Keeper | Proxy
    volume: Volume
    crowd: Crowd
    happened: Round
    chance: random.Random

    @asynccontextmanager
    async def window(self, fault: str, allowance: Allowance) -> AsyncIterator[Window]:
        """A fault is at work inside the block, and until a newcomer is served, or we are interrupted."""
        one = Window(fault, allowance, time.monotonic())
        self.happened.windows.append(one)
        try:
            yield one
        finally:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                await self.recovered()
            one.ended = time.monotonic()

    async def moment(self) -> None:
        """Any moment, or the first in which pgidle is in some state, or a little later."""
        if self.chance.random() < 0.4:
            return
        wanted = self.chance.choice(MOMENTS)
        since = len(self.machine.state_times(wanted))
        await until(lambda: len(self.machine.state_times(wanted)) > since, MOMENT)
        await asyncio.sleep(self.chance.choice((0, 0, 0.005, 0.03)))

    async def recovered(self) -> None:
        """Wait until new clients are served, the second over the Unix socket; a violation if that does not come."""
        deadline = time.monotonic() + RECOVERY
        while time.monotonic() < deadline:
            async with self.crowd.session("probe") as one:
                if one and await one.run("SELECT 1"):
                    async with self.crowd.session(LOCAL_PROBE) as other:
                        if other and await other.run("SELECT 1"):
                            return
            await asyncio.sleep(0.05)
        self.happened.violations.append(f"nobody was served for {RECOVERY:g} s after a fault")

    async def awake(self) -> int:
        """The pid of a living postmaster, woken if it sleeps."""
        while True:
            if (pid := self.machine.postmaster_pid) is not None:
                return pid
            await self.recovered()

    def children(self, pid: int) -> dict[int, str]:
        """Titles of a postmaster's processes."""
        found = {}
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                with contextlib.suppress(OSError):
                    title = Path(f"/proc/{child}/cmdline").read_bytes()
                    found[int(child)] = title.replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    async def child(self, title: str) -> int | None:
        """One process of Postgres's with this in its title, by chance."""
        found = sorted(pid for pid, seen in self.children(await self.awake()).items() if title in seen)
        return self.chance.choice(found) if found else None

    async def observer(self) -> int | None:
        """The supervisor's process that looks at Postgres, which is there some time after a wake."""
        await self.awake()
        found = None

        def is_there() -> bool:
            nonlocal found
            found = next((pid for pid in self.children(self.machine.pid) if _comm(pid) == OBSERVER), None)
            return found is not None

        await until(is_there, 1.0)
        return found

    async def ask(self, path: str) -> tuple[int, Any] | None:
        """Order something through the control socket; None if nobody is there to take it."""
        state_dir = str(self.machine.data_dir / "pgidle")
        try:
            return await asyncio.to_thread(request, state_dir, "POST", path, ANSWER)
        except (PgidleError, OSError):
            return None

    async def locker(self, relation: str, seconds: float) -> bool:
        """Hold a lock so long; False if it could not be taken. Whoever cuts the session has put somebody to sleep."""
        async with self.crowd.session("locker") as one:
            if one is None or not await one.run("BEGIN"):
                return False
            one.hold()
            if not await one.run(f"LOCK {relation} IN ACCESS EXCLUSIVE MODE"):
                return False
            return await one.rest(seconds)

    def felt(self, one: Window) -> None:
        """Note when pgidle said that it has lost Postgres, and whether newcomers were kept waiting before."""
        changes = self.machine.changes()
        one.felt = min((at for at, state in changes if state == "starting" and at >= one.began), default=None)
        for at, state in changes:
            if at > one.began + LOG_LAG:
                break
            if state == "awake":
                one.parks_since = None
            elif one.parks_since is None and at <= one.began:
                one.parks_since = at


async def until(is_so: Callable[[], bool], seconds: float = float("inf")) -> bool:
    """Whether what nothing tells about came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL)
    return True


def send(pid: int, number: int) -> None:
    """A signal, to whoever still lives."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Held with SIGSTOP inside the block."""
    for pid in pids:
        send(pid, SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            send(pid, SIGCONT)


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""

"""The faults, and what each excuses. `FAULTS`, and for one of them `ASKED`, list every failure of a client and every
exit status that is excused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torture.judging import UNCAUGHT
from torture.record import Allowance, Cuts
from torture.scene import frozen, send, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from torture.scene import Scene

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
FILL = "INSERT INTO filler SELECT md5(i::text) FROM generate_series(1, 100000) i"
FILLER = ("CREATE TABLE IF NOT EXISTS filler (text text)", "TRUNCATE filler")
STOPS = UNCAUGHT | {0}

NAP = 20.0
"""Seconds in which a lull must have come that is long enough for a sleep."""

# Of a Postgres that is no more nobody is accepted; one of whose processes died accepts until it has noticed that, and
# then ends every session, those too that have yet to be authenticated.
KILLED = Allowance(cuts=Cuts.ALL, in_flight=True, crashes=True)
CRASH = replace(KILLED, late=4)

# Orders through the control socket. None of them excuses that a newcomer fails.
ASKED = {
    "/sleep": Allowance(cuts=Cuts.IDLE),
    "/sleep?force=1": Allowance(cuts=Cuts.ALL),
    "/wake": Allowance(),
}


class NotNow(Exception):
    """What a fault is for was not there: it was not injected."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`inject` returns when the fault is over, or raises NotNow. `most`: injections in a round, since pgidle, unless it
    stays, gives up on a Postgres that crashes five times in a minute. `missing`: what this machine lacks for it."""

    inject: Callable[[Scene, Fault], Awaitable[None]]
    allowance: Allowance
    most: int = 1000
    missing: str | None = None

    @property
    def name(self) -> str:
        return next(name for name, one in FAULTS.items() if one is self)


async def _nothing(scene: Scene, _: Fault) -> None:
    """Only sleeps and wakes, of which one has to come."""
    before = len(scene.machine.state_times("asleep"))
    if not await until(lambda: len(scene.machine.state_times("asleep")) > before, NAP):
        scene.happened.violations.append(f"no sleep in {NAP:g} s, though nobody did anything to it")
    await scene.recovered()


async def _kill_postmaster(scene: Scene, fault: Fault) -> None:
    """At any time: serving, or in the first moments of a start."""
    pid = await scene.awake()
    if scene.chance.random() < 0.4:
        async with scene.window("sleep", ASKED["/sleep?force=1"]):
            await scene.ask("/sleep?force=1")
        pid = await scene.awake()
        await asyncio.sleep(scene.chance.uniform(0, 0.1))
    async with scene.window(fault.name, fault.allowance) as window:
        send(pid, signal.SIGKILL)
        await _noticed(scene, pid)
    scene.felt(window)


async def _noticed(scene: Scene, pid: int) -> None:
    """Wait until a postmaster is gone."""
    await until(lambda: scene.machine.postmaster_pid != pid)


async def _kill_child(title: str, scene: Scene, fault: Fault) -> None:
    postmaster = await scene.awake()
    if (pid := await scene.child(title)) is None:
        raise NotNow
    async with scene.window(fault.name, fault.allowance) as window:
        send(pid, signal.SIGKILL)
        await _noticed(scene, postmaster)
    scene.felt(window)


async def _kill_supervisor(scene: Scene, fault: Fault) -> None:
    await _listening(scene)
    async with scene.window(fault.name, fault.allowance):
        pid = scene.machine.pid
        scene.machine.killed_at = time.monotonic()
        send(pid, signal.SIGKILL)
        await _replaced(scene, pid)


async def _listening(scene: Scene) -> None:
    """A supervisor that has said that it runs."""
    while not (scene.machine.running and scene.machine.has_spoken):
        await scene.recovered()


async def _replaced(scene: Scene, pid: int) -> None:
    """Wait until a supervisor was reaped."""
    await until(lambda: not scene.machine.running or scene.machine.pid != pid)
    await asyncio.sleep(0.05)


async def _storm(numbers: tuple[signal.Signals, ...], scene: Scene, fault: Fault) -> None:
    await _listening(scene)
    pid = scene.machine.pid
    stops = [number for number in numbers if number is not signal.SIGHUP]
    async with scene.window(fault.name, fault.allowance) as window:
        storm = [scene.chance.choice(numbers) for _ in range(scene.chance.randint(1, 30))]
        for number in storm + stops[:1]:
            if scene.machine.pid == pid and scene.machine.running:
                scene.machine.signal(number)
            await asyncio.sleep(scene.chance.choice((0, 0, 0.001, 0.02)))
        if stops and not await until(lambda: scene.machine.pid != pid or not scene.machine.running, 20.0):
            scene.happened.violations.append("it did not end within 20 s of a stop signal")
    # Whom Postgres had taken by then may be ended before it is authenticated; who comes later may not. An immediate
    # shutdown waits for nobody.
    ends = [at for at, what in scene.machine.changes() if what in ENDING and at >= window.began]
    kills = [at for at in scene.machine.immediate_stops() if at >= window.began]
    window.felt = max((*kills[:1], *ends[:1]), default=None)


async def _sleep(scene: Scene, fault: Fault) -> None:
    """`pgidle sleep`, forced or not, and `pgidle wake`."""
    await scene.awake()
    path = scene.chance.choice(("/sleep", "/sleep?force=1", "/sleep?force=1", "/wake"))
    async with scene.window(fault.name, ASKED[path]):
        if await scene.ask(path) is None:
            raise NotNow


async def _hold(scene: Scene, fault: Fault) -> None:
    """While it is held, nothing goes to sleep."""
    await scene.awake()
    async with scene.window(fault.name, fault.allowance):
        answer = await scene.ask("/hold?seconds=30&why=torture")
        pid = scene.machine.pid
        if answer is None or answer[0] != 200:
            raise NotNow
        held = time.monotonic()
        await asyncio.sleep(scene.chance.uniform(0.2, 1.5))
        released = time.monotonic()
        if await scene.ask("/release") is None:
            # The next supervisor holds on.
            await scene.awake()
            await scene.ask("/release")
        slept = [at for at in scene.machine.state_times("asleep") if held + 0.5 < at < released]
        if slept and scene.machine.pid == pid:
            scene.happened.violations.append(f"it went to sleep at {slept[0]:.3f}, held since {held:.3f}")


async def _edit(scene: Scene, fault: Fault) -> None:
    """Files that are right, changed while they are watched."""
    async with scene.window(fault.name, fault.allowance):
        match scene.chance.randint(0, 2):
            case 0:
                scene.volume.configure(scene.happened.idle_timeout * scene.chance.choice((1, 1, 2)))
            case 1:
                scene.volume.append("postgresql.conf", f"work_mem = {scene.chance.randint(1, 9)}MB")
            case _:
                scene.volume.append("pg_hba.conf", "host all nobody 192.0.2.1/32 reject")
        await asyncio.sleep(scene.chance.uniform(0, 0.4))


async def _break(scene: Scene, fault: Fault) -> None:
    """Files that are wrong for a while. Who starts with them has to say so and end with 1 or 2."""
    async with scene.window(fault.name, fault.allowance):
        name = scene.chance.choice(("pgidle.toml", "postgresql.conf", "pg_hba.conf"))
        with scene.volume.broken(name):
            await asyncio.sleep(scene.chance.uniform(0.2, 1.5))


async def _disk_full(scene: Scene, fault: Fault) -> None:
    async with scene.window(fault.name, fault.allowance) as window:
        # One session: if Postgres sleeps by then, it cannot wake before there is room, and who connects waits for that.
        async with scene.crowd.session("filler") as one:
            is_there = one is not None and all([await one.run(statement) for statement in FILLER])
            with scene.volume.filled():
                # More than the free part of a WAL segment.
                if one is not None and is_there:
                    await one.run(FILL)
                await asyncio.sleep(scene.chance.uniform(0, 2.0))
        window.lifted = time.monotonic()


async def _hang_watch(scene: Scene, fault: Fault) -> None:
    """A lock on what the look reads, or the watching session's backend stopped; looks are given up after 5 s."""
    seconds = scene.chance.choice((0.5, 1.0, 6.0))
    async with scene.window(fault.name, fault.allowance):
        if scene.chance.random() < 0.6:
            await scene.locker(scene.chance.choice(("pg_authid", "pg_database")), seconds)
        elif (pid := await scene.child("[local]")) is not None:
            with frozen([pid]):
                await asyncio.sleep(seconds)
        else:
            raise NotNow


async def _stop_backend(scene: Scene, fault: Fault) -> None:
    if (pid := await scene.child("127.0.0.1")) is None:
        raise NotNow
    async with scene.window(fault.name, fault.allowance):
        with frozen([pid]):
            await asyncio.sleep(scene.chance.uniform(0.2, 3.0))


async def _stop_postgres(scene: Scene, fault: Fault) -> None:
    """The postmaster alone, or all of Postgres."""
    pid = await scene.awake()
    pids = [pid, *(scene.children(pid) if scene.chance.random() < 0.5 else ())]
    async with scene.window(fault.name, fault.allowance):
        with frozen(pids):
            await asyncio.sleep(scene.chance.uniform(0.2, 3.0))


async def _stop_supervisor(scene: Scene, fault: Fault) -> None:
    await _listening(scene)
    async with scene.window(fault.name, fault.allowance):
        with frozen([scene.machine.pid]):
            await asyncio.sleep(scene.chance.uniform(0.1, 2.0))


async def _kill_observer(scene: Scene, fault: Fault) -> None:
    """The process that looks: nobody may notice, but who waits for its answer."""
    if (pid := await scene.observer()) is None:
        raise NotNow
    async with scene.window(fault.name, fault.allowance):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def _stop_observer(scene: Scene, fault: Fault) -> None:
    if (pid := await scene.observer()) is None:
        raise NotNow
    async with scene.window(fault.name, fault.allowance):
        with frozen([pid]):
            await asyncio.sleep(scene.chance.uniform(0.1, 3.0))


async def _clock(scene: Scene, fault: Fault) -> None:
    """Wall clocks of pgidle and Postgres, both, forward and back."""
    async with scene.window(fault.name, fault.allowance):
        scene.volume.set_clock(scene.chance.choice((-86400, -3600, -2, 2, 3600, 86400)))
        await asyncio.sleep(scene.chance.uniform(0.2, 1.0))


async def _slow_fsync(scene: Scene, fault: Fault) -> None:
    """Every fsync of a running Postgres takes up to a second longer."""
    pid = await scene.awake()
    async with scene.window(fault.name, fault.allowance):
        delay = scene.chance.choice((20_000, 200_000, 1_000_000))
        inject = f"inject=fsync,fdatasync:delay_enter={delay}"
        attached = [word for one in (pid, *scene.children(pid)) for word in ("-p", str(one))]
        strace = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", inject),
            *attached,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.sleep(scene.chance.uniform(0.5, 2.5))
        finally:
            if strace.returncode is None:
                strace.terminate()
            await strace.wait()


def _killing(title: str) -> Callable[[Scene, Fault], Awaitable[None]]:
    return lambda scene, fault: _kill_child(title, scene, fault)


def _storming(*numbers: signal.Signals) -> Callable[[Scene, Fault], Awaitable[None]]:
    return lambda scene, fault: _storm(numbers, scene, fault)


ENDING = ("terminating", "failed")

NOTHING = Allowance()
# A shutdown that hangs while somebody waits becomes an immediate one, which is no clean end; and libfaketime ends a
# program that cannot have its semaphore, a starting Postgres too. But nobody notices.
HANGING = Allowance(crashes=True)
# A postmaster that stands still has its order to stop before it, and the sessions that it then cuts go on meanwhile.
FROZEN = Allowance(cuts=Cuts.IDLE, crashes=True, deaf=True)
STOPPED = Allowance(cuts=Cuts.ALL, in_flight=True, late=4, exits=STOPS)

FAULTS: dict[str, Fault] = {
    # Nothing at all is excused but that a session is cut which was idle for the idle timeout.
    "none": Fault(_nothing, NOTHING),
    "kill postmaster": Fault(_kill_postmaster, KILLED, most=3),
    "kill backend": Fault(_killing("127.0.0.1"), CRASH, most=3),
    "kill checkpointer": Fault(_killing("checkpointer"), CRASH, most=3),
    # Postgres hears of it by a signal, and accepts until then. Unless the platform does, nobody holds the addresses
    # until there is another.
    "kill supervisor": Fault(_kill_supervisor, replace(STOPPED, exits=frozenset({-signal.SIGKILL})), most=4),
    "SIGTERM": Fault(_storming(signal.SIGTERM), STOPPED),
    "SIGINT": Fault(_storming(signal.SIGINT), STOPPED),
    # An immediate shutdown is not clean, and the status says so; all but a sleeping Postgres is ended so.
    "SIGQUIT": Fault(_storming(signal.SIGQUIT), replace(STOPPED, exits=STOPS | {1})),
    "SIGHUP": Fault(_storming(signal.SIGHUP), NOTHING),
    "mixed signals": Fault(
        _storming(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
        replace(STOPPED, exits=STOPS | {1}),
    ),
    # What it excuses depends on the order: see ASKED.
    "sleep": Fault(_sleep, NOTHING),
    "hold": Fault(_hold, NOTHING),
    "edit configuration": Fault(_edit, NOTHING),
    # Whoever has to start with broken files ends, unless it stays: 2 for pgidle's own, 1 for Postgres's.
    "break configuration": Fault(_break, Allowance(gives_up=frozenset({1, 2}), crashes=True)),
    # Postgres panics when it cannot write WAL, and cannot start; it says 53100 itself where it can.
    "disk full": Fault(
        _disk_full,
        Allowance(
            cuts=Cuts.ALL,
            in_flight=True,
            gives_up=frozenset({1}),
            crashes=True,
            errors=("53", "58"),
            words=("No space left on device", "could not write"),
        ),
        most=2,
    ),
    "hang watch": Fault(_hang_watch, HANGING),
    "stop backend": Fault(_stop_backend, replace(HANGING, deaf=True)),
    "stop postgres": Fault(_stop_postgres, FROZEN),
    "stop supervisor": Fault(_stop_supervisor, NOTHING),
    "kill observer": Fault(_kill_observer, NOTHING),
    "stop observer": Fault(_stop_observer, NOTHING),
    "clock": Fault(
        _clock, HANGING, missing=None if FAKETIME else "no libfaketime (apt-get install libfaketime)"
    ),
    "slow fsync": Fault(
        _slow_fsync,
        HANGING,
        missing=None if shutil.which("strace") else "no strace (apt-get install strace)",
    ),
}

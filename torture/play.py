"""One round: clients, faults, and the checks when both are done."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from harness.installations import conninfo, free_port
from pgidle.base.errors import PgidleError
from pgidle.control.client import request
from pgidle.history.files import read_of_another
from torture import checks
from torture.injections import FAKETIME, FAULTS, NAP, NotNow
from torture.journal import untold
from torture.judging import judge
from torture.machine import Keeper, Machine, Proxy, ServiceManager, listening, stop
from torture.namespace import forget_clocks
from torture.plan import SOCKET
from torture.record import Round
from torture.scenario import ACTORS, Crowd
from torture.scene import LOCAL_PROBE, Scene, until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clients import Ledger
    from harness.installations import Installation, Place
    from torture.injections import Fault
    from torture.plan import Plan
    from torture.volume import Volume

WHOLE = 5
"""Of so many rounds one ends with a look at every index, and not at the ledger's alone."""

FINISH = 90.0
"""Seconds in which every client must be done once the round is over."""


@dataclass(slots=True)
class Stage:
    """What the rounds share: they are played on one data directory, one after the other."""

    installation: Installation
    place: Place
    volume: Volume
    ledger: Ledger
    port: int = field(default_factory=free_port)


class Unkept(Exception):
    """A promise was broken in a way that ends the round."""


@dataclass(slots=True)
class Outcome:
    """A round that was played. `interrupted`: not to its end, so that most of the checks are missing."""

    plan: Plan
    happened: Round
    machine: Machine
    injected: Counter[str]
    seconds: float
    interrupted: bool = False

    @property
    def is_wrong(self) -> bool:
        return bool(self.happened.violations) or self.happened.harness is not None


def _machine(stage: Stage, plan: Plan, mark: str, unix_socket: Path) -> Machine:
    """What is to run in a round, not started; its processes are known by the mark in their environment."""
    volume = stage.volume
    env, prefix = {checks.MARK: mark}, []
    if "clock" in plan.faults:
        forget_clocks()
        env |= {
            "FAKETIME_TIMESTAMP_FILE": str(volume.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        # Not before: what libfaketime makes for a process that is still root's it cannot open when that is no more.
        prefix = ["env", f"LD_PRELOAD={FAKETIME}"]
    return Machine(
        stage.installation,
        stage.place,
        data_dir=volume.data_dir,
        port=stage.port,
        env=env,
        prefix=prefix,
        config=str(volume.config),
        idle_timeout=None,
        listen=listening(stage.port, unix_socket) if plan.mode == SOCKET else (),
        when_idle="stay" if plan.mode == "stay" else "exit",
    )


def play(stage: Stage, plan: Plan, seconds: float) -> Outcome:
    """Play a round with so many seconds of clients and faults, and judge it, or what there was of it when somebody
    pressed Ctrl-C."""
    mark = uuid.uuid4().hex
    volume = stage.volume
    volume.configure(plan.idle_timeout)
    volume.settle(plan.settings)
    path = volume.sockets / f".s.PGSQL.{stage.port}"
    machine = _machine(stage, plan, mark, path)
    happened = Round(plan.idle_timeout, plan.mode == "stay", plan.mode == SOCKET, plan.local | {LOCAL_PROBE})
    injected: Counter[str] = Counter()
    began, interrupted = time.monotonic(), False
    sentry = checks.Sentry(volume.data_dir)
    try:
        with sentry:
            asyncio.run(_play(stage, plan, machine, happened, injected, path, seconds))
        happened.violations += checks.orphans(volume.data_dir, mark)
        stage.volume.cut_half_blocks()
        happened.violations += checks.checksums(stage.installation, volume.data_dir)
        happened.violations += untold(
            [line.data for line in machine.lines], read_of_another(str(volume.data_dir / "pgidle")).events
        )
        happened.violations += checks.bad_lines(
            [*(line.text for line in machine.lines), *volume.collected()], "disk full" in plan.faults
        )
    except KeyboardInterrupt:
        interrupted = True
    except (psycopg.Error, Unkept) as error:
        # Nothing was being done to it when these sessions of ours were opened.
        happened.violations.append(f"the round could not go on: {type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001
        happened.harness = f"{type(error).__name__}: {error}"
    finally:
        machine.clean()
        for one in machine.listen:
            one.close()
    happened.violations += sentry.seen
    happened.gates = machine.gates()
    happened.exits, happened.crashes = machine.exits, machine.crashes()
    happened.stops = machine.state_times("stopping")
    happened.sleeps = len(machine.state_times("asleep"))
    judge(happened)
    return Outcome(plan, happened, machine, injected, time.monotonic() - began, interrupted)


async def _play(
    stage: Stage,
    plan: Plan,
    machine: Machine,
    happened: Round,
    injected: Counter[str],
    path: Path,
    seconds: float,
) -> None:
    platform: Keeper | Proxy
    if machine.listen:
        platform = ServiceManager(machine)
    elif happened.stays:
        platform = Keeper(machine)
    else:
        platform = Proxy(machine, machine.port)
    async with platform:
        # Not the name of the round before, which pgidle remembers: who comes back after each sleep is flapping.
        front = conninfo(platform.port, application_name=f"round {machine.env[checks.MARK]}")
        crowd = Crowd(
            platform.port,
            path,
            front,
            stage.ledger,
            happened.tally,
            plan.chance("crowd"),
            plan.idle_timeout,
            happened.local,
        )
        scene = Scene(machine, platform, stage.volume, crowd, happened, plan.chance("faults"))
        await asyncio.to_thread(stage.ledger.create, front)
        before = await _at_rest(machine, front, plan)
        tasks = [
            asyncio.create_task(crowd.live(ACTORS[name.split(" ")[0]], name), name=name)
            for name in plan.clients
        ]
        tasks.append(asyncio.create_task(crowd.tide(), name="tide"))
        try:
            await _inject(scene, plan, injected, seconds)
            crowd.over.set()
            crowd.high.set()
            done, late = await asyncio.wait(tasks, timeout=FINISH)
        finally:
            # Before the platform goes, or they would meet what nobody promises anything about.
            for one in tasks:
                one.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        happened.violations += [f"{one.get_name()} is not done {FINISH:g} s after the end" for one in late]
        for one in done:
            one.result()
        stage.volume.restore()
        stage.volume.configure(plan.idle_timeout)
        # Without one nothing of what it was about was tested.
        if not await until(lambda: bool(machine.state_times("asleep")), NAP):
            happened.violations.append(f"no sleep in the whole round, nor {NAP:g} s after it")
        await _finish(stage, machine, platform, happened, front, before, plan.number)


async def _inject(scene: Scene, plan: Plan, injected: Counter[str], seconds: float) -> None:
    """Fault after fault until the time is over."""
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        await asyncio.sleep(scene.chance.uniform(0.05, 0.6))
        names = [name for name in plan.faults if _may_come(FAULTS[name], injected[name], scene.happened)]
        if names:
            # The first is the one that it is about.
            name = names[0] if len(names) == 1 or scene.chance.random() < 0.6 else names[1]
            await scene.moment()
            with contextlib.suppress(NotNow):
                await FAULTS[name].inject(scene, FAULTS[name])
                injected[name] += 1


def _may_come(fault: Fault, count: int, happened: Round) -> bool:
    """Whether a fault may come once more: one that stays gives up on no Postgres."""
    return count < fault.most or (happened.stays and fault.allowance.crashes)


async def _at_rest(machine: Machine, front: str, plan: Plan) -> Counter[str]:
    """Descriptors of a supervisor that has looked at Postgres, is awake, and is asked nothing."""
    async with await psycopg.AsyncConnection.connect(front, connect_timeout=45) as guard:
        await guard.execute("SELECT 1")  # in a transaction from here on: awake
        await _looked(machine)
        return await checks.steady(machine.pid)


async def _looked(machine: Machine) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            status, said = await asyncio.to_thread(
                request, str(machine.data_dir / "pgidle"), "GET", "/status"
            )
            if status == 200 and said["looks"] > said["looks_failed"]:
                return
        except (PgidleError, OSError, KeyError, ValueError):
            pass
        if time.monotonic() > deadline:
            raise Unkept("no successful look within 30 s")
        await asyncio.sleep(0.05)


async def _finish(
    stage: Stage,
    machine: Machine,
    platform: Keeper | Proxy,
    happened: Round,
    front: str,
    before: Counter[str],
    number: int,
) -> None:
    """The ledger, the descriptors and the indexes, while a session keeps it awake; then a stop that must be clean."""
    async with await psycopg.AsyncConnection.connect(front, connect_timeout=45) as guard:
        await guard.execute("SELECT 1")
        found = await asyncio.to_thread(stage.ledger.missing, front)
        happened.lost = len(found)
        happened.violations += [f"lost: {found[:20]}"] * bool(found)
        strange = await asyncio.to_thread(stage.ledger.strange, front)
        happened.violations += [f"rows that nobody sent: {strange[:20]}"] * bool(strange)
        stage.ledger.acknowledged -= set(found)
        await _looked(machine)
        if machine.copies_errors():
            before = before + Counter({"pipe:": 1})
        happened.violations += await checks.leaked(machine.pid, before)
        if (postmaster := machine.postmaster_pid) is not None:
            happened.violations += checks.inherited(machine.pid, postmaster, machine.port)
        happened.violations += await asyncio.to_thread(
            checks.amcheck, stage.installation, platform.port, whole=number % WHOLE == 0
        )
        await platform.let_go()
        before_last = len(machine.exits)
        try:
            status = await stop(machine)
        except subprocess.TimeoutExpired as error:
            raise Unkept(f"SIGTERM at the end: still there after {error.timeout:g} s") from None
        if status != 0 or not machine.exits[before_last].is_clean:
            happened.violations.append(f"SIGTERM at the end: status {status}, {machine.exits[before_last:]}")
        del machine.exits[before_last:]
        await guard.close()

"""Services under the real systemd: started, slept, stopped, killed and mended, each test an instance of its own."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.clients import Habits, Ledger, run_clients
from harness.installations import conninfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.booted import Booted
    from harness.clients import Load
    from harness.installations import Installation
    from harness.systemd_units import Instance

HABITS = Habits(short=0.3, long=1.5, dozes=0.5, statements=3, cut_after=0.25)
# Where services are stopped and killed, sessions are cut at any time; that a connection fails is never right.
CUT = Habits(short=0.2, long=0.6, dozes=0.3, statements=2, cut_after=0)


def test_started_means_served(instance) -> None:
    one = instance("started", idle_timeout="1min")
    one.systemctl("start")
    assert one.machine.show(one.service, "ActiveState", "SubState") == {
        "ActiveState": "active",
        "SubState": "running",
    }
    postmaster = one.ask()
    status = one.systemctl("status")
    assert re.search(r'Status: "awake: Postgres accepts connections after \d+ ms"', status), status
    environ = one.machine.run("sh", "-c", f"cat /proc/{postmaster}/environ | tr '\\0' '\\n'")
    assert "NOTIFY_SOCKET" not in environ
    assert "PG_OOM_ADJUST_VALUE=0" in environ
    one.systemctl("reload")
    one.machine.wait_said(one.service, "reload: SIGHUP received")
    one.machine.wait_said(one.service, "LOG:  received SIGHUP, reloading")
    assert one.ask() == postmaster
    one.check()


def test_what_the_journal_says(instance) -> None:
    one = instance("said")
    one.ask()
    one.wait_for("inactive")
    lines = one.machine.journal(one.service).splitlines()
    # The journal's own time and pid, and no second ones of ours.
    assert any(re.search(r"\]: awake: Postgres accepts", line) for line in lines), lines
    assert re.search(r'Status: "asleep: idle ', one.systemctl("status", check=False))
    assert one.machine.show(one.service, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }


def test_a_start_that_fails_is_seen_and_its_clients_are_served_when_it_is_mended(
    instance, newest: Installation
) -> None:
    one = instance("broken", pgidle_port="nonsense")
    waiting = threading.Thread(target=one.ask)
    waiting.start()
    # More often than systemd would let it, without being told.
    one.machine.wait_for(one.service, NRestarts="[6-9]|..")
    one.machine.wait_said(one.service, "Main process exited, code=exited, status=2")
    one.check()
    one.set(pgidle_bin_dir=newest.bin_dir)
    waiting.join(30)
    assert not waiting.is_alive()
    one.wait_for("active")
    one.check()


def test_recovery_is_given_its_time(instance) -> None:
    one = instance("slow", idle_timeout="1min")
    (one.data_dir / "recovery.signal").touch()
    with (one.data_dir / "postgresql.auto.conf").open("a") as conf:
        conf.write("restore_command = 'sleep 0.5; false'\n")
    one.machine.run("mkdir", "-p", f"/etc/systemd/system/{one.service}.d")
    one.machine.run(
        "sh", "-c", f"printf '[Service]\\nTimeoutStartSec=1s\\n' > /etc/systemd/system/{one.service}.d/t.conf"
    )
    one.machine.run("systemctl", "daemon-reload")
    one.systemctl("start")
    assert one.machine.show(one.service, "NRestarts", "ActiveState") == {
        "NRestarts": "0",
        "ActiveState": "active",
    }


async def both(instances: list[Instance], ledgers: list[Ledger], sessions: int, habits: Habits) -> list[Load]:
    return await asyncio.gather(
        *(
            run_clients(
                conninfo(one.port), ledger, workers=2, sessions=sessions, seed=one.port, habits=habits
            )
            for one, ledger in zip(instances, ledgers, strict=True)
        )
    )


@pytest.mark.heavy
def test_two_instances_sleep_and_wake_side_by_side(machine: Booted, instance) -> None:
    instances = [instance("left"), instance("right")]
    ledgers = [Ledger(), Ledger()]
    with machine.network():
        for one, ledger in zip(instances, ledgers, strict=True):
            ledger.create(conninfo(one.port))
        loads = asyncio.run(both(instances, ledgers, 14, HABITS))
        for one, ledger, load in zip(instances, ledgers, loads, strict=True):
            assert load.failures == []
            assert load.connections == 28
            assert ledger.missing(conninfo(one.port)) == []
            assert one.sleeps() >= 3
            one.check()
            assert machine.show(one.service, "NRestarts") == {"NRestarts": "0"}


class Nuisance:
    """Does something again and again beside a block, and as often as wanted at least."""

    def __init__(self, act: Callable[[], object], times: int) -> None:
        self._act, self._times = act, times
        self._thread = threading.Thread(target=self._run)
        self.done = threading.Event()

    def __enter__(self) -> Nuisance:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        for _ in range(self._times):
            self._act()
        self.done.set()


def visit_while(one: Instance, ledger: Ledger, act: Callable[[], object], times: int) -> list[Load]:
    """Clients for as long as something is done to their service so many times."""
    loads = []
    with one.machine.network():
        ledger.create(conninfo(one.port))
        with Nuisance(act, times) as nuisance:
            while not nuisance.done.is_set():
                loads.append(
                    asyncio.run(
                        run_clients(
                            conninfo(one.port), ledger, workers=4, sessions=3, seed=len(loads), habits=CUT
                        )
                    )
                )
    return loads


@pytest.mark.heavy
@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_an_administrator_s_hand(instance, verb: str) -> None:
    one = instance(verb)
    ledger = Ledger()
    loads = visit_while(one, ledger, lambda: one.systemctl(verb), 4)
    assert [failure for load in loads for failure in load.failures] == []
    with one.machine.network():
        assert ledger.missing(conninfo(one.port)) == []
    one.wait_for("inactive")
    assert one.machine.show(one.service, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }
    one.check()


def test_crashes(instance) -> None:
    one = instance("crash", idle_timeout="1min")
    ledger = Ledger()
    with one.machine.network():
        ledger.create(conninfo(one.port))
        asyncio.run(run_clients(conninfo(one.port), ledger, workers=2, sessions=2, seed=1, habits=CUT))
    postmaster = one.ask()
    one.machine.run("kill", "-9", str(postmaster))
    assert one.ask() != postmaster
    assert one.machine.show(one.service, "NRestarts") == {"NRestarts": "0"}
    postmaster = one.ask()
    one.machine.signal(one.service, signal.SIGKILL)
    one.machine.wait_for(one.service, NRestarts="1", ActiveState="active")
    assert one.ask() != postmaster
    with one.machine.network():
        assert ledger.missing(conninfo(one.port)) == []
    one.check()


def test_a_client_who_comes_while_nothing_runs_waits_for_the_restart(instance) -> None:
    one = instance("gone", idle_timeout="1min")
    postmaster = one.ask()
    one.machine.signal(one.service, signal.SIGKILL)
    one.machine.wait_for(one.service, SubState="auto-restart|start")
    assert one.ask() != postmaster
    one.check()


def test_the_socket_is_the_switch(instance) -> None:
    one = instance("switch", idle_timeout="1min")
    one.ask()
    one.systemctl("stop", one.socket)
    assert one.machine.show(one.service, "ActiveState", "Result") == {
        "ActiveState": "inactive",
        "Result": "success",
    }
    with pytest.raises(psycopg.OperationalError, match="refused"):
        one.connect()
    # A service that is started by hand brings its socket.
    one.systemctl("start")
    one.ask()
    one.check()


@pytest.mark.heavy
def test_a_storm_of_clients_in_every_exit(instance) -> None:
    """Each exit is met by many at once. systemd gives up on a socket that triggers too often."""
    one = instance("storm", idle_timeout="off")
    failures: list[str] = []

    def knock() -> None:
        try:
            one.ask()
        except (psycopg.Error, OSError, ValueError) as error:
            failures.append(str(error))

    one.ask()
    for _ in range(6):
        before = one.sleeps()
        assert one.force_sleep()
        storm = [threading.Thread(target=knock) for _ in range(20)]
        for thread in storm:
            thread.start()
        for thread in storm:
            thread.join()
        assert one.sleeps() > before
    assert failures == []
    one.check()

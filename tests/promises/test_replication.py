"""Replicas: a primary and a standby on two machines, under pgidle and not, and logical replication."""

from __future__ import annotations

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest

from harness.faults import notes, start_again
from harness.installations import run_as_server
from harness.machines import two_machines
from harness.postgres_fixture import wait_until
from harness.replicas import ask, caught_up, copy, do, primary_data_dir, reach, standby_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.installations import Installation, Place
    from harness.machines import Machine
    from harness.supervised import Launch, Supervised

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(90)]

SOON = "700ms"
"""An idle time that has passed before a test has done anything."""

COUNT = "SELECT count(*) FROM t"
FILL = "SELECT pg_logical_emit_message(true, 'filler', repeat('x', 1000000)) FROM generate_series(1, 18)"


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as both:
        yield both


@pytest.fixture
def start(machines: tuple[Machine, Machine], place: Place, launch: Launch):
    """Start a primary under pgidle on the first machine, with a table `t`."""

    def begin(installation: Installation, **options: object) -> Supervised:
        options = {
            "when_idle": "stay",
            "idle_timeout": SOON,
            "listen_addresses": machines[0].address,
        } | options
        one = launch(installation, data_dir=primary_data_dir(installation, place), **options)
        one.wait_for_state("awake")
        do(reach(machines[0], one.port), "CREATE TABLE IF NOT EXISTS t (i int)")
        return one

    return begin


@pytest.fixture
def follow(machines: tuple[Machine, Machine], launch: Launch):
    """Start what is in a data directory under pgidle on the second machine."""
    there = machines[1]

    def begin(installation: Installation, data_dir: Path, **options: object) -> Supervised:
        options = {"when_idle": "stay", "idle_timeout": SOON, "listen_addresses": there.address} | options
        with there.entered():
            return launch(installation, data_dir=data_dir, **options)

    return begin


def test_a_primary_stays_awake_for_its_standby(
    installation: Installation, machines: tuple[Machine, Machine], place: Place, start
) -> None:
    here, there = machines
    primary = start(installation)
    data_dir = copy(installation, place, there, reach(here, primary.port), "follower")
    with standby_on(there, installation, data_dir) as standby:
        do(reach(here, primary.port), "INSERT INTO t VALUES (1)")
        caught_up(standby, COUNT, 1)
        mark = primary.mark()
        wait_for(primary, "idle_timeout", r"\(idle-timeout \d")
        (reason,) = reasons(primary, "replication")
        assert reason["kind"] == "blocker"
        assert 'app "follower"' in reason["text"]
        assert there.address in reason["text"]
        assert "when its receiver disconnects" in reason["ends"]
        assert not [line for line in primary.lines[mark:] if "state" in line.data]
        do(reach(here, primary.port), "INSERT INTO t VALUES (2)")
        caught_up(standby, COUNT, 2)
        mark = primary.mark()
    primary.wait_for_state("asleep", since=mark)
    assert primary.stop() == 0


def test_a_standby_that_is_ignored_wakes_its_primary_and_is_named_for_it(
    newest: Installation, machines: tuple[Machine, Machine], place: Place, start
) -> None:
    here, there = machines
    primary = start(newest, replication="ignore")
    data_dir = copy(newest, place, there, reach(here, primary.port), "follower")
    with standby_on(there, newest, data_dir) as standby:
        for count in (1, 2):
            mark = primary.mark()
            do(reach(here, primary.port), "INSERT INTO t VALUES (1)")
            primary.wait_for_state("asleep", since=mark)
            primary.wait_for_state("awake", since=mark)
            caught_up(standby, COUNT, count)
        primary.wait_log('app ."follower.*reconnects as soon as it is cut')
    assert primary.stop() == 0


def test_a_standby_that_may_not_wake_its_primary_waits_for_whoever_does(
    installation: Installation, machines: tuple[Machine, Machine], place: Place, start
) -> None:
    """It loses nothing by it: a primary stops only when its standbys have everything."""
    here, there = machines
    primary = start(installation, replication="ignore", no_wake=f"{there.address}")
    data_dir = copy(installation, place, there, reach(here, primary.port), "follower")
    with standby_on(there, installation, data_dir) as standby:
        for count in (1, 2):
            mark = primary.mark()
            do(reach(here, primary.port), "INSERT INTO t VALUES (1)")
            caught_up(standby, COUNT, count)
            primary.wait_for_state("asleep", since=mark)
            wait_until(lambda: status(primary)["parked"] == 1)
            assert status(primary)["state"] == "asleep"
        # Asked on its own machine, the primary wakes and takes the standby along.
        do(reach(here, primary.port), "INSERT INTO t VALUES (1)")
        caught_up(standby, COUNT, 3)
        assert not notes(primary, "flapping")
        assert primary.states.count("asleep") == primary.states.count("awake") - 1
    assert primary.stop() == 0


def test_a_standby_that_hangs_delays_a_stop_and_does_not_spoil_it(
    newest: Installation, machines: tuple[Machine, Machine], place: Place, start
) -> None:
    """Postgres waits for it with all of itself already on disk: what ends the wait is no crash."""
    here, there = machines
    primary = start(newest, replication="ignore", stop_timeout="500ms", idle_timeout="off")
    data_dir = copy(newest, place, there, reach(here, primary.port), "follower")
    with standby_on(there, newest, data_dir) as standby:
        caught_up(standby, COUNT, 0)
        receiver = next(p for p in psutil.Process(standby.pid).children() if "walreceiver" in p.cmdline()[0])
        receiver.send_signal(signal.SIGSTOP)
        try:
            do(reach(here, primary.port), "INSERT INTO t VALUES (1)")
            mark = primary.mark()
            assert primary.stop() == 0
            primary.wait_log("immediate shutdown", since=mark)
            mark = primary.mark()
            start_again(primary)
            primary.wait_log("database system was shut down at", since=mark)
        finally:
            receiver.send_signal(signal.SIGCONT)
        caught_up(standby, COUNT, 1)
    assert primary.stop() == 0


def test_a_standby_stays_awake_also_without_its_primary(
    newest: Installation, machines: tuple[Machine, Machine], place: Place, start, follow
) -> None:
    here, there = machines
    primary = start(newest, idle_timeout="off")
    data_dir = copy(newest, place, there, reach(here, primary.port), "follower")
    standby = follow(newest, data_dir)
    standby.wait_for_state("awake")
    wait_for(standby, "idle_timeout", r"\(idle-timeout \d")
    wait_for(standby, "replication", "walreceiver")
    assert primary.stop() == 0
    (found,) = wait_for(standby, "replication", "is a standby without a walreceiver")
    assert found["kind"] == "blocker"
    assert standby.states == ["starting", "awake"]
    assert standby.stop() == 0


def test_a_standby_that_sleeps_catches_up_and_its_slot_is_a_warning(
    newest: Installation, machines: tuple[Machine, Machine], place: Place, start, follow
) -> None:
    here, there = machines
    primary = start(newest, idle_timeout="off")
    data_dir = copy(newest, place, there, reach(here, primary.port), "follower")
    standby = follow(newest, data_dir, replication="ignore")
    standby.wait_for_state("asleep")
    assert ask(reach(here, primary.port), "SELECT active FROM pg_replication_slots") is False
    do(reach(here, primary.port), "INSERT INTO t VALUES (1)", FILL)
    (found,) = wait_for(primary, "replication_slot", "retains (1[6-9]|2[0-9])")
    assert found["kind"] == "note"
    assert found["text"].startswith('physical replication slot "follower" is inactive')
    assert "pg_drop_replication_slot" in found["ends"]
    primary.wait_log("follower.*retains .*MB")
    assert len(notes(primary, "replication")) == 1
    with there.entered(), psycopg.connect(reach(there, standby.port), autocommit=True) as reader:
        wait_until(lambda: reader.execute(COUNT).fetchone() == (1,))
        assert standby.pgidle("hold", "1h").returncode == 0
        wait_until(lambda: not reasons(primary, "replication_slot"))
        mark = standby.mark()
        assert standby.pgidle("release").returncode == 0
    standby.wait_for_state("asleep", since=mark)
    assert standby.stop() == 0


def test_a_promoted_standby_sleeps_and_wakes_as_a_primary(
    installation: Installation, machines: tuple[Machine, Machine], place: Place, start, follow
) -> None:
    here, there = machines
    primary = start(installation, idle_timeout="off")
    data_dir = copy(installation, place, there, reach(here, primary.port), "follower")
    standby = follow(installation, data_dir)
    with there.entered():
        standby.wait_for_state("awake")
        do(reach(here, primary.port), "INSERT INTO t VALUES (1)")
        wait_until(lambda: ask(reach(there, standby.port), COUNT) == 1)
        primary.stop()
        wait_for(standby, "idle_timeout", r"\(idle-timeout \d")
        mark = standby.mark()
        # From beside it, so that no session counts but the promotion itself.
        run_as_server(installation.program("pg_ctl"), "promote", "-D", data_dir, "-w")
        asleep = standby.wait_for_state("drowsy", since=mark)
        assert "the standby was promoted" in asleep.text
        standby.wait_for_state("asleep", since=mark)
        do(reach(there, standby.port), "INSERT INTO t VALUES (2)")
        assert ask(reach(there, standby.port), COUNT) == 2
        assert ask(reach(there, standby.port), "SELECT timeline_id FROM pg_control_checkpoint()") == 2
    assert standby.stop() == 0


def test_a_base_backup_that_has_begun_is_never_cut(
    newest: Installation, machines: tuple[Machine, Machine], place: Place, start
) -> None:
    here, there = machines
    primary = start(newest, replication="ignore")
    where = reach(here, primary.port)
    with ThreadPoolExecutor() as pool:
        copying = pool.submit(copy, newest, place, there, where, "backup", "--max-rate=4M")
        wait_for(primary, "base_backup", "is taking a base backup")
        backups = [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "pg_basebackup" and where in " ".join(process.info["cmdline"] or ())
        ]
        assert backups
        with ExitStack() as frozen:
            for process in backups:
                process.suspend()
                frozen.callback(process.resume)
            wait_for(primary, "idle_timeout", r"\(idle-timeout \d")
            assert not copying.done()
        mark = primary.mark()
        copying.result()
    primary.wait_for_state("asleep", since=mark)
    assert primary.stop() == 0


@pytest.mark.parametrize("replication", ["keep", "ignore"])
def test_a_publisher_and_a_subscriber(
    newest: Installation,
    machines: tuple[Machine, Machine],
    place: Place,
    start,
    follow,
    replication: str,
) -> None:
    """Kept, both are awake; ignored, both sleep, and a query to each brings the rows across."""
    here, there = machines
    publisher = start(newest, replication=replication, no_wake=there.address)
    do(reach(here, publisher.port), "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t VALUES (1)")
    subscriber = follow(newest, primary_data_dir(newest, place), replication=replication)
    with there.entered():
        subscriber.wait_for_state("awake")
        # Until all is set up: on a busy machine that takes longer than they wait.
        assert [one.pgidle("hold", "1h").returncode for one in (publisher, subscriber)] == [0, 0]
        source = reach(here, publisher.port).replace("'", "")
        do(
            reach(there, subscriber.port),
            "CREATE TABLE t (i int)",
            f"CREATE SUBSCRIPTION s CONNECTION '{source}' PUBLICATION p",
        )
        wait_until(lambda: ask(reach(there, subscriber.port), COUNT) == 1)
        mark, subscribed = publisher.mark(), subscriber.mark()
        assert [one.pgidle("release").returncode for one in (publisher, subscriber)] == [0, 0]
        if replication == "keep":
            wait_for(publisher, "idle_timeout", r"\(idle-timeout \d")
            wait_for(subscriber, "idle_timeout", r"\(idle-timeout \d")
            assert find(publisher, "replication", "database postgres")
            assert find(subscriber, "subscription", "is subscribed to s")
            states = {
                line.data.get("state") for line in publisher.lines[mark:] + subscriber.lines[subscribed:]
            }
            assert "stopping" not in states
        else:
            publisher.wait_for_state("asleep", since=mark)
            subscriber.wait_for_state("asleep", since=subscribed)
        with here.entered():
            do(reach(here, publisher.port), "INSERT INTO t VALUES (2)")
        wait_until(lambda: ask(reach(there, subscriber.port), COUNT) == 2)
        assert subscriber.stop() == 0
    assert publisher.stop() == 0


def test_a_missing_synchronous_standby_holds_up_commits_and_never_pgidle(
    newest: Installation, place: Place, launch: Launch
) -> None:
    one = launch(
        newest,
        when_idle="stay",
        idle_timeout=SOON,
        postgres=("-c", "synchronous_standby_names=nobody"),
    )
    one.wait_for_state("asleep")
    mark = one.mark()
    with psycopg.connect(one.conninfo(), autocommit=True) as writer, ThreadPoolExecutor() as pool:
        waits = pool.submit(writer.execute, "CREATE TABLE t (i int)")
        wait_for(one, "session_state", "has been active")
        writer.cancel()
        waits.result()
    one.wait_for_state("asleep", since=mark)
    assert ask(one.conninfo(), COUNT) == 0
    assert one.stop() == 0


def status(one: Supervised) -> dict[str, Any]:
    ran = one.pgidle("status", "--json")
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def reasons(one: Supervised, signal: str) -> list[dict[str, Any]]:
    """What `pgidle status` says about a signal."""
    return [reason for reason in status(one)["reasons"] if reason["signal"] == signal]


def find(one: Supervised, signal: str, text: str) -> list[dict[str, Any]]:
    return [reason for reason in reasons(one, signal) if re.search(text, reason["text"])]


def wait_for(one: Supervised, signal: str, text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    wait_until(
        lambda: bool(found.extend(find(one, signal, text)) or found), lambda: str(status(one)["reasons"])
    )
    return found

"""`pgidle sleep` and `pgidle wake` do what they say, and return when it is done: as processes, on a real Postgres."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.orders import STAY, ended, fall_asleep, has_asked, wait_channel
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped

if TYPE_CHECKING:
    from harness.installations import Installation, Place
    from harness.orders import Begin
    from harness.supervised import Launch, Supervised

WHO_CAME = "reads nothing and writes all"


def connect_at_once(one: Supervised) -> None:
    """Through the Unix socket, where nobody holds a client for whom Postgres is not ready."""
    folder = (one.data_dir / "postmaster.pid").read_text().splitlines()[4]
    with psycopg.connect(one.conninfo(host=folder)) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_after_a_wake_that_was_waited_for_postgres_is_there(newest: Installation, launch: Launch) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("starting")
    for _ in range(3):
        # While it starts for the first time, awake, asleep.
        done = one.pgidle("wake", "--wait")
        assert (done.returncode, done.stdout) == (0, "awake: Postgres accepts connections\n")
        connect_at_once(one)
        fall_asleep(one)
    done = one.pgidle("wake", "--wait", "30")
    assert done.returncode == 0
    # In crash recovery, also where the crash has only just been.
    with psycopg.connect(one.conninfo(), autocommit=True) as client:
        client.execute("CREATE TABLE t AS SELECT generate_series(1, 100000)")
        mark = one.mark()
        os.kill(one.postmaster_pid or 0, signal.SIGKILL)
        one.wait_for_state("starting", since=mark)
    assert one.pgidle("wake", "--wait").returncode == 0
    connect_at_once(one)


@pytest.mark.parametrize(
    "point", ["before CONFIRM_IDLE", "before STOP_FAST", "after STOP_FAST", "before LOOK_AT_QUEUE"]
)
def test_a_wake_is_waited_for_from_every_step_of_a_sleep(
    begin: Begin, newest: Installation, place: Place, point: str
) -> None:
    one = Stopped(newest, place, point, **STAY)
    with one:
        one.wait_for_state("awake")
        one.arm()
        asked = begin(one, "sleep")
        one.reached()
        waking = begin(one, "wake", "--wait")
        has_asked(one, waking)
        one.release()
        assert ended(waking) == (0, "awake: Postgres accepts connections\n", "")
        connect_at_once(one)
        ended(asked)


def test_a_wake_does_not_wait_longer_than_it_is_told(
    begin: Begin, launch: Launch, newest: Installation
) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    fall_asleep(one)
    # A start that takes long: recovery, which asks for WAL.
    (one.data_dir / "recovery.signal").touch()
    with (one.data_dir / "postgresql.auto.conf").open("a") as file:
        file.write("restore_command = 'sleep 60'\n")
    done = one.pgidle("wake", "--wait", "500ms")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pgidle: starting still after 0.5s: asked to wake by user root (")
    waiting = begin(one, "wake", "--wait")
    has_asked(one, waiting)
    waiting.send_signal(signal.SIGINT)
    assert ended(waiting)[0] == 128 + signal.SIGINT


def test_a_wake_that_cannot_be_is_said(begin: Begin, newest: Installation, place: Place) -> None:
    one = Stopped(newest, place, "before Server.spawn", **STAY)
    with one:
        one.wait_for_state("awake")
        fall_asleep(one)
        one.arm()
        waking = begin(one, "wake", "--wait")
        one.reached()
        (one.data_dir / "postgresql.conf").write_text("nonsense = 1\n")
        one.release()
        code, out, err = ended(waking)
        assert (code, out) == (1, "")
        assert err.startswith("pgidle: not awake: the postmaster exited with status 1")
        assert "retrying" in err
        (one.data_dir / "postgresql.conf").write_text("")
        one.wait_for_state("awake", since=one.mark())


def test_a_sleep_is_waited_for_or_refused_with_who_is_in_the_way(
    newest: Installation, launch: Launch
) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    fall_asleep(one)
    assert one.pgidle("sleep", "--wait").stdout == "already asleep\n"
    assert one.pgidle("wake", "--wait").returncode == 0
    with psycopg.connect(one.conninfo(application_name=WHO_CAME)) as client:
        client.execute("SELECT 1")
        done = one.pgidle("sleep", "--wait")
        assert (done.returncode, done.stdout) == (1, "")
        assert WHO_CAME in done.stderr
        assert "idle in transaction" in done.stderr
        forced = one.pgidle("sleep", "--force", "--wait")
        assert (forced.returncode, forced.stdout) == (0, "asleep: Postgres shut down cleanly\n")
        assert one.states[-1] == "asleep"
        client.close()


def test_all_who_ask_for_a_sleep_get_the_same_answer(
    begin: Begin, newest: Installation, place: Place
) -> None:
    one = Stopped(newest, place, "before Judge.checkpointed", **STAY)
    with one:
        one.wait_for_state("awake")
        one.arm()
        asking = [begin(one, "sleep", "--wait"), begin(one, "sleep")]
        one.reached()
        asking.append(begin(one, "sleep", "--force"))
        for asked in asking:
            has_asked(one, asked)
        one.release()
        assert [ended(asked)[0] for asked in asking] == [0, 0, 0]
        assert one.states[-1] == "asleep"


def test_a_forced_sleep_is_not_refused_by_a_look_that_ends_meanwhile(
    begin: Begin, newest: Installation, place: Place
) -> None:
    one = Stopped(newest, place, "before Judge.looked", **STAY)
    with one:
        one.wait_for_state("awake")
        one.arm()
        one.reached()
        # What is taken last asks for a look, which finds why not to sleep.
        for arguments in (("hold", "1h"), ("sleep", "--force", "--wait")):
            asked = begin(one, *arguments)
            has_asked(one, asked)
        one.release()
        assert ended(asked) == (0, "asleep: Postgres shut down cleanly\n", "")


def test_in_exit_mode_a_sleep_that_was_waited_for_leaves_nobody_running(
    begin: Begin, newest: Installation, place: Place
) -> None:
    one = Stopped(newest, place, "before os._exit", when_idle="exit", idle_timeout="off")
    with one:
        one.wait_for_state("awake")
        one.arm()
        asked = begin(one, "sleep", "--wait")
        one.reached()
        # It has the answer, and waits for the end of who gave it.
        wait_until(lambda: wait_channel(asked).startswith("poll_schedule"))
        one.release()
        assert ended(asked) == (0, "asleep, and pgidle has exited\n", "")
        assert one.wait() == 0
        gone = one.pgidle("wake", "--wait")
        assert (gone.returncode, gone.stdout) == (1, "")
        assert "no pgidle is running" in gone.stderr
        assert "it went to sleep at" in gone.stderr


def test_in_exit_mode_a_sleep_that_ends_at_once_is_none(
    begin: Begin, newest: Installation, place: Place
) -> None:
    one = Stopped(newest, place, "before BEGIN_LEAVING", when_idle="exit", idle_timeout="off")
    with one:
        one.wait_for_state("awake")
        one.arm()
        asked = begin(one, "sleep", "--wait")
        one.reached()
        waking = begin(one, "wake", "--wait")
        has_asked(one, waking)
        one.release()
        assert ended(waking)[0] == 0
        code, _, err = ended(asked)
        assert code == 1
        assert err.startswith("pgidle: slept, and woke again at once: asked to wake by user root (")

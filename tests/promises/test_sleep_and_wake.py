"""Orders that do what they say: wait, hold over restarts, hold for a program. As processes, on a real Postgres."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from harness.installations import run_as_server
from harness.stopped import Stopped
from harness.supervised import PATIENCE, Supervised
from pgidle.control.client import request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from harness.installations import Installation, Place
    from harness.supervised import Launch

    Begin: TypeAlias = Callable[..., subprocess.Popen[str]]

STAY = {"when_idle": "stay", "idle_timeout": "off"}
WHO_CAME = "reads nothing and writes all"


@pytest.fixture
def begin() -> Iterator[Begin]:
    """A pgidle command that is not waited for; none outlives its test."""
    begun: list[subprocess.Popen[str]] = []

    def command(one: Supervised, *arguments: str) -> subprocess.Popen[str]:
        name, *rest = arguments
        begun.append(
            subprocess.Popen(
                [one.python, "-m", "pgidle", name, "-D", str(one.data_dir), *rest],
                env=one.environment(),
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return begun[-1]

    yield command
    for process in begun:
        with process:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """What came of it, once its standard input has ended."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def wait_channel(process: subprocess.Popen[str]) -> str:
    """What it sleeps in, by the kernel's name: unix_stream... is a read of a Unix socket, poll_schedule... a select."""
    return Path(f"/proc/{process.pid}/wchan").read_text("ascii")


def has_asked(one: Supervised, process: subprocess.Popen[str]) -> None:
    """Wait until a command has given its order, while whoever is to answer stands still."""
    # Without and with a timeout.
    until(lambda: wait_channel(process).startswith(("unix_stream", "poll_schedule")))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline


def status(one: Supervised) -> dict[str, Any]:
    return request(str(one.data_dir / "pgidle"), "GET", "/status", PATIENCE)[1]


def has_begun(process: subprocess.Popen[str], name: str) -> None:
    """Wait until what was `pgidle hold` is the program."""
    until(lambda: Path(f"/proc/{process.pid}/comm").read_text().strip() == name)


def held(one: Supervised) -> list[str]:
    return [lease["name"] for lease in status(one)["leases"]]


def connect_at_once(one: Supervised) -> None:
    """Through the Unix socket, where nobody holds a client for whom Postgres is not ready."""
    folder = (one.data_dir / "postmaster.pid").read_text().splitlines()[4]
    with psycopg.connect(one.conninfo(host=folder)) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def fall_asleep(one: Supervised) -> None:
    done = one.pgidle("sleep", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert one.states[-1] == "asleep"


# Waiting


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
    assert done.stderr == "pgidle: starting still after 0.5s: asked to wake\n"
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
        assert "it is tried again" in err
        (one.data_dir / "postgresql.conf").write_text("")
        one.wait_for_state("awake", since=one.mark())


def test_a_sleep_is_waited_for_or_refused_with_who_is_in_the_way(
    newest: Installation, launch: Launch
) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    fall_asleep(one)
    assert one.pgidle("sleep", "--wait").stdout == "asleep already\n"
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
        until(lambda: wait_channel(asked).startswith("poll_schedule"))
        one.release()
        assert ended(asked) == (0, "asleep, and pgidle has exited\n", "")
        assert one.wait() == 0
        gone = one.pgidle("wake", "--wait")
        assert (gone.returncode, gone.stdout) == (1, "")
        assert "no supervisor runs" in gone.stderr
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
        assert (code, err) == (1, "pgidle: it slept, and woke again at once: asked to wake\n")


# Holds


def test_holds_outlive_whatever_ends_pgidle(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="exit", idle_timeout="off")
    one.wait_for_state("awake")
    assert one.pgidle("hold", "1h", "--why", "migration").stdout.startswith("hold 1: held awake until 20")
    assert one.pgidle("hold", "2h").stdout.startswith("hold 2: ")
    one.options["idle-timeout"] = "500ms"
    for end in (one.kill, one.stop, lambda: one.pgidle("sleep", "--force", "--wait")):
        end()
        one.wait()
        one.start()
        one.wait_for_state("awake")
        until(lambda: status(one)["leases"])
        left = {lease["name"]: lease for lease in status(one)["leases"]}
        assert left["1"]["why"] == "migration"
        assert left["1"]["ends_in"] < 3600 < left["2"]["ends_in"] < 7200
    looks = status(one)["looks"]
    until(lambda: status(one)["looks"] > looks + 5)
    assert one.states[-1] == "awake"
    assert "migration" in one.pgidle("status").stdout
    refused = one.pgidle("release", "3")
    assert (refused.returncode, refused.stderr) == (
        1,
        "pgidle: there is no hold 3: pgidle status lists them\n",
    )
    assert one.pgidle("release", "1").stdout == "1 hold ended\n"
    assert held(one) == ["2"]
    # A number is given once.
    assert one.pgidle("hold", "1h").stdout.startswith("hold 3: ")
    assert one.pgidle("release").stdout == "2 holds ended\n"
    assert one.wait() == 0


def test_a_hold_ends_with_its_time_also_while_nothing_runs(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="exit", idle_timeout="off")
    one.wait_for_state("awake")
    assert one.pgidle("hold", "1s").returncode == 0
    one.options["idle-timeout"] = "200ms"
    one.kill()
    file = one.data_dir / "pgidle/holds.json"
    kept = json.loads(file.read_text())
    kept["holds"][0]["taken_at"] -= 1
    file.write_text(json.dumps(kept))
    one.start()
    assert one.wait() == 0
    assert json.loads(file.read_text())["holds"] == []


def foreign(folder: Path) -> list[Callable[[Path], object]]:
    other = folder / "other"
    other.write_text('{"boot": "", "last": 1, "holds": []}')
    return [
        lambda file: file.write_text("{"),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.write_text(" " * (2**20 + 1)),
        os.mkfifo,
        lambda file: file.symlink_to("/dev/zero"),
        lambda file: file.symlink_to(other),
        lambda file: file.mkdir(),
        lambda file: file.write_text('{"boot": "", "last": 1, "holds": [{"number": 1}]}'),
    ]


def test_a_file_that_is_not_ours_holds_nothing_and_is_said_once(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="exit", idle_timeout="100ms")
    assert one.wait() == 0
    file = one.data_dir / "pgidle/holds.json"
    for make in foreign(one.data_dir):
        make(file)
        mark = one.mark()
        one.start()
        assert one.wait() == 0
        said = [line for line in one.lines[mark:] if line.data.get("topic") == "hold"]
        assert len(said) == 1, [line.text for line in said]
        assert "holds nothing" in said[0].data["reason"]
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()


def test_a_hold_that_cannot_be_kept_holds_and_says_so(newest: Installation, launch: Launch) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    (one.data_dir / "pgidle/holds.json.new").mkdir()
    done = one.pgidle("hold", "1h")
    assert done.returncode == 0
    assert "; it is lost when pgidle ends: Is a directory" in done.stdout
    assert held(one) == ["1"]


def test_holds_begin_and_end_where_no_thread_is_to_be_had(
    newest: Installation, launch: Launch, begin: Begin
) -> None:
    """As where a container's pids.max is used up by sessions."""
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    until(lambda: status(one)["looks"] > 0)
    with psycopg.connect(one.conninfo()) as client:
        run_as_server("prlimit", "--nproc=1:", "--pid", str(one.pid))
        assert one.pgidle("hold", "1h").returncode == 0
        program = begin(one, "hold", "--", "cat")
        until(lambda: len(held(one)) == 2)
        ended(program)
        until(lambda: len(held(one)) == 1)
        assert one.pgidle("release").returncode == 0
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert one.stop() == 0


def test_only_so_many_hold_at_a_time(newest: Installation, launch: Launch) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    state_dir = str(one.data_dir / "pgidle")
    for _ in range(100):
        assert request(state_dir, "POST", "/hold?seconds=60", PATIENCE)[0] == 200
    done = one.pgidle("hold", "1h")
    assert (done.returncode, done.stderr) == (1, "pgidle: there are 100 holds already: release some\n")
    assert one.pgidle("release").stdout == "100 holds ended\n"


# Holds for a program


def test_a_program_finds_postgres_and_its_exit_status_is_the_commands(
    newest: Installation, launch: Launch
) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    fall_asleep(one)
    psql = str(newest.bin_dir / "psql")
    query = ("-XAtc", "SELECT 40 + 2", one.conninfo())
    done = one.pgidle("hold", "--why", "backup", "--", psql, *query)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
    assert one.pgidle("hold", "--", "sh", "-c", "exit 3").returncode == 3
    assert one.pgidle("hold", "--", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    for words, code in (("/nowhere/at/all", 127), ("no-such-program", 127), (str(one.data_dir), 126)):
        done = one.pgidle("hold", "--", words)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith(f"pgidle: {words} cannot be run: ")
    until(lambda: held(one) == [])
    one.stop()
    done = one.pgidle("hold", "--", "true")
    assert done.returncode == 125
    assert "no supervisor runs" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_program_holds_until_it_ends_however_it_ends(
    begin: Begin, newest: Installation, launch: Launch, number: int
) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="200ms")
    one.wait_for_state("awake")
    program = begin(one, "hold", "--why", "backup", "--", "sleep", "1000")
    has_begun(program, "sleep")
    (lease,) = status(one)["leases"]
    assert lease == {"name": "1", "ends_in": None, "why": "backup", "program": f"sleep (pid {program.pid})"}
    looks = status(one)["looks"]
    until(lambda: status(one)["looks"] > looks + 5)
    assert status(one)["sleeps_in"] is None
    refused = one.pgidle("sleep")
    assert refused.returncode == 1
    assert (
        f"held awake: backup; ends when sleep (pid {program.pid}) ends, or by pgidle release 1"
        in refused.stderr
    )
    mark = one.mark()
    program.send_signal(number)
    assert ended(program)[0] == -number
    one.wait_log("hold 1 .backup. has ended after", since=mark)
    one.wait_for_state("asleep", since=mark)
    assert held(one) == []


def test_a_time_limits_the_hold_and_not_the_program(
    begin: Begin, newest: Installation, launch: Launch
) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="200ms")
    one.wait_for_state("awake")
    program = begin(one, "hold", "1s", "--", "cat")
    until(lambda: "asleep" in one.states and held(one) == [])
    assert program.poll() is None
    assert ended(program)[0] == 0
    program = begin(one, "hold", "1h", "--", "cat")
    has_begun(program, "cat")
    mark = one.mark()
    assert one.pgidle("release", held(one)[0]).returncode == 0
    one.wait_for_state("asleep", since=mark)
    assert ended(program)[0] == 0


def test_a_program_goes_on_holding_the_next_supervisors_postgres(
    begin: Begin, newest: Installation, launch: Launch
) -> None:
    one = launch(newest, when_idle="exit", idle_timeout="off")
    one.wait_for_state("awake")
    program, other = (begin(one, "hold", "--", "cat") for _ in range(2))
    for one_of_them in (program, other):
        has_begun(one_of_them, "cat")
    assert len(held(one)) == 2
    file = one.data_dir / "pgidle/holds.json"
    until(lambda: len(json.loads(file.read_text())["holds"]) == 2)
    one.options["idle-timeout"] = "200ms"
    one.kill()
    assert ended(other)[0] == 0
    one.start()
    one.wait_for_state("awake")
    until(lambda: status(one)["looks"] > 3)
    assert [lease["program"] for lease in status(one)["leases"]] == [f"cat (pid {program.pid})"]
    one.kill()
    # Another process of the same pid is another program, and another boot knows none.
    kept = json.loads(file.read_text())
    for change in ({"boot": "another"}, {}):
        if not change:
            kept["holds"][0]["program"]["started"] += 1
        file.write_text(json.dumps(kept | change))
        mark = one.mark()
        one.start()
        assert one.wait() == 0
        assert any(
            "its program has ended, or is not to be recognised" in line.text for line in one.lines[mark:]
        )
    assert ended(program)[0] == 0


def test_a_program_that_waits_for_postgres_and_is_killed_leaves_no_hold(
    begin: Begin, newest: Installation, place: Place
) -> None:
    one = Stopped(newest, place, "before Server.spawn", **STAY)
    with one:
        one.wait_for_state("awake")
        fall_asleep(one)
        one.arm()
        waiting = begin(one, "hold", "--", "cat")
        one.reached()
        waiting.kill()
        ended(waiting)
        one.release()
        one.wait_for_state("awake")
        one.wait_log("hold 1 has ended after")
        assert held(one) == []


def test_a_program_that_is_hidden_from_pgidle_holds_until_it_ends(
    begin: Begin, newest: Installation, launch: Launch
) -> None:
    """Another user's, where /proc shows everybody only what is theirs (hidepid, ProtectProc=)."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user than Postgres's")
    hide = ("unshare", "-m", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh")
    one = launch(newest, prefix=hide, when_idle="stay", idle_timeout="200ms")
    one.wait_for_state("awake")
    program = begin(one, "hold", "--", "cat")
    has_begun(program, "cat")
    looks = status(one)["looks"]
    until(lambda: status(one)["looks"] > looks + 5)
    assert held(one) == ["1"]
    mark = one.mark()
    assert ended(program)[0] == 0
    one.wait_for_state("asleep", since=mark)
    program = begin(one, "hold", "--", "cat")
    until(lambda: f'"pid": {program.pid}' in (one.data_dir / "pgidle/holds.json").read_text())
    has_begun(program, "cat")
    one.kill()
    mark = one.mark()
    one.start()
    # Nobody can tell whether that is the same process.
    one.wait_log("hold 2 is over", since=mark)
    one.wait_for_state("asleep", since=mark)
    assert ended(program)[0] == 0


def test_a_process_that_cannot_be_seen_holds_nothing(newest: Installation, launch: Launch) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    for pid, started in ((2**22 + 1, 1), (os.getpid(), 1), (10**18, 1)):
        code, body = request(str(one.data_dir / "pgidle"), "POST", f"/hold?pid={pid}&started={started}")
        assert code == 409
        assert f"pgidle cannot see process {pid} from where it runs" in body["message"]
    assert held(one) == []


# Who keeps it awake


def test_a_session_that_is_never_caught_busy_is_named(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="1s")
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo(application_name="poller"), autocommit=True) as client:
        named = r'awake.*kept for \S+ by app \\"poller\\" \(user postgres, 127.0.0.1\), used again and again'
        until(lambda: client.execute("SELECT 1") and any(re.search(named, line.text) for line in one.lines))
    assert "drowsy" not in one.states

"""`pgidle hold -- PROGRAM`: Postgres is there for it, and held awake until it ends, however that is."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from harness.orders import STAY, ended, fall_asleep, has_begun, held, status
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped
from pgidle.control.client import request

if TYPE_CHECKING:
    from harness.installations import Installation, Place
    from harness.orders import Begin
    from harness.supervised import Launch


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
    wait_until(lambda: held(one) == [])
    one.stop()
    done = one.pgidle("hold", "--", "true")
    assert done.returncode == 125
    assert "no pgidle is running" in done.stderr


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
    wait_until(lambda: status(one)["looks"] > looks + 5)
    assert status(one)["sleeps_in"] is None
    refused = one.pgidle("sleep")
    assert refused.returncode == 1
    assert (
        f"held awake: backup; ends when sleep (pid {program.pid}) ends, or with pgidle release 1"
        in refused.stderr
    )
    mark = one.mark()
    program.send_signal(number)
    assert ended(program)[0] == -number
    one.wait_log("hold 1 .backup. ended after", since=mark)
    one.wait_for_state("asleep", since=mark)
    assert held(one) == []


def test_a_time_limits_the_hold_and_not_the_program(
    begin: Begin, newest: Installation, launch: Launch
) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="200ms")
    one.wait_for_state("awake")
    program = begin(one, "hold", "1s", "--", "cat")
    wait_until(lambda: "asleep" in one.states and held(one) == [])
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
    wait_until(lambda: len(json.loads(file.read_text())["holds"]) == 2)
    one.options["idle-timeout"] = "200ms"
    one.kill()
    assert ended(other)[0] == 0
    one.start()
    one.wait_for_state("awake")
    wait_until(lambda: status(one)["looks"] > 3)
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
        assert any("its program is gone, or cannot be identified" in line.text for line in one.lines[mark:])
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
        one.wait_log("hold 1 ended after")
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
    wait_until(lambda: status(one)["looks"] > looks + 5)
    assert held(one) == ["1"]
    mark = one.mark()
    assert ended(program)[0] == 0
    one.wait_for_state("asleep", since=mark)
    program = begin(one, "hold", "--", "cat")
    wait_until(lambda: f'"pid": {program.pid}' in (one.data_dir / "pgidle/holds.json").read_text())
    has_begun(program, "cat")
    one.kill()
    mark = one.mark()
    one.start()
    # Nobody can tell whether that is the same process.
    one.wait_log("hold 2 ended", since=mark)
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

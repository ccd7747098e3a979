"""`pgidle hold` and `pgidle release`, on a real Postgres: holds outlive restarts, and end with their time."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import psycopg

from harness.installations import run_as_server
from harness.orders import STAY, ended, held, status
from harness.postgres_fixture import wait_until
from harness.supervised import PATIENCE
from pgidle.control.client import request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.installations import Installation
    from harness.orders import Begin
    from harness.supervised import Launch


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
        wait_until(lambda: status(one)["leases"])
        left = {lease["name"]: lease for lease in status(one)["leases"]}
        assert left["1"]["why"] == "migration"
        assert left["1"]["ends_in"] < 3600 < left["2"]["ends_in"] < 7200
    looks = status(one)["looks"]
    wait_until(lambda: status(one)["looks"] > looks + 5)
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
        assert "not in pgidle's format" in said[0].data["reason"]
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()


def test_a_hold_that_cannot_be_kept_holds_and_says_so(newest: Installation, launch: Launch) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    (one.data_dir / "pgidle/holds.json.new").mkdir()
    done = one.pgidle("hold", "1h")
    assert done.returncode == 0
    assert "; not saved, so it ends with pgidle: Is a directory" in done.stdout
    assert held(one) == ["1"]


def test_holds_begin_and_end_where_no_thread_is_to_be_had(
    newest: Installation, launch: Launch, begin: Begin
) -> None:
    """As where a container's pids.max is used up by sessions."""
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    wait_until(lambda: status(one)["looks"] > 0)
    with psycopg.connect(one.conninfo()) as client:
        run_as_server("prlimit", "--nproc=1:", "--pid", str(one.pid))
        assert one.pgidle("hold", "1h").returncode == 0
        program = begin(one, "hold", "--", "cat")
        wait_until(lambda: len(held(one)) == 2)
        ended(program)
        wait_until(lambda: len(held(one)) == 1)
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

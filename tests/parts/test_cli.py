"""The commands, as processes, against a supervisor that answers and against nobody."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from harness.answering import Answering, make_report
from pgidle.control.orders import Hold, Order, Release, Sleep, Wake
from pgidle.lifecycle.transitions import State
from pgidle.settings.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    with Answering(tmp_path) as made:
        yield made


def pgidle(*arguments: object, **environ: str) -> Done:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "POSTGRES_"))}
    command = [sys.executable, "-m", "pgidle", *map(str, arguments)]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, check=False)


def one_line(done: Done) -> str:
    assert done.stderr.startswith("pgidle: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("pgidle: ")[:-1]


def test_status_for_people_and_for_programs(answering: Answering) -> None:
    done = pgidle("status", "--state-dir", answering.state_dir)
    assert done.returncode == 0
    # 90 s, and as long as the command took to ask.
    assert done.stdout.startswith("Awake for 1min ")
    assert "\nstate       awake for 1min " in done.stdout
    done = pgidle("status", "--json", "--state-dir", answering.state_dir)
    assert json.loads(done.stdout)["state"] == "awake"


@pytest.mark.parametrize(("state", "status"), [(State.STARTING, 0), (State.ASLEEP, 0), (State.FAILED, 1)])
def test_health_is_an_exit_status(answering: Answering, state: State, status: int) -> None:
    answering.report = make_report(state=state)
    done = pgidle("health", "--state-dir", answering.state_dir)
    assert (done.returncode, done.stdout) == (status, f"{state.noun}\n")


@pytest.mark.parametrize(
    ("arguments", "order"),
    [
        (("sleep",), Sleep()),
        (("sleep", "--force"), Sleep(force=True)),
        (("sleep", "--wait"), Sleep(wait=True)),
        (("wake",), Wake()),
        (("wake", "--wait"), Wake(wait=True)),
        (("wake", "--wait", "30"), Wake(wait=True)),
        (("hold", "1.5min", "--why", "a & b"), Hold(90, "a & b")),
        (("release",), Release()),
        (("release", "3"), Release("3")),
    ],
)
@pytest.mark.parametrize("granted", [True, False])
def test_orders(answering: Answering, arguments: tuple[str, ...], order: Order, granted: bool) -> None:
    asked = []

    def answer() -> None:
        message = answering.receive()
        asked.append(message.order)
        message.reply(granted, "so be it")

    supervisor = threading.Thread(target=answer)
    supervisor.start()
    done = pgidle(*arguments, "--state-dir", answering.state_dir)
    supervisor.join()
    assert asked == [order]
    if granted:
        assert (done.returncode, done.stdout, done.stderr) == (0, "so be it\n", "")
    else:
        assert (done.returncode, done.stdout, one_line(done)) == (1, "", "so be it")


def test_the_supervisor_is_found_by_its_data_directory(tmp_path: Path) -> None:
    with Answering(tmp_path) as made:
        made.state_dir.rename(made.data_dir / "pgidle")
        by_option = pgidle("health", "-D", made.data_dir)
        by_environment = pgidle("health", PGDATA=str(made.data_dir))
        own = pgidle("health", PGIDLE_STATE_DIR=str(made.data_dir / "pgidle"))
        (tmp_path / "x.toml").write_text(f"data-dir = '{made.data_dir}'\n")
        by_file = pgidle("health", "--config", tmp_path / "x.toml")
    assert [done.returncode for done in (by_option, by_environment, own, by_file)] == [0] * 4


def test_settings_that_do_not_matter_keep_nobody_from_looking(answering: Answering, tmp_path: Path) -> None:
    (tmp_path / "pgidle.toml").write_text("state-dir = 'state'\nport = 'nonsense'\nunknown = 1\n")
    wrong = {"PGIDLE_PORT": "x", "PGIDLE_NONSENSE": "x", "PGPORT": "x"}
    done = pgidle("health", "-D", answering.data_dir, "--state-dir", answering.state_dir, **wrong)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "pgidle.toml").write_text(f"state-dir = '{answering.state_dir}'\nport = 'nonsense'\n")
    done = pgidle("health", "-D", answering.data_dir, **wrong)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_file_is_said_and_passed_over(tmp_path: Path) -> None:
    with Answering(tmp_path) as made:
        made.state_dir.rename(made.data_dir / "pgidle")
        (tmp_path / "pgidle.toml").write_text("= broken")
        done = pgidle("health", "-D", made.data_dir)
    assert (done.returncode, done.stdout) == (0, "awake\n")
    assert "pgidle.toml" in one_line(done)


def test_nobody_is_there(tmp_path: Path) -> None:
    for command in (("health",), ("sleep",), ("wake",), ("hold", "1min"), ("release",)):
        done = pgidle(*command, "-D", tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert one_line(done).startswith(f"no pgidle is running at {tmp_path}/pgidle")
    done = pgidle("status", "-D", tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    where = f"no pgidle is running at {tmp_path}/pgidle: see --data-dir and --state-dir"
    first = "Not running, and no sleep is on record.\n"
    assert done.stdout == f"{first}{where}\n"


HUGE = f'{{"why": "x", "at": 1{"0" * 400}, "seconds": 1}}'


@pytest.mark.parametrize("kept", ["", "[]", "{", '{"why": "x"}', '{"why": "x", "at": "y"}', HUGE])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, kept: str) -> None:
    (tmp_path / "last.json").write_text(kept)
    done = pgidle("status", "--json", "--state-dir", tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout) == {
        "state": "not running",
        "last_sleep": None,
        "failure": None,
        "ended": None,
    }


def test_the_last_sleep_outlives_the_supervisor(tmp_path: Path) -> None:
    (tmp_path / "last.json").write_text('{"why": "idle for 5min", "at": 1795390801.5, "sleeps": []}')
    done = pgidle("status", "--state-dir", tmp_path)
    assert done.returncode == 3
    assert re.match(
        r"Not running; Postgres was last put to sleep [\w ]+ ago: it was idle for 5min\.\n", done.stdout
    )
    assert done.stdout.endswith("\nlast sleep: 2026-11-22 23:40:01 UTC: idle for 5min\n")
    done = pgidle("status", "--json", "--state-dir", tmp_path)
    assert json.loads(done.stdout)["last_sleep"] == {
        "why": "idle for 5min",
        "at": 1795390801.5,
        "seconds": None,
    }


LINE = '{"at":%f,"up":1,"run":%d,"n":%d,"event":"%s","why":"SIGTERM received","state":"terminating"}\n'


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((LINE % (1.7e9, 5, 1, "started"), LINE % (1.6e9, 4, 2, "exited")), "; it ended "),
        ((LINE % (1.7e9, 5, 1, "exited"), '{"torn'), "; it ended "),
        ((LINE % (1.7e9, 5, 1, "exited"), LINE % (1.7e9, 6, 1, "woken")), ": pgidle was killed, or "),
        (
            (*(LINE % (1.7e9, 5, n, "use") for n in range(9999)), LINE % (1.7e9, 5, 9999, "exited")),
            "; it ended ",
        ),
        (("nonsense\n",), ", and no sleep is on record"),
        ((), ", and no sleep is on record"),
    ],
    ids=["by its place", "torn", "killed", "long", "nonsense", "empty"],
)
def test_the_journals_last_line_tells_how_it_ended(tmp_path: Path, lines: tuple[str, ...], says: str) -> None:
    (tmp_path / "journal.jsonl").write_text("".join(lines))
    done = pgidle("status", "--state-dir", tmp_path)
    assert done.returncode == 3
    assert done.stdout.startswith(f"Not running{says}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("status", "--nonsense"),
        ("hold",),
        ("hold", "--"),
        ("hold", "soon"),
        ("hold", "soon", "--", "true"),
        ("hold", "--", ""),
        ("wake", "-D", "/nowhere", "--wait", "soon"),
        ("sleep", "-D", "/nowhere", "--wait", "0"),
        ("release", "1", "2"),
        ("hold", "0"),
        ("status",),
        ("run", "-D", "/nowhere", "stray"),
        ("run", "-D"),
        ("run", "-D", "/nowhere", "--idle-timeout", "soon"),
        ("config", "-D", "/nowhere", "--port", "0"),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    done = pgidle(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"pgidle[^\n]*: [^\n]+\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("start",), "pgidle: there is no start: write run for the supervisor, wake for Postgres"),
        (("-v",), "write --version"),
        (("statsu",), "Did you mean 'status'?"),
        (("init",), "Choose from: fly, systemd, compose, kubernetes (pgidle init --help)"),
        (
            ("run", "--idle-timout", "5min"),
            "'--idle-timeout', '--stop-timeout'?); arguments for postgres go after --",
        ),
        (("run", "shared_buffers=64MB"), "arguments for postgres go after -- (pgidle run --help)"),
        (("run", "--idle-timeout"), "option '--idle-timeout' requires an argument (pgidle --help)"),
        (
            ("hold", "2h", "pg_dump"),
            "pgidle hold: got unexpected extra argument (pg_dump); a program goes after -- (pgidle hold --help)",
        ),
    ],
)
def test_mistakes_are_told_what_to_write(arguments: tuple[str, ...], says: str) -> None:
    done = pgidle(*arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_nothing_asked_for_is_told_what_there_is() -> None:
    """Each command's line is whole, and in the order in which they are met."""
    for done in (pgidle(), pgidle("--help")):
        commands = (done.stdout + done.stderr).partition("Commands:\n")[2].splitlines()
        assert [line.split()[0] for line in commands[:2]] == ["run", "status"]
        assert [line for line in commands if line.endswith("...")] == []
    assert done.returncode == 0


def test_help_names_every_option_and_variable() -> None:
    done = pgidle("run", "--help")
    assert done.returncode == 0
    for option in OPTIONS:
        for name in (f"--{option.name} ", *option.flags, option.variable, *option.env):
            assert name in done.stdout


def test_config_says_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "pgidle.toml").write_text("min-awake = '10s'\nidle-timeout = '1h'\n")
    environ = {"PGIDLE_IDLE_TIMEOUT": "2min", "PGPORT": "5433"}
    arguments = ("config", "-D", tmp_path / "data", "--when-idle", "stay")
    said = json.loads(pgidle(*arguments, "--json", **environ).stdout)
    assert said.keys() == {option.name for option in OPTIONS}
    file = str(tmp_path / "pgidle.toml")
    assert said["min-awake"] == {"value": "10s", "source": "file", "from": file}
    assert said["idle-timeout"] == {"value": "2min", "source": "environment", "from": "PGIDLE_IDLE_TIMEOUT"}
    assert said["port"] == {"value": "5433", "source": "environment", "from": "PGPORT"}
    assert said["when-idle"] == {"value": "stay", "source": "option", "from": "--when-idle"}
    assert said["http"] == {"value": "127.0.0.1:8008", "source": "default", "from": "default"}
    lines = pgidle(*arguments, **environ).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [option.name for option in OPTIONS]
    assert lines[6].split() == ["min-awake", "10s", "file:", file]


def test_config_refuses_what_run_would(tmp_path: Path) -> None:
    done = pgidle("config", "-D", tmp_path, PGIDLE_IDLE_TIMEOUT="5 minutes")
    assert (done.returncode, done.stdout) == (2, "")
    assert one_line(done).startswith("PGIDLE_IDLE_TIMEOUT: '5 minutes' is not a duration")


def test_a_working_directory_that_was_removed_ends_no_command(tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    command = [sys.executable, "-P", "-m", "pgidle", "status", "-D", str(tmp_path / "data")]
    done = subprocess.run(
        ["sh", "-c", script, "sh", gone, *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert "no pgidle is running at" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("status", "--watch", "abc"), "--watch: 'abc' is not a duration"),
        (("top", "--every", "x"), "--every: 'x' is not a duration"),
        (("sleep", "--wait", "foo"), "--wait: 'foo' is not a duration"),
        (("hold", "xyz"), "hold: 'xyz' is not a duration"),
    ],
)
def test_a_wrong_time_is_told_with_its_option(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    where = () if arguments[0] == "top" else ("--state-dir", tmp_path)
    done = pgidle(*arguments, *where)
    assert done.returncode == 2
    assert one_line(done).startswith(complaint)


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ({"event": "exited", "state": "terminating", "why": "SIGINT received"}, "Not running; it ended"),
        ({"event": "use", "idle": 1.0}, "Not running: pgidle was killed, or its machine was lost"),
    ],
)
def test_an_order_to_none_says_how_the_last_one_ended(
    tmp_path: Path, last: dict[str, object], says: str
) -> None:
    line = {"at": time.time() - 60, "up": 1.0, "run": 1, "n": 1, **last}
    (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
    done = pgidle("wake", "--state-dir", tmp_path)
    assert done.returncode == 1
    assert says in one_line(done)
    assert one_line(done).endswith(": pgidle run, or the platform, starts it")

"""`pgidle status --watch` on a real terminal, and where there is none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from harness.answering import Answering, make_report
from harness.impostor import impostor
from harness.terminal import ALTERNATE, BEHIND_A_SHELL, Terminal
from pgidle.control.status import Memory, as_dict
from pgidle.idle.flapping import LastSleep
from pgidle.lifecycle.transitions import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PGIDLE = (sys.executable, "-m", "pgidle")


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    with Answering(tmp_path) as made:
        yield made


def watch(answering: Answering, every: str = "0.1") -> list[str]:
    return [*PGIDLE, "status", "--watch", every, "--state-dir", str(answering.state_dir)]


@pytest.mark.parametrize("key", ["q", "\x03", "\x04"], ids=["q", "Ctrl-C", "Ctrl-D"])
def test_it_shows_what_changes_until_somebody_quits(answering: Answering, key: str) -> None:
    with Terminal(watch(answering)) as terminal:
        terminal.wait_for("Awake for 1min 3")
        answering.report = make_report(state=State.DROWSY, why="idle 5min")
        terminal.wait_for("About to sleep: idle 5min.")
        assert not terminal.is_restored()
        terminal.press(key)
        assert terminal.wait() == 0
        assert terminal.is_restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(answering: Answering, number: signal.Signals) -> None:
    with Terminal(watch(answering)) as terminal:
        terminal.wait_for("Awake")
        terminal.process.send_signal(number)
        assert terminal.wait() == -number
        assert terminal.is_restored()


def test_an_error_leaves_the_terminal_as_it_was(answering: Answering) -> None:
    broken = "import pgidle.cli.status as s, sys; s.wrapped = None; from pgidle.__main__ import main; main()"
    with Terminal([sys.executable, "-c", broken, *watch(answering)[3:]]) as terminal:
        assert terminal.wait() == 1
        assert "TypeError" in terminal.said.rpartition(ALTERNATE)[2]
        assert terminal.is_restored()


def test_stopped_it_gives_the_terminal_back_and_goes_on_when_continued(answering: Answering) -> None:
    with Terminal([sys.executable, "-c", BEHIND_A_SHELL, *watch(answering)]) as terminal:
        terminal.wait_for("Awake")
        terminal.press("\x1a")
        terminal.wait_until(lambda: "STOPPED" in terminal.said)
        assert terminal.is_restored()
        answering.report = make_report(state=State.DROWSY, why="idle 5min")
        terminal.press("\n")
        terminal.wait_for("About to sleep")
        assert not terminal.is_restored()
        terminal.press("q")
        terminal.wait_until(lambda: "ENDED 0" in terminal.said)
        assert terminal.is_restored()


def test_it_fits_every_size(answering: Answering) -> None:
    answering.report = make_report(why="x " * 100)
    with Terminal(watch(answering, "60"), width=80, height=24) as terminal:
        terminal.wait_for("so far")
        for width, height in ((40, 10), (20, 5), (200, 50), (1, 1), (80, 24)):
            before = len(terminal.said)
            terminal.resize(width, height)
            terminal.wait_until(lambda before=before: len(terminal.said) > before)
            terminal.read(0.3)
            assert len(terminal.screen()) <= height
            assert max(map(len, terminal.screen())) <= width
        terminal.press("q")
        assert terminal.wait() == 0


def test_what_does_not_fit_can_be_moved_to(answering: Answering) -> None:
    with Terminal(watch(answering), height=6) as terminal:
        terminal.wait_for("more lines")
        assert "so far" not in "\n".join(terminal.screen())
        terminal.press("G")
        terminal.wait_for("so far")
        terminal.press("\x1b[A")
        terminal.press("g")
        terminal.wait_for("state ")
        terminal.press("q")
        assert terminal.wait() == 0


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {}], ids=["without colour", "in colour"])
def test_colour_only_where_it_is_wanted(answering: Answering, env: dict[str, str]) -> None:
    with Terminal(watch(answering), env=env) as terminal:
        terminal.wait_for("so far")
        terminal.press("q")
        terminal.wait()
        assert ("\x1b[1;32m" in terminal.said) == (not env)


def test_on_a_terminal_that_cannot_move_its_cursor_blocks_follow_each_other(answering: Answering) -> None:
    with Terminal(watch(answering), env={"TERM": "dumb"}) as terminal:
        terminal.wait_until(lambda: terminal.said.count("so far") >= 2)
        assert "\x1b[?" not in terminal.said
        assert "\x1b[H" not in terminal.said
        terminal.press("\x03")
        assert terminal.wait() == 0


def test_in_a_pipe_blocks_follow_each_other_until_the_reader_has_enough(answering: Answering) -> None:
    ran = subprocess.Popen(watch(answering), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert ran.stdout is not None
    assert ran.stderr is not None
    seen = ""
    while seen.count("so far") < 2:
        seen += ran.stdout.readline()
    assert "\x1b" not in seen
    assert "\n\nAwake" in seen
    ran.stdout.close()
    assert ran.wait(30) == 1
    assert ran.stderr.read() == ""
    ran.stderr.close()


def test_programs_get_a_line_each_time(answering: Answering) -> None:
    with subprocess.Popen(
        [*watch(answering), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ran:
        assert ran.stdout is not None
        assert [json.loads(ran.stdout.readline())["state"] for _ in range(2)] == ["awake"] * 2
        ran.send_signal(signal.SIGINT)
        assert ran.wait(30) == 0


def test_without_a_keyboard_it_goes_on(answering: Answering) -> None:
    """`pgidle status --watch </dev/null`: that is at its end at once, which must not end it."""
    command = ["sh", "-c", 'exec "$@" </dev/null', "sh", *watch(answering)]
    with Terminal(command) as terminal:
        terminal.wait_for("so far")
        drawn = terminal.said.count("\x1b[H")
        terminal.wait_until(lambda: terminal.said.count("\x1b[H") > drawn + 2)
        assert terminal.process.poll() is None
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 0
        assert terminal.is_restored()


def test_one_that_sleeps_is_not_asked_again_and_its_time_goes_on(answering: Answering) -> None:
    """Its observer would be started for that, and never end."""
    slept = LastSleep("idle 5min", 1.8e9, None)
    answering.report = make_report(state=State.ASLEEP, since=time.monotonic() - 5, last_sleep=slept)
    with Terminal(watch(answering)) as terminal:
        terminal.wait_for("Asleep for")
        first = terminal.screen()[0]
        # What a second answer would say.
        answering.report = make_report(state=State.ASLEEP, since=time.monotonic() - 36000)
        terminal.wait_until(
            lambda: terminal.screen()[0].startswith("Asleep for") and terminal.screen()[0] != first
        )
        assert "Asleep for 10h" not in terminal.said
        answering.report = make_report()
        terminal.wait_for("Awake for 1min")
        terminal.press("q")
        assert terminal.wait() == 0


def test_one_that_ends_meanwhile_is_told_as_such_and_waited_for(tmp_path: Path) -> None:
    with Answering(tmp_path) as made, Terminal(watch(made)) as terminal:
        terminal.wait_for("Awake")
        (made.state_dir / "control.sock").rename(tmp_path / "away")
        terminal.wait_for("Not running, and no sleep is on record.")
        terminal.wait_for("no pgidle is running at")
        (tmp_path / "away").rename(made.state_dir / "control.sock")
        terminal.wait_for("Awake")
        terminal.press("q")
        assert terminal.wait() == 0


@pytest.mark.parametrize("wrong", ["0", "soon", "0.01", "2d"])
def test_a_time_that_makes_no_sense_is_refused(answering: Answering, wrong: str) -> None:
    done = subprocess.run(watch(answering, wrong), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def status_with(**changes: object) -> dict[str, Any]:
    now = time.monotonic()
    said = as_dict(make_report(), now, time.time(), Memory(2**20, 2**20, 2**20))
    return json.loads(json.dumps(said)) | changes


@pytest.mark.parametrize(
    "said",
    [
        {"state": "asleep", "seconds_in_state": 10**400},
        {"state": "not running"},
        {"state": "not running", "failure": {"at": 1e17, "why": "x"}, "last_sleep": None, "ended": None},
        status_with(seconds_in_state=float("nan")),
        status_with(last_sleep={"at": 1e17, "why": "x", "seconds": None}),
        status_with(last_sleep={"at": 10**400, "why": "x", "seconds": None}),
        status_with(last_sleep={"at": 1.0, "why": "x", "seconds": 10**400}),
        status_with(uptime=float("inf")),
        status_with(state=["awake"]),
    ],
    ids=lambda said: repr(said)[:20],
)
def test_an_answer_that_makes_no_sense_is_one_line(tmp_path: Path, said: dict[str, Any]) -> None:
    body = json.dumps(said).encode()
    with impostor(tmp_path / "state", body) as state_dir:
        for options in ([], ["--watch", "0.1"]):
            command = [*PGIDLE, "status", "--state-dir", state_dir, *options]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ran:
                assert ran.stdout is not None
                assert ran.stderr is not None
                line = ran.stdout.readline() if options else ran.stderr.readline()
                if options:
                    ran.send_signal(signal.SIGINT)
                rest = ran.stderr.read()
            assert line.startswith("pgidle: what answers") or "is no pgidle" in line, line + rest
            assert "Traceback" not in rest

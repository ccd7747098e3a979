"""`pgidle top` over real sockets: who is found, who hangs, who answers nonsense; on a real terminal, and without."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from harness.answering import Answering, make_report
from harness.attacked import needs_root
from harness.installations import server_user
from harness.terminal import Terminal
from pgidle.idle.flapping import LastSleep
from pgidle.lifecycle.transitions import State
from pgidle.system import control_socket
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.installations import Installation
    from harness.supervised import Launch

TOP = (sys.executable, "-m", "pgidle", "top")
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    with Answering(tmp_path) as made:
        made.report = make_report(data_dir="/srv/found")
        yield made


def top(*arguments: str, **more: Any) -> Done:
    return subprocess.run([*TOP, *arguments], capture_output=True, text=True, check=False, **more)


def found(*arguments: str, **more: Any) -> dict[str, dict[str, Any]]:
    """The answers, by where they come from. Others may run pgidle on this machine, too."""
    answers = json.loads(top("--json", *arguments, **more).stdout)["pgidle"]
    return {one["where"]: one for one in answers}


@contextmanager
def listening(place: Path) -> Iterator[socket.socket]:
    """A control socket at which nobody answers."""
    state_dir = StateDir(str(place))
    listener = control_socket.listen(state_dir)
    try:
        yield listener
    finally:
        listener.close()
        os.close(state_dir.folder)


def test_one_is_found_by_its_control_socket(answering: Answering) -> None:
    status = found()[str(answering.state_dir)]["status"]
    assert (status["state"], status["data_dir"]) == ("awake", "/srv/found")
    once = top("--once")
    assert "/srv/found" not in once.stdout, "an answer may say anything"
    assert once.returncode == 0
    assert [line for line in once.stdout.splitlines() if f"{str(answering.state_dir)[-20:]} awake " in line]
    assert "\x1b" not in once.stdout


def test_a_real_one_in_every_state(launch: Launch, installation: Installation) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="1h")
    one.wait_for_state("awake")
    state_dir = str(one.data_dir / "pgidle")
    status = found()[state_dir]["status"]
    assert status["state"] == "awake"
    assert status["data_dir"] == str(one.data_dir)
    assert one.pgidle("sleep", "--wait").returncode == 0
    asleep = found()[state_dir]["status"]
    assert asleep["state"] == "asleep"
    assert asleep["last_sleep"]["why"] == "asked to sleep"
    table = top("--once").stdout
    assert re.search(rf"{re.escape(str(one.data_dir)[-10:])}( \(\w+\))? +asleep ", table)
    assert "it was asked to sleep. The next client wakes it." in table


def test_asking_is_no_use(launch: Launch, installation: Installation) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="2s")
    with subprocess.Popen([*TOP, "--every", "0.1s"], stdout=subprocess.PIPE, text=True) as asking:
        one.wait_for_state("asleep")
        mark = one.mark()
        assert asking.stdout is not None
        while " asleep " not in asking.stdout.readline():
            continue
        assert one.states[-1] == "asleep"
        assert "starting" not in [line.data.get("state") for line in one.lines[mark:]]
        asking.send_signal(signal.SIGINT)
        asking.stdout.read()
        assert asking.wait(30) == 0


def test_watching_the_status_is_no_use(launch: Launch, installation: Installation) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="2s")
    command = [sys.executable, "-m", "pgidle", "status", "--watch", "0.2", "-D", str(one.data_dir)]
    with Terminal(command) as terminal:
        terminal.wait_for("Awake")
        one.wait_for_state("asleep")
        terminal.wait_for("Asleep")
        terminal.press("q")
        assert terminal.wait() == 0
    assert one.states[-1] == "asleep"


def test_who_hangs_or_talks_nonsense_holds_up_nobody(answering: Answering, tmp_path: Path) -> None:
    with (
        listening(tmp_path / "hangs") as hanging,
        listening(tmp_path / "closes") as closing,
        listening(tmp_path / "babbles") as babbling,
    ):
        threading.Thread(target=say, args=(closing, b""), daemon=True).start()
        body = b'{"state": "awake", "why": 7}'
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        threading.Thread(target=say, args=(babbling, head + body), daemon=True).start()
        with Terminal([*TOP, "--every", "0.1"], height=100) as terminal:
            terminal.wait_for(str(answering.state_dir)[-12:])
            terminal.wait_for("Nobody has looked yet")
            terminal.wait_for("it exited before it answered")
            terminal.wait_for("not a pgidle of this version")
            answering.report = make_report(data_dir="/srv/found", state=State.DROWSY, why="idle 5min")
            terminal.wait_for("About to sleep: idle 5min.")
            terminal.wait_for("it did not answer within 4 s")
            terminal.press("q")
            assert terminal.wait() == 0
            assert terminal.is_restored()
        hanging.getsockname()


def say(listener: socket.socket, answer: bytes) -> None:
    try:
        while True:
            one, _ = listener.accept()
            one.recv(4096)
            one.sendall(answer)
            one.close()
    except OSError:
        return


def test_remote_ones_by_url(answering: Answering) -> None:
    url = f"http://127.0.0.1:{answering.port}"
    assert found(url)[url]["status"]["data_dir"] == "/srv/found"
    assert top("--once", f"127.0.0.1:{answering.port}").returncode == 0
    silent = socket.create_server(("127.0.0.1", 0))
    dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
    silent.close()
    done = top("--once", url, dead)
    assert done.returncode == 1
    assert f"cannot connect to {dead}: Connection refused" in done.stdout
    assert top("--once", "ftp://x").returncode == 2


def test_a_server_that_is_no_pgidle_is_told_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = b'{"message": "Not Found"}'
        head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body)
        threading.Thread(target=say, args=(server, head + body), daemon=True).start()
        done = top("--once", f"127.0.0.1:{server.getsockname()[1]}")
        assert done.returncode == 1
        assert "is no pgidle" in done.stdout


@needs_root
def test_whose_it_is_is_told_unless_it_is_roots_or_ones_own(answering: Answering) -> None:
    account = server_user()
    os.chown(answering.state_dir, account.pw_uid, account.pw_gid)
    os.chown(answering.state_dir / "control.sock", account.pw_uid, account.pw_gid)
    assert found()[str(answering.state_dir)]["owner"] == account.pw_name
    assert f"{str(answering.state_dir)[-20:]} ({account.pw_name}) awake " in top("--once").stdout


def test_one_that_sleeps_is_not_asked_for_more(answering: Answering) -> None:
    answering.report = make_report(state=State.ASLEEP, last_sleep=LastSleep("x", 1.0, None))
    (answering.state_dir / "last.json").write_text('{"why": "idle 5min", "at": 1795390801.5, "sleeps": []}')
    status = found()[str(answering.state_dir)]["status"]
    assert (status["state"], status["last_sleep"]["why"]) == ("asleep", "idle 5min")
    url = f"http://127.0.0.1:{answering.port}"
    assert found(url)[url]["status"]["last_sleep"]["why"] == "x"


def test_one_that_ends_stays_in_the_table_and_a_new_one_comes(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with Terminal([*TOP, "--every", "0.1"], height=100) as terminal:
        with Answering(tmp_path / "late") as made:
            made.report = make_report(data_dir="/srv/late")
            terminal.wait_for(str(made.state_dir)[-12:])
        terminal.wait_for("Not running, and no sleep is on record.")
        terminal.press("q")
        assert terminal.wait() == 0


@pytest.mark.parametrize("key", ["q", "\x03"])
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}], ids=["colour", "plain"])
def test_it_is_usable_in_eighty_columns(answering: Answering, env: dict[str, str], key: str) -> None:
    with Terminal([*TOP], env=env) as terminal:
        terminal.wait_for("sleeps in")
        assert max(map(len, terminal.screen())) <= 80
        for width, height in ((200, 50), (60, 12), (80, 24)):
            before = len(terminal.said)
            terminal.resize(width, height)
            terminal.wait_until(lambda before=before: len(terminal.said) > before)
            terminal.read(0.2)
            assert max(map(len, terminal.screen())) <= width
            assert len(terminal.screen()) <= height
        terminal.press(key)
        assert terminal.wait() == 0
        assert terminal.is_restored()
        assert ("\x1b[1;32m" in terminal.said) == (not env)


def test_it_ends_by_a_signal_as_others_do(answering: Answering) -> None:
    with Terminal([*TOP]) as terminal:
        terminal.wait_for("sleeps in")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == -signal.SIGTERM
        assert terminal.is_restored()


@needs_root
def test_where_none_runs_it_says_so() -> None:
    done = subprocess.run(["unshare", "--net", *TOP, "--once"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "no pgidle runs here\n")


@needs_root
def test_another_users_are_counted(answering: Answering) -> None:
    """The folders above it are the runner's."""
    answering.state_dir.chmod(0o700)
    account = server_user()
    done = top("--json", user=account.pw_uid, group=account.pw_gid, extra_groups=[])
    said = json.loads(done.stdout)
    assert str(answering.state_dir) not in [one["where"] for one in said["pgidle"]]
    assert said["could_not_be_asked"] >= 1


def test_another_programs_control_socket_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "control.sock"))
        other.listen()
        other.setblocking(False)
        assert str(tmp_path) not in found()
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_path_that_is_too_long_for_a_socket_is_counted(tmp_path: Path) -> None:
    before = json.loads(top("--json").stdout)["could_not_be_asked"]
    deep = tmp_path / ("d" * 100)
    with listening(deep):
        deadline = time.monotonic() + 30
        while json.loads(top("--json").stdout)["could_not_be_asked"] <= before:
            assert time.monotonic() < deadline

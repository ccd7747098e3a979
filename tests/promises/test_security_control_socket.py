"""The control socket: whom it answers, and what whoever answers in its place can do to root."""

from __future__ import annotations

import json
import pwd
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.attacked import Attacked, give, needs_root
from harness.installations import server_user
from harness.postgres_fixture import wait_until
from pgidle.base.errors import PgidleError
from pgidle.cli import health
from pgidle.control.client import request

if TYPE_CHECKING:
    from harness.installations import Installation
    from harness.supervised import Launch


@needs_root
def test_root_connects_to_no_socket_that_a_link_leads_to(attacked: Attacked) -> None:
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    give(state_dir, server_user())
    with socket.socket(socket.AF_UNIX) as precious:
        precious.bind(str(attacked.safe / "engine.sock"))
        precious.listen()
        precious.setblocking(False)
        (state_dir / "control.sock").symlink_to(attacked.safe / "engine.sock")
        for command in ("status", "health", "sleep", "wake", "release", "doctor"):
            attacked.run(command)
            with pytest.raises(BlockingIOError):
                precious.accept()


@needs_root
def test_an_answer_steers_no_terminal(attacked: Attacked) -> None:
    """Postgres's user may answer in the supervisor's place."""
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    give(state_dir, server_user())
    said = "\x1b]0;owned\x07\n"
    body = json.dumps(dict.fromkeys(("state", "message", "why", "error"), said)).encode()
    with socket.socket(socket.AF_UNIX) as false:
        false.bind(str(state_dir / "control.sock"))
        false.listen()
        give(state_dir / "control.sock", server_user())
        for command, status in (
            ("health", 200),
            ("wake", 200),
            ("wake", 500),
            ("status", 200),
            ("doctor", 200),
        ):
            answering = subprocess.Popen(
                [sys.executable, "-c", ANSWER, str(false.fileno()), str(status), body],
                pass_fds=(false.fileno(),),
            )
            try:
                told = attacked.run(command)
            finally:
                answering.kill()
                answering.wait()
            assert "\x1b" not in told
            assert "Traceback" not in told
    assert told


@needs_root
def test_an_answer_that_never_ends_is_not_waited_for(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    give(state_dir, server_user())
    with socket.socket(socket.AF_UNIX) as false:
        false.bind(str(state_dir / "control.sock"))
        false.listen()
        give(state_dir / "control.sock", server_user())
        dripping = subprocess.Popen(
            [sys.executable, "-c", DRIP, str(false.fileno())], pass_fds=(false.fileno(),)
        )
        try:
            with pytest.raises(PgidleError, match="exited before it answered"):
                request(str(state_dir), "GET", "/status", 0.5)
            monkeypatch.setattr(health, "TIMEOUT", 0.5)
            assert health.health({"PGDATA": str(attacked.data_dir)}) is None
        finally:
            dripping.kill()
            dripping.wait()


DRIP = """
import socket, sys, time
with socket.socket(fileno=int(sys.argv[1])) as listener:
    while True:
        one, _ = listener.accept()
        try:
            while True:
                one.sendall(b"H")
                time.sleep(0.05)
        except OSError:
            pass
"""


ANSWER = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as listener:
    while True:
        one, _ = listener.accept()
        one.recv(4096)
        body = sys.argv[3].encode()
        one.sendall(b"HTTP/1.1 %d X\\r\\nContent-Length: %d\\r\\n\\r\\n" % (int(sys.argv[2]), len(body)) + body)
        one.close()
"""


CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.settimeout(20)
    one.connect(sys.argv[1])
    try:
        one.sendall(b"GET /status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        print(len(one.recv(100)))
    except (BrokenPipeError, ConnectionResetError):
        print(0)
"""


@needs_root
def test_the_control_socket_answers_root_and_postgres_s_user_alone(
    launch: Launch, newest: Installation
) -> None:
    one = launch(newest, when_idle="stay")
    one.wait_for_state("awake")
    wait_until(lambda: one.pgidle("status").returncode == 0)
    path = one.data_dir / "pgidle/control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    # Whatever becomes of the modes.
    for each, mode in ((one.data_dir, 0o701), (path.parent, 0o701), (path, 0o666)):
        each.chmod(mode)

    def answered(user: pwd.struct_passwd) -> bool:
        ran = subprocess.run(
            ["/usr/bin/env", "python3", "-c", CONNECT, str(path)],
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        return int(ran.stdout) > 0

    assert answered(server_user())
    assert answered(pwd.getpwuid(0))
    assert not answered(pwd.getpwnam("nobody"))

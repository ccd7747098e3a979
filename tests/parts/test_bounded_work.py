"""What runs for a limited time, and what is left of it: nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness.installations import server_user
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Place

RUN = """
import json, os, sys
from pgidle.system.bounded_work import run_bounded
seconds, script = float(sys.argv[1]), sys.argv[2]
def work(say):
    if script.startswith("say "):
        say(script[4:])
    elif script == "raise":
        raise LookupError
    else:
        os.execv("/bin/sh", ["sh", "-c", "exec >/dev/null; " + script])
ended = run_bounded(work, (), seconds)
try:
    os.waitpid(-1, os.WNOHANG)
    children = True
except ChildProcessError:
    children = False
print(json.dumps([ended.status, ended.said, children, sorted(map(int, os.listdir("/proc/self/fd")))[:-1]]))
"""


def run(script: str, seconds: float = 30) -> tuple[Any, ...]:
    """Status and what was said; whether children are left; open descriptors."""
    command = [sys.executable, "-c", RUN, str(seconds), script]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return tuple(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("exit 0", 0, ""),
        ("exit 5", 5, ""),
        ("kill -9 $$", -9, ""),
        ("kill -13 $$", -13, ""),
        ("say what is wrong", 0, "what is wrong"),
        (f"say {'x' * 5000}", 0, "x" * 1000),
        ("raise", 1, ""),
    ],
)
def test_how_it_ended_is_known(script: str, status: int, said: str) -> None:
    assert run(script) == (status, said, False, [0, 1, 2])


@pytest.mark.parametrize("seconds", [30, 0.3], ids=["in time", "too late"])
def test_nothing_of_it_is_left(tmp_path: Path, seconds: float) -> None:
    pids = tmp_path / "pids"
    note = f"echo $! >> {pids}"
    script = (
        f"sleep 100 & {note}; setsid sleep 100 & {note}; trap '' TERM; (trap '' TERM; sleep 100) & {note};"
        f" (setsid sh -c 'setsid sleep 100 & {note}' &); until [ $(wc -l < {pids}) = 4 ]; do sleep 0.01; done;"
    )
    status, _, children, _ = run(script + (" sleep 100" if seconds < 30 else ""), seconds)
    assert status == (None if seconds < 30 else 0)
    assert not children
    found = [int(word) for word in pids.read_text().split()]
    assert not [pid for pid in found if psutil.pid_exists(pid)]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("seconds", "is_child"),
    [(30, False), (0.3, False), (0.3, True)],
    ids=["left behind", "left behind, too late", "itself"],
)
def test_what_has_become_another_user_is_not_waited_for(place: Place, seconds: float, is_child: bool) -> None:
    folder, user = place.folder(), server_user()
    become_root, foreign, own = folder / "setpriv", folder / "foreign", folder / "own"
    shutil.copy("/usr/bin/setpriv", become_root)
    become_root.chmod(0o4755)
    root = f"{become_root} --reuid=0 sh -c 'echo $$ > {foreign}; exec sleep 300 2>&1'"
    script = f"exec {root}"
    if not is_child:
        wait = f"until [ -s {foreign} ]; do sleep 0.01; done"
        script = (
            f"{root} & setsid sleep 300 2>&1 & echo $! > {own}; {wait}; {'sleep 300' if seconds < 30 else ''}"
        )
    command = [sys.executable, "-c", RUN, str(seconds), script]
    try:
        ran = subprocess.run(
            command,
            **{"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=30,
        )
        assert json.loads(ran.stdout)[:2] == [None if seconds < 30 else 0, ""]
        assert psutil.Process(int(foreign.read_text())).uids().real == 0
        assert is_child or not psutil.pid_exists(int(own.read_text()))
    finally:
        psutil.Process(int(foreign.read_text())).kill()


def test_it_ends_with_whoever_runs_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", RUN, "30", f"echo $$ > {pids}; exec sleep 100"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as runner:
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        runner.kill()
    wait_until(lambda: not psutil.pid_exists(int(pids.read_text())))

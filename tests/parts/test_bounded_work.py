"""What runs for a limited time, and what is left of it: nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from pathlib import Path

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


def test_it_ends_with_whoever_runs_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", RUN, "30", f"echo $$ > {pids}; exec sleep 100"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as runner:
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        runner.kill()
    wait_until(lambda: not psutil.pid_exists(int(pids.read_text())))

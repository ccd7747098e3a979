"""What root runs: as Postgres's user for good, without root's terminal, descriptors and passwords."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import pgidle
from harness.attacked import PATIENCE, SECRET, needs_root
from harness.installations import server_user
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from harness.installations import Installation
    from harness.supervised import Launch


RUN = """
import json, os, sys
from pgidle.system.users import acting_as, output_of, plan
identity = plan(sys.argv[1], "")
script = '''
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([
    os.getresuid(), os.getresgid(), sorted(os.getgroups()), int(status["CapEff"], 16) | int(status["CapPrm"], 16),
    sorted(map(int, os.listdir("/proc/self/fd")))[:-1], os.getsid(0) == os.getpid(),
    sorted(name for name in os.environ if name.startswith(("P", "S")))]))
'''
with acting_as(identity):
    print(output_of(sys.executable, ["-I", "-c", script], identity).decode())
"""


@needs_root
def test_a_program_that_root_asks_is_another_user_s_for_good(tmp_path: Path) -> None:
    user = server_user()
    precious = os.open(tmp_path, os.O_RDONLY)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", RUN, user.pw_name],
            env={
                "PATH": os.environ["PATH"],
                "POSTGRES_PASSWORD": "x",
                "PGPASSWORD": "x",
                "PGIDLE_WATCH": "x",
            },
            cwd=Path(pgidle.__file__).parents[1],
            pass_fds=(precious,),
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        os.close(precious)
    uids, gids, groups, capabilities, descriptors, is_leader, names = json.loads(ran.stdout)
    assert uids == [user.pw_uid] * 3
    assert gids == [user.pw_gid] * 3
    assert groups == sorted(os.getgrouplist(user.pw_name, user.pw_gid))
    assert capabilities == 0
    assert descriptors == [0, 1, 2]
    assert is_leader
    assert names == ["PATH"]


@needs_root
def test_postgres_has_no_terminal_and_no_descriptor_of_root_s(
    launch: Launch, newest: Installation, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("")
    one = launch(newest, start=False, when_idle="stay")
    master, slave = pty.openpty()
    opened = os.open(precious, os.O_RDWR)
    process = subprocess.Popen(
        one.command(),
        env=one.environment() | {"POSTGRES_PASSWORD": "x", "PGPASSWORD": "x", "PGIDLE_WATCH": "host=/x"},
        cwd="/",
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        pass_fds=(opened,),
    )
    try:
        wait_until(lambda: one.postmaster_pid is not None)
        pid = one.postmaster_pid
        assert pid is not None
        wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/"))
        assert psutil.Process(process.pid).terminal() is not None
        assert psutil.Process(pid).terminal() is None
        assert os.getsid(pid) == pid
        held = set()
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
                held.add(str(each.readlink()))
        assert str(precious) not in held
        for number in (1, 2):
            flags = int(Path(f"/proc/{pid}/fdinfo/{number}").read_text().split("flags:")[1].split()[0], 8)
            assert flags & os.O_ACCMODE == os.O_WRONLY
        names = {word.partition(b"=")[0] for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert not {name for name in names if b"PASSWORD" in name or name == b"PGIDLE_WATCH"}
    finally:
        process.terminate()
        process.wait(PATIENCE)
        for descriptor in (master, slave, opened):
            os.close(descriptor)


@needs_root
@pytest.mark.parametrize("starter", ["root", "postgres"])
def test_a_password_of_the_environment_is_not_for_others_of_the_user(
    launch: Launch, newest: Installation, starter: str
) -> None:
    """A superuser reads /proc as Postgres's user, who may have started pgidle, too."""
    user = server_user()
    prefix = () if starter == "root" else ("runuser", "-u", user.pw_name, "--")
    if starter == "postgres" and shutil.which("runuser") is None:
        pytest.skip("no runuser")
    one = launch(newest, env={"POSTGRES_PASSWORD": SECRET}, prefix=prefix, when_idle="stay")
    one.wait_for_state("awake")
    supervisor = one.pgidle("status", "--json")
    pid = json.loads(supervisor.stdout)["supervisor_pid"]
    assert SECRET.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    read = subprocess.run(
        ["cat", f"/proc/{pid}/environ"],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert read.returncode != 0
    assert SECRET.encode() not in read.stdout


@needs_root
def test_all_that_runs_is_postgres_s_user_for_good(launch: Launch, newest: Installation) -> None:
    user = server_user()
    groups = sorted(os.getgrouplist(user.pw_name, user.pw_gid))
    one = launch(newest, when_idle="stay")
    one.wait_for_state("awake")
    for pid in (one.pid, *(each.pid for each in one.processes())):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(user.pw_uid)] * 4
        assert status["Gid"].split() == [str(user.pw_gid)] * 4
        assert sorted(map(int, status["Groups"].split())) == groups
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapAmb")} == {0}

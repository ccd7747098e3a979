"""What docs/security.md promises of rights: nothing that a lesser user wrote makes a greater one do anything.

The lesser user is Postgres's own, as which a database superuser runs programs; the greater one is root, who runs
pgidle.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import pwd
import shutil
import socket
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import pgidle
from harness.installations import free_port, server_user
from harness.postgres_fixture import wait_until
from pgidle.base.errors import PgidleError
from pgidle.control import health
from pgidle.control.client import request
from pgidle.init.plan import File
from pgidle.init.write import write
from pgidle.postgres.debian import find_cluster
from pgidle.system.state_directory import StateDir
from pgidle.system.trusted_path import open_folder, read_trusted, trust_in
from pgidle.system.users import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Launch

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, who is to be attacked")

# A command that hangs has been attacked, too.
PATIENCE = 30.0
SECRET = "tr0ub4dor"


@dataclass
class Attacked:
    """A data directory in a folder of Postgres's user's, and root's own folder `safe`, which only root may write."""

    home: Path
    data_dir: Path
    safe: Path
    installation: Installation
    port: int
    taken: socket.socket
    more: list[str] = field(default_factory=list)

    def plant(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        """A file of Postgres's user's."""
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        give(path, server_user())
        return path

    def secret(self, text: str) -> Path:
        """A file that only root may read."""
        path = self.safe / "secret"
        path.write_text(text)
        path.chmod(0o600)
        return path

    def run(self, command: str, *arguments: str, data_dir: Path | None = None) -> str:
        """What root is told by a command; `run` never gets further than to the port, which is taken."""
        options = ["--data-dir", str(data_dir or self.data_dir)]
        if command in ("run", "config", "doctor"):
            options += ["--port", str(self.port), "--listen-addresses", "127.0.0.1", "--http", "off"]
        ran = pgidle_command(command, *options, *arguments)
        return ran.stdout + ran.stderr


def give(path: Path, user: pwd.struct_passwd) -> None:
    os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def pgidle_command(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "POSTGRES_"))}
    return subprocess.run(
        [sys.executable, "-m", "pgidle", *words],
        env={**kept, "POSTGRES_HOST_AUTH_METHOD": "trust", **environ},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def attacked(place: Place, newest: Installation) -> Iterator[Attacked]:
    home, safe = place.folder("home"), place.folder("safe")
    home.chmod(0o755)
    os.chown(safe, 0, 0)
    safe.chmod(0o755)
    data_dir = home / "data"
    place.data_dir(newest).rename(data_dir)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as taken:
        yield Attacked(home, data_dir, safe, newest, port, taken)


# Whose settings file counts


@needs_root
@pytest.mark.parametrize("command", ["run", "doctor"])
def test_no_program_that_the_file_names_is_run(attacked: Attacked, command: str) -> None:
    proof = attacked.safe / "proof"
    # Debian's dash leaves effective ids for real ones.
    attacked.plant("bin/postgres", f"#!/bin/sh\necho 'postgres (PostgreSQL) 15'\nid > {proof}\n", 0o755)
    attacked.plant("bin/initdb", "", 0o755)
    attacked.plant("pgidle.toml", f'bin_dir = "{attacked.home}/bin"\n')
    said = attacked.run(command)
    assert not proof.exists(), proof.read_text()
    assert "bin-dir does not count" in said
    assert f"is {server_user().pw_name}'s" in said


@needs_root
def test_no_program_on_the_path_is_run_as_root(attacked: Attacked) -> None:
    """PATH is the caller's, and may lead to folders of Postgres's user's."""
    proof = attacked.safe / "proof"
    attacked.plant("bin/postgres", f"#!/bin/sh\necho 'postgres (PostgreSQL) 15'\nid > {proof}\n", 0o755)
    for command in ("run", "doctor"):
        attacked.run(command, "--bin-dir", f"{attacked.home}/bin")
        assert not proof.exists(), proof.read_text()


@needs_root
def test_no_folder_that_the_file_names_is_made(attacked: Attacked) -> None:
    attacked.plant("pgidle.toml", f'state_dir = "{attacked.safe}/made"\n')
    said = attacked.run("run", "--bin-dir", str(attacked.installation.bin_dir))
    assert not (attacked.safe / "made").exists()
    assert "state-dir does not count" in said


@needs_root
@pytest.mark.parametrize(
    "line", ['user = "nobody"', 'socket_dir = "/"', 'http = ":80"', 'watch = "host=x"', 'log_format = "json"']
)
def test_what_only_a_start_goes_by_is_refused(attacked: Attacked, line: str) -> None:
    attacked.plant("pgidle.toml", f"{line}\n")
    ran = pgidle_command("run", "--data-dir", str(attacked.data_dir), "--port", str(attacked.port))
    assert ran.returncode == 2
    assert "does not count" in ran.stderr
    assert ran.stderr.count("\n") == 1


@needs_root
def test_how_postgres_sleeps_may_be_said_by_its_user(attacked: Attacked) -> None:
    attacked.plant("pgidle.toml", 'idle_timeout = "77s"\nmin-awake = "3s"\n')
    said = json.loads(attacked.run("config", "--json"))
    assert (said["idle-timeout"]["value"], said["idle-timeout"]["source"]) == ("77s", "file")
    assert said["min-awake"]["value"] == "3s"


@needs_root
def test_a_file_of_root_s_counts_whole(attacked: Attacked) -> None:
    path = attacked.safe / "shop.toml"
    path.write_text('state_dir = "/run/shop"\nidle_timeout = "78s"\n')
    said = json.loads(attacked.run("config", "--config", str(path), "--json"))
    assert (said["state-dir"]["value"], said["idle-timeout"]["value"]) == ("/run/shop", "78s")


@needs_root
def test_nobody_else_s_file_counts(attacked: Attacked) -> None:
    give(attacked.plant("pgidle.toml", 'idle_timeout = "77s"\n'), pwd.getpwnam("nobody"))
    ran = pgidle_command("run", "--data-dir", str(attacked.data_dir), "--port", str(attacked.port))
    assert ran.returncode == 2
    assert "is not read" in ran.stderr
    assert "77s" not in attacked.run("config")


@needs_root
def test_a_file_that_everybody_may_write_does_not_count(attacked: Attacked) -> None:
    attacked.plant("pgidle.toml", 'idle_timeout = "77s"\n', 0o666)
    assert "can be written by others than its owner" in attacked.run("config")


@needs_root
def test_a_link_does_not_lend_root_s_eyes(attacked: Attacked) -> None:
    (attacked.home / "pgidle.toml").symlink_to(attacked.secret('idle_timeout = "66s"\n'))
    give(attacked.home / "pgidle.toml", server_user())
    assert "66s" not in attacked.run("config")


@needs_root
@pytest.mark.parametrize("command", ["config", "status", "run", "doctor", "health", "wake"])
def test_a_pipe_in_place_of_the_file_holds_nobody_up(attacked: Attacked, command: str) -> None:
    os.mkfifo(attacked.home / "pgidle.toml")
    give(attacked.home / "pgidle.toml", server_user())
    assert "it is not a regular file" in attacked.run(command)


@needs_root
def test_a_settings_file_of_the_caller_s_own(place: Place) -> None:
    """Without root the same holds: who runs pgidle does not obey a third."""
    folder, nobody = place.folder(), pwd.getpwnam("nobody")
    folder.chmod(0o755)
    path = folder / "pgidle.toml"
    path.write_text('idle_timeout = "77s"\n')
    user = server_user()
    command = [sys.executable, "-m", "pgidle", "config", "-D", str(folder / "data")]
    for owner, counts in ((user, True), (nobody, False)):
        give(path, owner)
        ran = subprocess.run(
            command,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert ("77s" in ran.stdout) is counts, ran.stderr
        assert ("chown it to yourself" in ran.stderr) is not counts


@needs_root
def test_the_file_is_judged_again_when_it_changes(launch: Launch, newest: Installation, place: Place) -> None:
    home = place.folder("home")
    home.chmod(0o755)
    place.data_dir(newest).rename(home / "data")
    one = launch(newest, data_dir=home / "data", idle_timeout=None, when_idle="stay")
    one.wait_for_state("awake")
    path = home / "pgidle.toml"

    def put(text: str) -> int:
        mark = one.mark()
        path.write_text(text)
        give(path, server_user())
        one.signal(1)
        return mark

    one.wait_log("settings: read again|idle-timeout is 71s now", since=put('idle_timeout = "71s"\n'))
    one.wait_log("bin-dir does not count", since=put('bin_dir = "/tmp"\nidle_timeout = "72s"\n'))
    one.wait_log("idle-timeout is 73s now", since=put('idle_timeout = "73s"\n'))


# What is read by root


@needs_root
def test_nothing_that_root_alone_may_read_is_shown(attacked: Attacked) -> None:
    secret = attacked.secret(f"root:{SECRET}:19000:0:99999:7:::\n")
    options = ("--bin-dir", str(attacked.installation.bin_dir))
    for name in ("PG_VERSION", "pg_hba.conf", "postgresql.conf", "postgresql.auto.conf", "postmaster.pid"):
        path = attacked.data_dir / name
        kept = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
        for command in ("doctor", "run"):
            assert SECRET not in attacked.run(command, *options), name
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)
            give(path, server_user())
    (attacked.data_dir / "postgresql.conf").write_text(f"include '{secret}'\nhba_file = '{secret}'\n")
    assert SECRET not in attacked.run("doctor", *options)


@needs_root
@pytest.mark.parametrize("name", ["PG_VERSION", "pg_hba.conf", "postgresql.conf", "postmaster.pid"])
def test_no_pipe_holds_the_doctor_up(attacked: Attacked, name: str) -> None:
    (attacked.data_dir / name).unlink(missing_ok=True)
    os.mkfifo(attacked.data_dir / name)
    give(attacked.data_dir / name, server_user())
    assert attacked.run("doctor", "--bin-dir", str(attacked.installation.bin_dir))


@needs_root
def test_what_was_kept_is_read_through_no_link(attacked: Attacked) -> None:
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    kept = state_dir / "last.json"
    kept.symlink_to(attacked.secret(json.dumps({"why": SECRET, "at": 1.0, "seconds": 1.0})))
    assert SECRET not in attacked.run("status")
    kept.unlink()
    os.mkfifo(kept)
    assert "last sleep: none" in attacked.run("status")
    kept.unlink()
    state_dir.rmdir()
    (attacked.safe / "last.json").write_text(json.dumps({"why": SECRET, "at": 1.0, "seconds": 1.0}))
    attacked.safe.chmod(0o700)
    state_dir.symlink_to(attacked.safe)
    give(state_dir, server_user())
    assert SECRET not in attacked.run("status")


@needs_root
@pytest.mark.parametrize("moment", ["1e300", "NaN", "-1", '"x"', "[]"])
def test_what_was_kept_may_be_anything(attacked: Attacked, moment: str) -> None:
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    for text in (
        f'{{"why": "\\u001b[2J", "at": {moment}, "seconds": 1}}',
        f'{{"why": "\\u001b[2J", "at": 1, "seconds": {moment}}}',
    ):
        (state_dir / "last.json").write_text(text)
        for command in ("status", "wake", "doctor"):
            said = attacked.run(command)
            assert "Traceback" not in said
            assert "\x1b" not in said


@needs_root
def test_a_data_directory_may_be_a_link_of_its_owner_s(attacked: Attacked) -> None:
    (attacked.home / "main").symlink_to(attacked.data_dir)
    give(attacked.home / "main", server_user())
    state_dir = attacked.data_dir / "pgidle"
    state_dir.mkdir()
    give(state_dir, server_user())
    (state_dir / "last.json").write_text('{"why": "quiet", "at": 1, "seconds": 1}')
    assert "quiet" in attacked.run("status", data_dir=attacked.home / "main")


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
            with pytest.raises(PgidleError, match="ended before it answered"):
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


# What is made and given away by root


@needs_root
def test_no_folder_of_root_s_is_given_away(attacked: Attacked) -> None:
    victim = attacked.safe / "empty"
    victim.mkdir()
    (attacked.home / "link").symlink_to(attacked.safe)
    (attacked.home / "direct").symlink_to(victim)
    for name in ("link/empty", "direct"):
        attacked.run("run", data_dir=attacked.home / name)
        assert "cannot be used" in attacked.run("doctor", data_dir=attacked.home / name)
        assert victim.stat().st_uid == 0, name


@needs_root
@pytest.mark.parametrize("option", ["--data-dir", "--state-dir"])
def test_nothing_is_made_where_a_link_leads(attacked: Attacked, option: str) -> None:
    (attacked.home / "link").symlink_to(attacked.safe)
    attacked.run("run", option, str(attacked.home / "link/made"))
    attacked.run("run", option, str(attacked.home / "link/deep/made"))
    assert not list(attacked.safe.iterdir())


@needs_root
def test_whom_pgidle_becomes_is_not_for_others_to_choose(attacked: Attacked, place: Place) -> None:
    nobody = pwd.getpwnam("nobody")
    other = place.folder("other")
    give(other, nobody)
    (attacked.home / "link").symlink_to(other)
    ran = pgidle_command("run", "--data-dir", str(attacked.home / "link"), "--port", str(attacked.port))
    assert ran.returncode == 2
    assert "pass --user nobody" in ran.stderr
    assert not list(other.iterdir())


@needs_root
def test_a_foreign_state_directory_leads_to_no_file(attacked: Attacked) -> None:
    victim = attacked.plant("precious", "precious\n")
    shared = attacked.safe / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "lock").symlink_to(victim)
    give(shared / "lock", pwd.getpwnam("nobody"))
    said = attacked.run("run", "--state-dir", str(shared), "--bin-dir", str(attacked.installation.bin_dir))
    assert victim.read_text() == "precious\n"
    assert "alone to write" in said


def test_the_state_directory_follows_no_link(place: Place) -> None:
    folder = place.folder()
    os.chown(folder, os.geteuid(), os.getegid())
    for name in ("lock", "last.json.new"):
        (folder / "victim").write_text("precious")
        (folder / name).symlink_to(folder / "victim")
        if name == "lock":
            with pytest.raises(PgidleError, match="cannot write the state directory"):
                StateDir(str(folder))
            (folder / name).unlink()
        else:
            StateDir(str(folder)).keep("last.json", "new")
            assert (folder / "last.json").read_text() == "new"
        assert (folder / "victim").read_text() == "precious"


def test_init_writes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/pgidle.d").symlink_to(tmp_path / "victim")
    with pytest.raises(PgidleError, match="cannot write"):
        write([File("pgidle.service", "a"), File("pgidle.d/listen.conf", "b")], tmp_path / "out")
    assert not list((tmp_path / "victim").iterdir())
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["pgidle.d"]


@pytest.mark.parametrize("name", ["a\nExecStartPre=evil", "a;id", "$(id)", "a b", "-rf", "%n", "a'b", "\\x"])
def test_what_a_cluster_is_called_gets_into_no_unit(tmp_path: Path, name: str) -> None:
    """Debian's /etc/postgresql is Postgres's user's."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "PG_VERSION").write_text("15\n")
    for version, cluster in (("15", name), (name, "main"), ("15", "main")):
        folder = tmp_path / "etc" / version / cluster
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "postgresql.conf").write_text(f"data_directory = '{data_dir}'\n")
    found = find_cluster(str(data_dir), str(tmp_path / "etc"))
    assert found is not None
    assert (found.version, found.name) == ("15", "main")


# What is run by root


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


# Who is let in


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


# How a path is judged


def make_tree(place: Place, owner: int) -> Path:
    folder = place.folder("tree")
    os.chown(folder, owner, owner)
    folder.chmod(0o755)
    return folder


@needs_root
@pytest.mark.parametrize("change", ["owner", "group", "everybody", "folder", "folder of a folder"])
def test_one_weak_step_is_enough(place: Place, change: str) -> None:
    top = make_tree(place, 0)
    inner = top / "a/b"
    inner.mkdir(parents=True)
    file = inner / "file"
    file.write_text("content")
    trust = trust_in(0, 0)
    assert read_trusted(str(file), trust) == (b"content", None)
    uid = server_user().pw_uid
    weaken: dict[str, Callable[[], object]] = {
        "owner": lambda: os.chown(file, uid, 0),
        "group": lambda: file.chmod(0o664),
        "everybody": lambda: file.chmod(0o646),
        "folder": lambda: os.chown(inner, uid, 0),
        "folder of a folder": lambda: inner.parent.chmod(0o777),
    }
    weaken[change]()
    content, weakness = read_trusted(str(file), trust)
    assert content == b"content"
    assert weakness is not None
    assert weakness.path == {"folder": str(inner), "folder of a folder": str(inner.parent)}.get(
        change, str(file)
    )


@needs_root
def test_a_folder_where_only_owners_remove_is_as_good_as_what_is_in_it(place: Place) -> None:
    top = make_tree(place, 0)
    top.chmod(0o1777)
    for owner, is_good in ((0, True), (server_user().pw_uid, False)):
        file = top / str(owner)
        file.write_text("")
        os.chown(file, owner, 0)
        assert (read_trusted(str(file), trust_in(0, 0))[1] is None) is is_good


@needs_root
def test_links_of_root_s_are_followed_and_others_are_not(place: Place) -> None:
    top, uid = make_tree(place, 0), server_user().pw_uid
    (top / "real").mkdir()
    (top / "real/file").write_text("content")
    (top / "whole").symlink_to(top / "real")
    (top / "relative").symlink_to("whole/../real/./file")
    (top / "loop").symlink_to("loop")
    for path in ("whole/file", "relative"):
        assert read_trusted(str(top / path), trust_in(0, 0)) == (b"content", None)
    with pytest.raises(OSError, match="Too many levels"):
        read_trusted(str(top / "loop"), trust_in(0, 0))
    os.chown(top / "whole", uid, uid, follow_symlinks=False)
    with pytest.raises(OSError, match="another user could have put there"):
        read_trusted(str(top / "whole/file"), trust_in(0, 0))
    assert read_trusted(str(top / "whole/file"), trust_in(uid, 0)) == (b"content", None)
    # root's own, but where another can rename it.
    (top / "theirs").mkdir()
    os.chown(top / "theirs", uid, uid)
    (top / "theirs/link").symlink_to(top / "real")
    with pytest.raises(OSError, match="another user could have put there"):
        open_folder(str(top / "theirs/link"), trust_in(0, 0))


@needs_root
def test_a_group_of_the_caller_s_own_may_write_and_root_s_may_not(place: Place) -> None:
    user = server_user()
    top = make_tree(place, 0)
    file = top / "file"
    file.write_text("")
    file.chmod(0o664)
    for gid, caller, is_good in (
        (user.pw_gid, (user.pw_uid, user.pw_gid), True),
        (pwd.getpwnam("nobody").pw_gid, (user.pw_uid, user.pw_gid), False),
        (0, (0, 0), False),
    ):
        os.chown(file, 0, gid)
        assert (read_trusted(str(file), trust_in(*caller))[1] is None) is is_good


def test_a_device_is_not_opened() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        read_trusted("/dev/null", trust_in(os.geteuid(), os.getegid()))


def test_the_owner_of_what_is_not_planted_is_who_to_become(place: Place) -> None:
    if os.getuid() != 0:
        pytest.skip("nobody to become")
    folder = place.folder()
    found = plan(None, str(folder))
    assert found is not None
    assert found.uid == server_user().pw_uid
    (place.path / f"link{time.monotonic_ns()}").symlink_to(folder)

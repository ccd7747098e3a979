"""What is wrong before Postgres runs: one line that says what, where and what to do, and nothing is touched."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import pgidle
from harness import installations
from harness.faults import (
    as_server,
    bystander,
    carry_out,
    complaint,
    contents,
    fill,
    last_reason,
    notes,
    query,
    start_again,
)
from harness.installations import free_port, server_user
from harness.postgres_fixture import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: another user's files, mounts")

TRUST = {"POSTGRES_HOST_AUTH_METHOD": "trust", "POSTGRES_INITDB_ARGS": "--no-sync"}


# The data directory


def test_a_missing_data_directory_without_a_password_is_not_made(newest: Installation, place: Place, launch):
    path = place.folder() / "data"
    line = complaint(launch(newest, data_dir=path), 2)
    assert "needs a password" in line
    assert "POSTGRES_PASSWORD" in line
    assert not path.exists()


def test_a_data_directory_whose_configuration_is_elsewhere(newest: Installation, place: Place, launch):
    """And where it is named, it is served: test_a_cluster_of_debian_s_there_and_back."""
    one = launch(newest, start=False)
    (one.data_dir / "postgresql.conf").unlink()
    before = contents(one.data_dir)
    one.start()
    line = complaint(one, 1)
    assert f"no postgresql.conf in {one.data_dir}" in line
    assert "-c config_file=/etc/postgresql/VERSION/NAME/postgresql.conf" in line
    assert contents(one.data_dir) == before
    elsewhere = place.folder()
    (elsewhere / "postgresql.conf").touch()
    line = complaint(launch(newest, data_dir=elsewhere), 1)
    assert f"{elsewhere} holds a configuration, not data (no PG_VERSION): name the data directory" in line


def test_a_data_directory_that_cannot_be_made(newest: Installation, place: Place, launch):
    file = place.folder() / "file"
    file.write_text("precious")
    line = complaint(launch(newest, data_dir=file / "data", env=TRUST), 1)
    assert f"{file / 'data'}" in line
    assert "name another" in line
    assert file.read_text() == "precious"


def test_a_data_directory_that_is_not_writable(newest: Installation, place: Place, launch):
    data_dir = place.data_dir(newest)
    before = contents(data_dir)
    data_dir.chmod(0o500)
    line = complaint(launch(newest, data_dir=data_dir), 1)
    assert f"{data_dir} is not writable by user {server_user().pw_name}: chmod 0700" in line
    data_dir.chmod(0o700)
    assert contents(data_dir) == before
    assert not (data_dir / "pgidle").exists()


@needs_root
@pytest.mark.parametrize("make", [True, False])
def test_a_socket_folder_that_is_closed(newest: Installation, place: Place, launch, make: bool):
    data_dir, folder = place.data_dir(newest), place.path / f"closed-{make}"
    if make:
        folder.mkdir(0o755)
    before = contents(data_dir)
    line = complaint(launch(newest, data_dir=data_dir, socket_dir=str(folder)), 2)
    why = "cannot be written by" if make else "is not there for"
    assert f"--socket-dir {folder} {why} user {server_user().pw_name}: make it and chown it" in line
    assert contents(data_dir) == before


@needs_root
@pytest.mark.skipif(installations.debian() is None, reason="another PostgreSQL has its socket in /tmp")
def test_a_first_start_where_nobody_said_a_socket_folder(place: Place, launch):
    """Debian's PostgreSQL has its own, which an ordinary user cannot write: said before initdb, not after."""
    debian, folder = installations.debian(), place.path / "ordinary"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    ordinary = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    one = launch(debian, data_dir=folder / "data", env=TRUST, prefix=ordinary)
    line = complaint(one, 2)
    assert "makes its Unix socket in /var/run/postgresql, which cannot be written by user nobody" in line
    assert "set --socket-dir" in line
    assert not (folder / "data").exists()
    other = launch(debian, data_dir=folder / "data", env=TRUST, prefix=ordinary, socket_dir=str(folder))
    other.wait_for_state("awake")


@pytest.mark.parametrize(("more", "says"), [((), True), (("--when-idle", "stay"), False)])
def test_who_is_at_a_terminal_is_told_that_exit_is_the_end(newest, place, more, says):
    master, slave = os.openpty()
    command = [
        sys.executable,
        "-P",
        "-m",
        "pgidle",
        "run",
        "-D",
        str(place.data_dir(newest)),
        "--http",
        "off",
    ]
    command += ["--bin-dir", str(newest.bin_dir), "-p", str(free_port()), "--listen-addresses", "127.0.0.1"]
    environ = {name: value for name, value in os.environ.items() if name != "INVOCATION_ID"}
    process = subprocess.Popen([*command, *more], stderr=slave, cwd="/", env=environ)
    os.close(slave)
    text = b""
    with contextlib.suppress(OSError):
        while b"awake: " not in text:
            text += os.read(master, 4096)
    process.terminate()
    with contextlib.suppress(OSError):
        while os.read(master, 4096):
            pass
    assert process.wait() == 0
    os.close(master)
    assert (b"--when-idle stay wakes Postgres itself" in text) is says, text


@needs_root
def test_a_data_directory_of_another_users(newest: Installation, place: Place, launch):
    data_dir = place.data_dir(newest)
    os.chown(data_dir, 1, 1)
    before = contents(data_dir)
    line = complaint(launch(newest, data_dir=data_dir, user=server_user().pw_name), 1)
    assert f"{data_dir} is owned by daemon" in line
    assert "chown" in line
    assert contents(data_dir) == before


def test_a_data_directory_of_another_major_version(installation: Installation, place: Place, launch):
    data_dir = place.data_dir(installation)
    (data_dir / "PG_VERSION").write_text("10\n")
    before = contents(data_dir)
    line = complaint(launch(installation, data_dir=data_dir), 2)
    assert f"is PostgreSQL {installation.major}: name a folder of PostgreSQL 10" in line
    assert contents(data_dir) == before
    assert not (data_dir / "pgidle").exists()


def test_no_binaries_anywhere(newest: Installation, place: Place, launch):
    data_dir = place.data_dir(newest)
    (data_dir / "PG_VERSION").write_text("10\n")
    line = complaint(launch(newest, data_dir=data_dir, bin_dir=None), 1)
    assert "no programs of PostgreSQL 10" in line
    assert "install postgresql-10" in line


def test_no_binaries_where_they_were_said_to_be(newest: Installation, place: Place, launch):
    path, empty = place.folder() / "data", place.folder()
    line = complaint(launch(newest, data_dir=path, bin_dir=str(empty), env=TRUST), 2)
    assert f"--bin-dir {empty} does not serve" in line
    assert not path.exists()


# Somebody else is there


def test_a_living_postmaster_keeps_its_data_directory(installation: Installation, place: Place, launch):
    with Cluster(installation.bin_dir, place.data_dir(installation)) as cluster:
        cluster.start()
        line = complaint_beside(launch(installation, data_dir=cluster.data_dir), 1)
        assert f"a postmaster with pid {cluster.pid} already runs on {cluster.data_dir}: stop it" in line
        with cluster.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("apart", [True, False], ids=["own state directory", "same options"])
def test_a_data_directory_that_another_pgidle_serves(newest: Installation, place: Place, launch, apart: bool):
    http = f"127.0.0.1:{free_port()}"
    first = launch(newest, http=http)
    first.wait_for_state("awake")
    more = {"state_dir": str(place.folder() / "state")} if apart else {"http": http, "port": first.port}
    line = complaint_beside(launch(newest, data_dir=first.data_dir, **more), 1)
    if apart:
        assert f"a postmaster with pid {first.postmaster_pid} already runs" in line
    else:
        assert f"pgidle with pid {first.pid} already serves" in line
    assert query(first, "SELECT 1") == 1
    assert first.stop() == 0


def complaint_beside(one, status: int) -> str:
    """The single line, where somebody else's Postgres goes on running in the data directory."""
    assert one.wait() == status
    said = [line.text for line in one.lines if not line.data]
    assert len(said) == 1, said
    return said[0]


@pytest.fixture(params=["alone", "shared"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Somebody on a port, who would share it or not. Made by the user of Postgres, or the kernel would refuse."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if request.param == "shared":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if os.getuid() == 0:
                os.fchown(one.fileno(), server_user().pw_uid, server_user().pw_gid)
        one.bind(("127.0.0.1", free_port()))
        one.listen()
        yield one


@pytest.mark.parametrize("addresses", ["127.0.0.1", "*"])
def test_a_port_that_is_taken(newest: Installation, launch, listener: socket.socket, addresses: str):
    port = listener.getsockname()[1]
    one = launch(newest, start=False, port=port, listen_addresses=addresses)
    before = contents(one.data_dir)
    one.start()
    line = complaint(one, 1)
    assert f"port {port} on " in line
    assert "is taken: stop what listens there, or set --port" in line
    assert contents(one.data_dir) == before


def test_a_port_that_another_pgidle_serves(newest: Installation, launch):
    first = launch(newest, idle_timeout="off")
    first.wait_for_state("awake")
    line = complaint(launch(newest, port=first.port), 1)
    assert f"port {first.port} on 127.0.0.1 is taken" in line
    assert query(first, "SELECT 1") == 1


def test_an_http_port_that_is_taken(newest: Installation, launch, listener: socket.socket):
    port = listener.getsockname()[1]
    line = complaint(launch(newest, http=f"127.0.0.1:{port}"), 1)
    assert f"cannot serve HTTP on 127.0.0.1:{port}" in line
    assert "set --http" in line


# postmaster.pid


def test_a_stale_pidfile(installation: Installation, launch):
    one = launch(installation)
    one.wait_for_state("awake")
    carry_out(one, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill_all(one)
    assert (one.data_dir / "postmaster.pid").exists()
    start_again(one)
    assert query(one, "SELECT answer FROM kept") == 42
    assert one.stop() == 0


@pytest.mark.parametrize("whose", ["the same user's", "another user's"])
def test_a_stale_pidfile_with_a_recycled_pid(installation: Installation, launch, whose: str):
    if whose == "another user's" and os.getuid() != 0:
        pytest.skip("needs root, for a process of another user")
    one = launch(installation)
    one.wait_for_state("awake")
    carry_out(one, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill_all(one)
    pidfile = one.data_dir / "postmaster.pid"
    with bystander(**(as_server() if whose == "the same user's" else {})) as other:
        pidfile.write_text(f"{other.pid}\n" + pidfile.read_text().split("\n", 1)[1])
        start_again(one)
        assert query(one, "SELECT answer FROM kept") == 42
        assert one.stop() == 0
        assert other.poll() is None


def kill_all(one) -> None:
    """The supervisor, the postmaster and its children, all at once with -9."""
    everybody = one.processes()
    for process in everybody:
        # The backend of a client that has just left may be gone by now.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    one.kill()
    for process in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(everybody, timeout=10)


# Settings


@pytest.mark.parametrize(
    ("toml", "env", "options", "says"),
    [
        ('idel-timeout = "1min"', {}, {}, "'idel-timeout' is unknown: did you mean idle-timeout?"),
        ('idle-timeout = "5 minutes"', {}, {}, "idle-timeout: '5 minutes' is not a duration: write 5min"),
        ("idle-timeout = ", {}, {}, "correct the file, which is TOML"),
        ("", {"PGIDLE_IDEL_TIMEOUT": "1min"}, {}, "did you mean PGIDLE_IDLE_TIMEOUT?"),
        ("", {"PGIDLE_MIN_AWAKE": "soon"}, {}, "PGIDLE_MIN_AWAKE: 'soon' is not a duration"),
        ("", {}, {"stop_timeout": "4"}, "--stop-timeout: '4' is not a duration"),
        ("", {}, {"when_idle": "snore"}, "--when-idle: 'snore' is not a choice: write exit or stay"),
        ("", {}, {"user": "nobody-at-all"}, "--user nobody-at-all: "),
    ],
)  # fmt: skip
def test_settings_that_are_none(newest: Installation, place: Place, launch, toml, env, options, says: str):
    config = place.folder() / "pgidle.toml"
    config.write_text(toml)
    config.parent.chmod(0o755)
    one = launch(newest, start=False, env=env, config=str(config), **options)
    before = contents(one.data_dir)
    one.start()
    line = complaint(one, 2)
    assert says in line
    assert (str(config) in line) == bool(toml)
    assert contents(one.data_dir) == before
    assert not (one.data_dir / "pgidle").exists()


def test_a_settings_file_that_cannot_be_read(newest: Installation, place: Place, launch):
    folder = place.folder()
    line = complaint(launch(newest, config=str(folder)), 2)
    assert f"{folder} cannot be read: Is a directory: mend it, or set --config" in line


@needs_root
def test_a_settings_file_that_only_root_can_read(newest: Installation, place: Place, launch):
    config = place.folder() / "pgidle.toml"
    config.write_text("")
    os.chown(config, 0, 0)
    config.chmod(0o600)
    user = server_user()
    prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    line = complaint(launch(newest, config=str(config), prefix=prefix), 2)
    assert f"{config} cannot be read: Permission denied: mend it, or set --config" in line


def test_a_password_file_that_cannot_be_read(newest: Installation, place: Place, launch):
    path = place.folder() / "data"
    line = complaint(launch(newest, data_dir=path, env={"POSTGRES_PASSWORD_FILE": "/nowhere/secret"}), 2)
    assert "POSTGRES_PASSWORD_FILE: /nowhere/secret cannot be read" in line
    assert not path.exists()


# Postgres itself refuses


@pytest.mark.parametrize(
    ("setting", "says"),
    [("nonsense = on", "unrecognized configuration parameter"), ("shared_buffers = 'many'", "invalid value")],
)
def test_a_configuration_that_postgres_rejects(installation: Installation, launch, setting: str, says: str):
    one = launch(installation, start=False)
    conf = one.data_dir / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + setting)
    before = contents(one.data_dir)
    one.start()
    assert one.wait() == 1
    assert one.states[-1] == "failed"
    shown = [line.text for line in one.lines if says in line.text and not line.data]
    assert 1 <= len(shown) <= 3
    assert "the postmaster exited with status 1: " in last_reason(one)
    assert says in last_reason(one)
    assert "start pgidle again" in last_reason(one)
    assert contents(one.data_dir) == before
    assert one.processes() == []
    conf.write_text(good)
    start_again(one)
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0


@pytest.mark.parametrize("leave", [0, 8192])
def test_a_full_disk(installation: Installation, place: Place, small_disk: Path, launch, leave: int):
    data_dir = small_disk / "data"
    subprocess.run(["cp", "-a", place.data_dir(installation), data_dir], check=True)
    hog = fill(small_disk, leave)
    before = contents(data_dir)
    one = launch(installation, data_dir=data_dir)
    assert one.wait() == 1
    assert any("No space left on device" in line.text for line in one.lines)
    assert not any("Traceback" in line.text for line in one.lines)
    assert contents(data_dir) == before
    hog.unlink()
    start_again(one)
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0


def test_on_a_full_disk_postgres_stays_awake(newest: Installation, place: Place, small_disk: Path, launch):
    """Asleep it could not write its pid file, and would not start again."""
    data_dir = small_disk / "data"
    subprocess.run(["cp", "-a", place.data_dir(newest), data_dir], check=True)
    one = launch(newest, data_dir=data_dir, when_idle="stay", idle_timeout="1s")
    one.wait_for_state("asleep")
    hog = fill(small_disk, 20 << 20)
    mark = one.mark()
    assert query(one, "SELECT 1") == 1
    one.wait_for_state("awake", since=mark)
    said = one.pgidle("status").stdout
    while "MB are left in its data directory" not in said:
        assert one.states[-1] == "awake"
        said = one.pgidle("status").stdout
    refused = one.pgidle("sleep")
    assert refused.returncode == 1
    assert "when 32 MB are free" in refused.stderr
    hog.unlink()
    one.wait_for_state("asleep", since=mark)


def test_a_disk_that_is_too_small_for_the_first_start(newest: Installation, small_disk: Path, launch):
    data_dir = small_disk / "data"
    hog = fill(small_disk, 10 << 20)
    one = launch(newest, data_dir=data_dir, env=TRUST)
    assert one.wait() == 1
    assert "No space left on device" in "".join(line.text for line in one.lines)
    assert [path.name for path in data_dir.iterdir()] == ["pgidle"]
    assert not (data_dir / "pgidle/initdb").exists()
    hog.unlink()
    start_again(one)
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0


# pgidle itself


@needs_root
def test_a_python_that_only_root_can_read(newest: Installation, place: Place, launch):
    """A virtual environment under root's home, with all that is in this one."""
    closed = place.folder("root")
    os.chown(closed, 0, 0)
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", closed / "venv"], check=True)
    (closed / "own").mkdir()
    (closed / "own/pgidle").symlink_to(Path(pgidle.__file__).parent)
    (closed / "site").symlink_to(Path(psutil.__file__).parent.parent)
    (site,) = closed.glob("venv/lib/python*/site-packages")
    (site / "all.pth").write_text(f"{closed}/own\n{closed}/site\n")
    one = launch(newest, python=str(closed / "venv/bin/python"), when_idle="stay", idle_timeout="300ms")
    one.wait_for_state("asleep")
    assert any(str(closed) in note for note in notes(one, "boot"))
    assert one.wait_for_state("starting", since=0).data["gate"] == "shared"
    assert query(one, "SELECT 1") == 1
    assert one.stop() == 0
    assert not any("Traceback" in line.text for line in one.lines)

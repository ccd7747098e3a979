"""The first start on real installations: what it makes, and what is left when it is interrupted."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

import harness
import pgidle
from harness.installations import free_port, run_as_server, server_user
from pgidle.postgres.data_directory import DataDirState, inspect_data_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from harness.installations import Installation, Place

INITIALISER = Path(harness.__file__).parent / "initialiser.py"
PASSWORD = {"POSTGRES_PASSWORD": "a 'secret\\ü"}
SUPERUSER = {"user": "postgres", "dbname": "postgres", "password": PASSWORD["POSTGRES_PASSWORD"]}
QUICK = {"POSTGRES_INITDB_ARGS": "--no-sync --wal-segsize=1"}
PATIENCE = 30.0
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: is another user than Postgres's")


def begin(
    installation: Installation, data_dir: Path, environ: Mapping[str, str], step: str = "", path: str = ""
) -> subprocess.Popen[str]:
    """Start initialising; `step` is the one before which the child dies."""
    inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.Popen(
        [
            *(sys.executable, str(INITIALISER), str(data_dir), str(installation.bin_dir)),
            *(str(installation.major), server_user().pw_name, step),
        ],
        env={
            **inherited,
            "PATH": f"{path}:/usr/bin:/bin",
            # Else Python gives a process without a locale C.UTF-8, and initdb would not have to be told.
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONPATH": str(Path(pgidle.__file__).parents[1]),
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )


def finish(started: subprocess.Popen[str]) -> str:
    """Wait for the end; what was said, empty when all went well."""
    said = started.communicate(timeout=PATIENCE)[1].strip()
    assert (started.returncode == 0) == (not said), said
    return said


def initialise(installation: Installation, data_dir: Path, environ: Mapping[str, str], step: str = "") -> str:
    return finish(begin(installation, data_dir, environ, step))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.002)


def state(data_dir: Path) -> DataDirState:
    return inspect_data_dir(str(data_dir), server_user().pw_uid).state


def working_in(data_dir: Path) -> list[psutil.Process]:
    """Processes with a working directory in `data_dir`, or one that was there."""
    return [one for one in psutil.process_iter(["cwd"]) if (one.info["cwd"] or "").startswith(f"{data_dir}/")]


@contextlib.contextmanager
def served(installation: Installation, data_dir: Path, place: Place) -> Iterator[dict[str, str]]:
    """Postgres on a finished data directory, by the settings that it has; yields where it listens."""
    port, sockets = free_port(), place.folder("s")
    sockets.chmod(0o755)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={sockets} -c fsync=off"
    command = ("-D", str(data_dir), "-l", str(data_dir / "log"), "-o", options, "-w")
    run_as_server(installation.program("pg_ctl"), "start", *command)
    try:
        yield {"port": str(port), "sockets": str(sockets)}
    finally:
        run_as_server(installation.program("pg_ctl"), "stop", "-D", str(data_dir), "-m", "fast")


def over_tcp(where: Mapping[str, str], **more: str) -> list[tuple[object, ...]]:
    """Log in, and say as whom, where, with what encoding."""
    query = "select current_user, current_database(), current_setting('server_encoding')"
    with psycopg.connect(host="127.0.0.1", port=where["port"], **more) as connection:  # type: ignore[arg-type]
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("user", ["postgres", "the app"])
def test_what_is_made(installation: Installation, place: Place, user: str) -> None:
    data_dir = place.folder()
    database = 'my "shop"'
    names = {"POSTGRES_USER": user, "POSTGRES_DB": database}
    assert initialise(installation, data_dir, {**PASSWORD, **QUICK, **names}) == ""
    assert state(data_dir) is DataDirState.READY
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert not data_dir.joinpath("pgidle/initdb").exists()
    secret = {"user": user, "password": PASSWORD["POSTGRES_PASSWORD"]}
    with served(installation, data_dir, place) as where:
        assert over_tcp(where, dbname=database, **secret) == [(user, database, "UTF8")]
        with pytest.raises(psycopg.OperationalError, match="no password"):
            over_tcp(where, dbname=database, user=user)
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            over_tcp(where, dbname=database, user=user, password="guess")
        # The supervisor watches like this: as the user that runs Postgres, through the socket.
        whoami = (
            "-h",
            where["sockets"],
            "-p",
            where["port"],
            "-U",
            user,
            "-d",
            "postgres",
            "-Atc",
            "select 1",
        )
        assert run_as_server(installation.program("psql"), *whoami).stdout == "1\n"
        if os.getuid() == 0:
            with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
                psycopg.connect(host=where["sockets"], port=where["port"], user=user, dbname="postgres")
    hba = data_dir.joinpath("pg_hba.conf").read_text()
    assert not re.search(r"^[^#]*\btrust\b", hba, re.MULTILINE)
    assert hba.endswith("\nhost all all all scram-sha-256\n")


def test_people_still_log_in_locally_as_themselves(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    assert initialise(newest, data_dir, {**PASSWORD, **QUICK, "POSTGRES_USER": "app"}) == ""
    own = server_user().pw_name
    with served(newest, data_dir, place) as where:
        with psycopg.connect(
            host="127.0.0.1",
            port=where["port"],
            user="app",
            password=PASSWORD["POSTGRES_PASSWORD"],
            autocommit=True,
        ) as connection:
            connection.execute(f'create role "{own}" login')
        for arguments in (("-U", own), ("-U", "app")):
            address = (
                "-h",
                where["sockets"],
                "-p",
                where["port"],
                "-d",
                "app",
                "-Atc",
                "select current_user",
            )
            shown = run_as_server(newest.program("psql"), *arguments, *address).stdout
            assert shown.strip() == arguments[1]


def test_trust_is_trust_when_asked_for(installation: Installation, place: Place) -> None:
    data_dir = place.folder()
    assert initialise(installation, data_dir, {**QUICK, "POSTGRES_HOST_AUTH_METHOD": "trust"}) == ""
    with served(installation, data_dir, place) as where:
        assert over_tcp(where, user="postgres", dbname="postgres") == [("postgres", "postgres", "UTF8")]
    assert data_dir.joinpath("pg_hba.conf").read_text().endswith("\nhost all all all trust\n")


@pytest.mark.parametrize(
    ("environ", "loopback", "everywhere"),
    [
        ({"POSTGRES_HOST_AUTH_METHOD": "md5"}, "md5", "md5"),
        ({"POSTGRES_HOST_AUTH_METHOD": "reject"}, "scram-sha-256", "reject"),
        ({"POSTGRES_HOST_AUTH_METHOD": "cert map=x"}, "scram-sha-256", "cert map=x"),
        ({"POSTGRES_INITDB_ARGS": "-N --auth-host=md5"}, "md5", "md5"),
    ],
)
def test_the_methods_of_hosts(
    newest: Installation, place: Place, environ: dict[str, str], loopback: str, everywhere: str
) -> None:
    data_dir = place.folder()
    assert initialise(newest, data_dir, {**PASSWORD, **QUICK, **environ}) == ""
    hba = data_dir.joinpath("pg_hba.conf").read_text()
    assert re.search(rf"^host\s+all\s+all\s+127\.0\.0\.1/32\s+{loopback}$", hba, re.MULTILINE)
    assert hba.endswith(f"\nhost all all all {everywhere}\n")


def test_initdb_args_win(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    wanted = {"POSTGRES_INITDB_ARGS": "-N --encoding=LATIN1 --locale=C --allow-group-access"}
    assert initialise(newest, data_dir, {**PASSWORD, **wanted}) == ""
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o750
    with served(newest, data_dir, place) as where:
        assert over_tcp(where, **SUPERUSER)[0][2] == "LATIN1"


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"POSTGRES_INITDB_ARGS": "--encoding=KLINGON"}, "KLINGON"),
        ({"POSTGRES_INITDB_ARGS": "--no-such-option"}, "no-such-option"),
        ({"POSTGRES_USER": "pg_app"}, "pg_app"),
        ({**QUICK, "POSTGRES_DB": "x" * 20 + "é" + "\udcff"}, "byte sequence"),
    ],
)
def test_what_initdb_refuses_is_said_in_its_words_and_nothing_is_left(
    newest: Installation, place: Place, environ: dict[str, str], complaint: str
) -> None:
    data_dir = place.folder()
    said = initialise(newest, data_dir, {**PASSWORD, **environ})
    assert complaint in said
    assert "\n" not in said
    assert state(data_dir) is DataDirState.EMPTY
    assert not list(data_dir.joinpath("pgidle").iterdir())


def test_killed_before_each_step_the_next_start_goes_on(installation: Installation, place: Place) -> None:
    data_dir = place.folder()
    environ = {**PASSWORD, **QUICK}
    for step in ("make", "complete"):
        assert "killed" in initialise(installation, data_dir, environ, step)
        assert state(data_dir) is DataDirState.INTERRUPTED
        assert [entry.name for entry in data_dir.iterdir()] == ["pgidle"]
    assert "killed" in initialise(installation, data_dir, environ, "base")
    made = data_dir / "pgidle/initdb/data"
    inode = made.joinpath("PG_VERSION").stat().st_ino
    for step in sorted(entry.name for entry in made.iterdir() if entry.name != "PG_VERSION"):
        assert "killed" in initialise(installation, data_dir, environ, step)
        assert made.joinpath(step).exists()
        assert state(data_dir) is DataDirState.INTERRUPTED
    assert "killed" in initialise(installation, data_dir, environ, "PG_VERSION")
    assert state(data_dir) is DataDirState.INTERRUPTED
    assert "killed" in initialise(installation, data_dir, environ, "tidy")
    assert state(data_dir) is DataDirState.READY
    assert initialise(installation, data_dir, environ) == ""
    assert data_dir.joinpath("PG_VERSION").stat().st_ino == inode
    assert not list(data_dir.joinpath("pgidle").iterdir())
    with served(installation, data_dir, place) as where:
        assert over_tcp(where, **SUPERUSER)


@pytest.mark.parametrize("whom", ["child", "supervisor", "all"])
def test_killed_while_initdb_runs(installation: Installation, place: Place, whom: str) -> None:
    data_dir = place.folder()
    base = data_dir / "pgidle/initdb/data/base/1"
    started = begin(installation, data_dir, PASSWORD)
    assert started.stdout is not None
    child = int(started.stdout.readline())
    wait_for(base.exists)
    if whom != "child":
        started.kill()
    if whom != "supervisor":
        os.kill(child, signal.SIGKILL)
    started.communicate()
    # No waiting: the next start meets whatever still runs.
    assert initialise(installation, data_dir, {**PASSWORD, **QUICK}) == ""
    assert state(data_dir) is DataDirState.READY
    assert not data_dir.joinpath("pgidle/initdb").exists()
    assert not working_in(data_dir)
    with served(installation, data_dir, place) as where:
        assert over_tcp(where, **SUPERUSER)


def test_the_child_cleans_up_after_a_killed_supervisor(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    started = begin(newest, data_dir, PASSWORD)
    wait_for(data_dir.joinpath("pgidle/initdb/data/base/1").exists)
    started.kill()
    started.communicate()
    wait_for(lambda: not data_dir.joinpath("pgidle/initdb").exists())
    assert state(data_dir) is DataDirState.EMPTY
    wait_for(lambda: not working_in(data_dir))


@pytest.mark.parametrize("again", [False, True])
def test_stopped_while_initdb_runs(installation: Installation, place: Place, again: bool) -> None:
    data_dir = place.folder()
    started = begin(installation, data_dir, PASSWORD)
    assert started.stdout is not None
    child = int(started.stdout.readline())
    wait_for(data_dir.joinpath("pgidle/initdb/data/base/1").exists)
    started.terminate()
    while again and started.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    assert "stopped" in finish(started)
    assert state(data_dir) is DataDirState.EMPTY
    assert not working_in(data_dir)


def test_two_at_once_make_one_cluster(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    environ = {**PASSWORD, **QUICK}
    both = [begin(newest, data_dir, environ) for _ in range(2)]
    assert [finish(one) for one in both] == ["", ""]
    assert state(data_dir) is DataDirState.READY
    assert not working_in(data_dir)


def test_a_directory_with_something_in_it_is_left_alone(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    data_dir.joinpath("photo.jpg").write_text("")
    assert "photo.jpg" in initialise(newest, data_dir, PASSWORD)
    assert data_dir.joinpath("photo.jpg").exists()
    assert not data_dir.joinpath("pgidle/initdb").exists()


def test_the_wal_may_be_elsewhere_and_is_thrown_away_too(newest: Installation, place: Place) -> None:
    data_dir, wal_dir = place.folder(), place.folder("wal")
    environ = {**PASSWORD, **QUICK, "POSTGRES_INITDB_WALDIR": str(wal_dir)}
    assert "killed" in initialise(newest, data_dir, environ, "complete")
    assert list(wal_dir.iterdir())
    assert initialise(newest, data_dir, environ) == ""
    assert data_dir.joinpath("pg_wal").resolve() == wal_dir
    other = place.folder()
    assert f"{wal_dir} is not empty" in initialise(newest, other, environ)
    assert list(wal_dir.iterdir())


def script(place: Place, installation: Installation, body: str) -> str:
    """A stand-in for the official image's script, in a folder for PATH."""
    folder = place.folder("scripts")
    folder.chmod(0o755)
    file = folder / "docker-ensure-initdb.sh"
    file.write_text(f"#!/bin/bash\nset -e\n{body}")
    file.chmod(0o755)
    return str(folder)


MAKE = """
echo noise
[ "$1 $2 $3" = "postgres -c work_mem=5MB" ]
[ -n "$POSTGRES_PASSWORD" ]
[ -z "$POSTGRES_PASSWORD_FILE" ]
initdb --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") $POSTGRES_INITDB_ARGS
echo "hba_file = '$PGDATA/pg_hba.conf'" >> "$PGDATA/postgresql.conf"
pg_ctl -w start -o "-c listen_addresses='' -c unix_socket_directories=$SOCKETS"
psql -v ON_ERROR_STOP=1 -h "$SOCKETS" -U "$POSTGRES_USER" -d postgres -c 'create table made (by text)'
"""


def test_the_images_script_is_used_where_it_is(installation: Installation, place: Place) -> None:
    data_dir, secret = place.folder(), place.folder() / "secret"
    secret.write_text("from a file\n")
    # As a secret is: root's alone.
    secret.chmod(0o400)
    environ = {
        **QUICK,
        "POSTGRES_PASSWORD_FILE": str(secret),
        "POSTGRES_USER": "app",
        "SOCKETS": str(place.folder("s")),
    }
    path = script(place, installation, f"{MAKE}\npg_ctl -w stop")
    said = begin(installation, data_dir, environ, path=path).communicate(timeout=PATIENCE)[1]
    assert "noise" in said
    assert state(data_dir) is DataDirState.READY
    assert f"hba_file = '{data_dir}/pg_hba.conf'" in data_dir.joinpath("postgresql.conf").read_text()
    with served(installation, data_dir, place) as where:
        query = (
            "-h",
            where["sockets"],
            "-p",
            where["port"],
            "-U",
            "app",
            "-d",
            "postgres",
            "-Atc",
            "table made",
        )
        assert run_as_server(installation.program("psql"), *query).stdout == ""


@pytest.mark.parametrize("how", ["fails", "is stopped", "is killed", "is left"])
def test_a_script_that_ends_early_leaves_no_server(newest: Installation, place: Place, how: str) -> None:
    data_dir = place.folder()
    environ = {**QUICK, **PASSWORD, "SOCKETS": str(place.folder("s"))}
    path = script(place, newest, f"{MAKE}\n{'exit 3' if how == 'fails' else 'touch there; sleep 1000'}")
    started = begin(newest, data_dir, environ, path=path)
    assert started.stdout is not None
    child = int(started.stdout.readline())
    if how != "fails":
        wait_for(data_dir.joinpath("pgidle/initdb/data/there").exists)
        if how == "is left":
            started.kill()
        os.kill(child, signal.SIGTERM if how == "is stopped" else signal.SIGKILL)
    if how == "is left":
        started.wait()
        assert working_in(data_dir)
        assert initialise(newest, data_dir, {**PASSWORD, **QUICK}) == ""
        assert not working_in(data_dir)
    said = started.communicate(timeout=PATIENCE)[1].splitlines()[-1]
    if how != "is left":
        assert {"fails": "status 3", "is stopped": "stopped", "is killed": "killed"}[how] in said
    assert not working_in(data_dir)
    if how in ("fails", "is stopped"):
        assert state(data_dir) is DataDirState.EMPTY

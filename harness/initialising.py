"""Runs first starts in a separate process (initialiser.py), and looks at what they made."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg

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


def script(place: Place, installation: Installation, body: str) -> str:
    """A stand-in for the official image's script, in a folder for PATH."""
    folder = place.folder("scripts")
    folder.chmod(0o755)
    file = folder / "docker-ensure-initdb.sh"
    file.write_text(f"#!/bin/bash\nset -e\n{body}")
    file.chmod(0o755)
    return str(folder)

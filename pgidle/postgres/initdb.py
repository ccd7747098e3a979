"""Fills an empty folder with a new cluster: with the official image's script if there is one, else with initdb.

This blocks, and does not survive interruption: `first_start` takes care of that, and calls it in a child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import PgidleError
from pgidle.system.users import for_children

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgidle.postgres.image_variables import FirstStart
    from pgidle.postgres.programs import Binaries

ENSURE_INITDB = "docker-ensure-initdb.sh"
"""The official image's script: it does all of the first start, /docker-entrypoint-initdb.d included, and exits."""
MADE_BY_INITDB = ("postgres", "template0", "template1")
PASSWORD_METHODS = ("scram-sha-256", "md5", "password")
"""Methods that initdb can write for loopback; any other needs more parameters than initdb takes."""
PATIENCE = 3.0
"""Seconds that processes have to end after SIGQUIT, and again after SIGKILL."""
PR_SET_PDEATHSIG = 1
COMPLAINT = re.compile(r"(?:error|ERROR|FATAL|PANIC): +(.+)")
OWN_LINE = re.compile(r"^(?:initdb|postgres): (?!hint|warning|detail)(.+)", re.MULTILINE)
"""Complaints of getopt, and those whose keyword above is in the user's language."""


@dataclass(frozen=True, slots=True)
class Order:
    """How to make a cluster, and for which user. `postgres_args` are for the script's temporary server."""

    binaries: Binaries
    first: FirstStart
    environ: Mapping[str, str]
    postgres_args: Sequence[str] = ()


def make_cluster(folder: Path, final: Path, order: Order) -> None:
    """Make a cluster in `folder`, empty and mode 0700, that will be moved to `final`. Raises PgidleError."""
    script = shutil.which(ENSURE_INITDB, path=order.environ.get("PATH", os.defpath))
    if script is not None:
        _run_script(script, folder, order)
        _forget_place(folder, final)
    else:
        _run_initdb(folder, order)
        _allow_hosts(folder, order)
        _allow_own_user(folder, order)
        _create_database(folder, order)
    if order.first.syncs:
        _run(folder, order, "initdb", "--sync-only", "-D", str(folder))


def _run_script(script: str, folder: Path, order: Order) -> None:
    # Its output includes that of the user's own scripts, so it is shown as it comes, where pgidle's log goes. Not
    # through a pipe: a temporary server that outlives a failed script would hold it open.
    environ = order.first.script_environ(for_children(order.environ)) | {
        "PGDATA": str(folder),
        "PATH": f"{order.binaries.bin_dir}:{order.environ.get('PATH', os.defpath)}",
    }
    command = [script, "postgres", *order.postgres_args]
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=2, preexec_fn=_die_with_parent
    )
    if status := process.wait():
        raise PgidleError(f"{script} failed with status {status}", "see what it wrote above")
    if not folder.joinpath("PG_VERSION").exists():
        raise PgidleError(f"{script} made no cluster in {folder}", "it must honour PGDATA")


def _forget_place(folder: Path, final: Path) -> None:
    """Scripts write absolute paths into settings ($PGDATA/server.key); the files move, so the paths must change."""
    for conf in folder.glob("*.conf"):
        text = conf.read_bytes()
        if os.fsencode(folder) in text:
            conf.write_bytes(text.replace(os.fsencode(folder), os.fsencode(final)))


def _run_initdb(folder: Path, order: Order) -> None:
    first = order.first
    local, loopback = "peer", "scram-sha-256"
    if first.trusts:
        local = loopback = "trust"
    elif first.auth_method in PASSWORD_METHODS:
        loopback = first.auth_method
    arguments = ["--no-sync", f"--username={first.user}", f"--auth-local={local}", f"--auth-host={loopback}"]
    locale = next(filter(None, (order.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))), "C")
    if locale in ("C", "POSIX"):
        # initdb would make SQL_ASCII databases, which store any bytes without knowing what they mean.
        arguments.append("--encoding=UTF8")
    if first.wal_dir is not None:
        arguments.append(f"--waldir={first.wal_dir}")
    if first.password is None:
        _run(folder, order, "initdb", *arguments, *first.initdb_args, "-D", str(folder))
        return
    password_file = os.memfd_create("password")
    try:
        os.write(password_file, os.fsencode(first.password) + b"\n")
        arguments.append(f"--pwfile=/proc/self/fd/{password_file}")
        command = (*arguments, *first.initdb_args, "-D", str(folder))
        _run(folder, order, "initdb", *command, pass_fds=(password_file,))
    finally:
        os.close(password_file)


def _allow_hosts(folder: Path, order: Order) -> None:
    method = order.first.auth_method
    if method is None:
        method = _run(folder, order, "postgres", "-C", "password_encryption", "-D", str(folder)).strip()
    with folder.joinpath("pg_hba.conf").open("a") as file:
        file.write(
            f"\n# From anywhere: POSTGRES_HOST_AUTH_METHOD at the first start\nhost all all all {method}\n"
        )


def _allow_own_user(folder: Path, order: Order) -> None:
    """Let the operating system's user that Postgres runs as in as the superuser, whatever its name."""
    own = pwd.getpwuid(os.geteuid()).pw_name
    if own == order.first.user:
        return
    hba = folder / "pg_hba.conf"
    peer = re.compile(r"^(local\s.*\speer)[ \t]*$", re.MULTILINE)
    hba.write_text(peer.sub(r"\1 map=pgidle", hba.read_text()))
    with folder.joinpath("pg_ident.conf").open("a") as file:
        file.write(
            "\n# Everybody as themselves, and the user that Postgres runs as also as the superuser\n"
            f"pgidle /^(.*)$ \\1\npgidle {_quoted(own)} {_quoted(order.first.user)}\n"
        )


def _create_database(folder: Path, order: Order) -> None:
    if order.first.database in MADE_BY_INITDB:
        return
    arguments = ("--single", "-D", str(folder), "-j", "-c", "exit_on_error=on", "-c", "fsync=off", "postgres")
    # -j: a statement ends at a semicolon and an empty line.
    _run(
        folder, order, "postgres", *arguments, script=f"CREATE DATABASE {_quoted(order.first.database)};\n\n"
    )


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _run(
    folder: Path, order: Order, program: str, *arguments: str, script: str = "", pass_fds: Sequence[int] = ()
) -> str:
    """Run one of Postgres's programs in `folder`; return its output. Its complaint becomes a PgidleError."""
    process = subprocess.Popen(
        [order.binaries.path(program), *arguments],
        cwd=folder,
        env={name: value for name, value in for_children(order.environ).items() if name != "PGDATA"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=pass_fds,
        preexec_fn=_die_with_parent,
    )
    output = process.communicate(os.fsencode(script))[0].decode(errors="replace")
    if process.returncode:
        complaint = COMPLAINT.search(output) or OWN_LINE.search(output)
        what = complaint[1] if complaint else " ".join(output.split()[-20:]) or "without a message"
        raise PgidleError(f"{program} failed at the first start: {what}", "fix that and start again")
    return output


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_processes(folder: Path) -> None:
    """End every process that still works in `folder`: only programs of this start have it as their working directory.

    Neither the process group nor the parent identifies them: pg_ctl puts the script's server into a session of its own,
    and processes of a killed pgidle have another parent. Raises PgidleError if one cannot be ended.
    """
    began = time.monotonic()
    while pids := _working_in(folder):
        waited = time.monotonic() - began
        if waited > 2 * PATIENCE:
            raise PgidleError(f"process {pids[0]} is still working in {folder} and cannot be ended", "end it")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if waited > PATIENCE else signal.SIGQUIT)
        time.sleep(0.01)


def _working_in(folder: Path) -> list[int]:
    try:
        wanted = folder.stat()
    except FileNotFoundError:
        return []
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.path.samestat(entry.joinpath("cwd").stat(), wanted):
                    pids.append(int(entry.name))
    return [pid for pid in pids if pid != os.getpid()]

"""The cluster as it lies on disk: the data directory and postmaster.pid.

Nothing here writes or runs a program: an existing data directory passes through on every wake.
"""

from __future__ import annotations

import os
import stat

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.base.record import Enum, record
from pgidle.system.trusted_path import read_regular
from pgidle.system.users import user_name

OWN_FOLDER = "pgidle"
"""pgidle's own folder in the data directory; Postgres does not mind it."""
INITDB_FOLDER = "pgidle/initdb"
"""Where a data directory is made before its files move up; there only while initialising."""
INITDB_DATA = f"{INITDB_FOLDER}/data"
COMPLETE = "complete"
"""The file beside INITDB_DATA that says: nothing is left to do but to move up."""
FORBIDDEN_MODE = stat.S_IWGRP | stat.S_IRWXO
"""Postgres refuses a data directory with any of these bits: it wants 0700 or 0750."""


class DataDirState(Enum):
    MISSING = "missing"
    EMPTY = "empty"
    INTERRUPTED = "interrupted"
    READY = "ready"


@record
class DataDir:
    """What a data directory is; `version` as PG_VERSION says, None while nothing is made that is complete."""

    state: DataDirState
    version: str | None = None


@record
class PidFile:
    """What counts of postmaster.pid, as far as it is written: Postgres adds lines as it starts (utils/pidfile.h)."""

    pid: int
    socket_dir: str = ""


def inspect_data_dir(path: str, uid: int) -> DataDir:
    """What `path` is to a Postgres that runs as `uid`. Raises PgidleError for what Postgres could not use.

    To root a missing directory is fine, and so is an empty one of root's: `directories.prepare_directories`
    hands it over, and judges what root cannot: whether the user gets there.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise PgidleError(f"{path} is not a directory", "name the data directory with --data-dir")
        contents = DataDir(*_contents(path))
    except FileNotFoundError:
        _check_creatable(path)
        return DataDir(DataDirState.MISSING)
    except PermissionError:
        raise _inaccessible(path, uid) from None
    except OSError as fault:
        raise PgidleError(f"data directory {path} cannot be used: {fault.strerror}", "name another") from None
    if found.st_uid == os.geteuid() == 0 and contents.state is DataDirState.EMPTY:
        return contents
    if found.st_uid != uid or not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise _inaccessible(path, uid)
    if contents.state is DataDirState.READY and found.st_mode & FORBIDDEN_MODE:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise PgidleError(
            f"data directory {path} has permissions {mode}, Postgres wants 0700 or 0750", f"chmod 0700 {path}"
        )
    return contents


def refuse_closed(socket_dir: str, *, is_default: bool = False) -> None:
    """Raise SettingsError for a folder that Postgres, as the effective user, could not make its Unix socket in.

    `is_default`: nobody named it, it is where Postgres was built to make it.
    """
    if os.access(socket_dir, os.W_OK | os.X_OK, effective_ids=True):
        return
    why = "cannot be written by" if os.path.isdir(socket_dir) else "is not there for"
    what = "this Postgres makes its Unix socket in" if is_default else "--socket-dir"
    which = "which " if is_default else ""
    raise SettingsError(
        f"{what} {socket_dir}{',' * is_default} {which}{why} user {user_name(os.geteuid())}",
        "set --socket-dir to a folder of its own, or /tmp"
        if is_default
        else "make it and chown it, or name another",
    )


def _inaccessible(path: str, uid: int) -> PgidleError:
    """Why `uid` cannot use a data directory that exists."""
    user = user_name(uid)
    try:
        found = os.stat(path)
    except PermissionError:
        return PgidleError(f"data directory {path} cannot be reached by user {user}", "chmod +x all above it")
    if found.st_uid != uid:
        return PgidleError(
            f"data directory {path} is owned by {user_name(found.st_uid)}, Postgres would run as {user}",
            f"chown -R {user} {path}, or run as its owner",
        )
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return PgidleError(f"data directory {path} is on a read-only file system", "mount it writable")
    return PgidleError(f"data directory {path} is not writable by user {user}", f"chmod 0700 {path}")


def _contents(path: str) -> tuple[DataDirState, str | None]:
    if (version := _read_version(path)) is not None:
        # Whatever is left of an initialisation: PG_VERSION came last, so it had ended.
        return DataDirState.READY, version
    others = sorted(name for name in os.listdir(path) if name != OWN_FOLDER)
    if os.path.lexists(f"{path}/{INITDB_FOLDER}"):
        is_complete = os.path.lexists(f"{path}/{INITDB_FOLDER}/{COMPLETE}")
        return DataDirState.INTERRUPTED, _read_version(f"{path}/{INITDB_DATA}") if is_complete else None
    if not others:
        return DataDirState.EMPTY, None
    if "lost+found" in others:
        raise PgidleError(
            f"{path} is the root of a file system (it has lost+found), not a data directory",
            f"use a subdirectory of it: --data-dir {path.rstrip('/')}/data",
        )
    if "postgresql.conf" in others:
        raise PgidleError(
            f"{path} holds a configuration, not data (no PG_VERSION)",
            "name the data directory that its postgresql.conf names",
        )
    raise PgidleError(
        f"{path} is not empty ({others[0]} is there) and not a data directory (no PG_VERSION)",
        "name another directory, or empty this one",
    )


def _read_version(path: str) -> str | None:
    try:
        version = read_regular(f"{path}/PG_VERSION")[:64].decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    if not version.replace(".", "", 1).isdigit():
        # Not what it says: as root this may be a link to anything.
        raise PgidleError(f"{path}/PG_VERSION does not say a version", "restore a backup")
    return version


def _check_creatable(path: str) -> None:
    above = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        why = f"{above} is not a directory"
    elif os.statvfs(above).f_flag & os.ST_RDONLY:
        why = f"{above} is on a read-only file system"
    elif not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        why = f"user {user_name(os.geteuid())} may not write in {above}"
    else:
        return
    raise PgidleError(f"data directory {path} does not exist and cannot be created ({why})", "name another")


def read_pidfile(data_dir: str) -> PidFile | None:
    """postmaster.pid as far as it is written; None when there is none or its first line is no number yet.

    A negative pid is a standalone backend's (`postgres --single`), which locks the directory too.
    """
    try:
        text = os.fsdecode(read_regular(f"{data_dir}/postmaster.pid"))
    except OSError:
        return None
    lines = [line.strip() for line in text.split("\n")]
    pid = _number(lines[0])
    if not pid:
        return None
    return PidFile(abs(pid), lines[4] if len(lines) > 4 else "")


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def living_postmaster(data_dir: str) -> int | None:
    """The pid of the living postmaster (or standalone backend) that holds `data_dir`, if one does.

    The pid in postmaster.pid may by now be anybody's: a postmaster is a `postgres` whose working directory is
    the data directory, and it is not one of the backends, which have `postgres: ` before their title. One
    that may not be looked into (another user's) counts by its name alone: doubt means in use.
    """
    pidfile = read_pidfile(data_dir)
    if pidfile is None:
        return None
    proc = f"/proc/{pidfile.pid}"
    try:
        with open(f"{proc}/comm", "rb") as comm, open(f"{proc}/cmdline", "rb") as cmdline:
            name, title = comm.read(), cmdline.read(64)
    except OSError:
        return None
    if b"postgres" not in name and b"postmaster" not in name:
        return None
    if not title or title.startswith(b"postgres: "):
        return None
    try:
        return pidfile.pid if os.path.samestat(os.stat(f"{proc}/cwd"), os.stat(data_dir)) else None
    except PermissionError:
        return pidfile.pid
    except OSError:
        return None

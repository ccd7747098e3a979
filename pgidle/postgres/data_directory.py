"""The cluster on disk: the data directory and postmaster.pid.

Nothing here writes or runs a program: all of this happens in every wake.
"""

from __future__ import annotations

import os
import stat

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.base.record import Enum, record
from pgidle.system.trusted_path import read_regular
from pgidle.system.users import user_name

OWN_FOLDER = "pgidle"
"""pgidle's own folder in the data directory, which Postgres ignores."""
INITDB_FOLDER = "pgidle/initdb"
"""Where a new data directory is made before its files move up. It exists only during a first start."""
INITDB_DATA = f"{INITDB_FOLDER}/data"
COMPLETE = "complete"
"""The file beside INITDB_DATA that marks it as complete: only moving up is left."""
FORBIDDEN_MODE = stat.S_IWGRP | stat.S_IRWXO
"""Postgres refuses a data directory with any of these bits: it wants 0700 or 0750."""


class DataDirState(Enum):
    MISSING = "missing"
    EMPTY = "empty"
    INTERRUPTED = "interrupted"
    READY = "ready"


@record
class DataDir:
    """The state of a data directory. `version` is the content of PG_VERSION; None until there is a complete one."""

    state: DataDirState
    version: str | None = None


@record
class PidFile:
    """The relevant lines of postmaster.pid, as far as they are written: a starting Postgres adds lines as it goes
    (utils/pidfile.h)."""

    pid: int
    socket_dir: str = ""


def inspect_data_dir(path: str, uid: int) -> DataDir:
    """The state of `path` for a Postgres that runs as `uid`. Raises PgidleError if Postgres could not use it.

    For root, a missing directory is fine, and so is an empty one of root's: `directories.prepare_directories` hands it
    over, and checks what root cannot know here, whether the user can reach it.
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

    `is_default`: it was not configured, but is the default that Postgres was built with.
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
        # Even if there are remains of an initialisation: PG_VERSION is moved last, so it was complete.
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
        # Without its content: as root, this may have read a link to any file.
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
    """postmaster.pid as far as it is written; None if there is none, or no number in its first line yet.

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

    The pid in postmaster.pid may have been reused. A process is the postmaster if it is a `postgres` whose working
    directory is the data directory, and is no backend, whose title begins with `postgres: `. If its working directory
    cannot be read (another user's process), the name alone counts: doubt means in use.
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

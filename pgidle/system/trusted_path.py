"""Paths that a privileged user may rely on, walked so that no unprivileged user can divert the walk.

The rule is that of sshd for authorized_keys (safe_path in misc.c) and of systemd for files that it changes (chase()
with CHASE_SAFE): the file and every folder above it belong to a trusted user, and nobody else may write to them. The
walk goes folder by folder from `/`. Each is opened relative to the one before and judged by its descriptor, so that
what was judged is what is used. A symbolic link is followed only where no untrusted user could have put it.
"""

from __future__ import annotations

import errno
import os
import stat

from pgidle.base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MOST_LINKS = 40
"""The number of symbolic links that the kernel follows on one path (path_resolution(7))."""
LARGEST = 1 << 20
"""Bytes: a longer file is refused."""
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@record
class Trust:
    """The users who may own a file that is relied on, and the groups that may write to it. Never root's group: an
    access control list shows up as group permissions, so that anybody may be able to write to a folder that root's
    group may write to."""

    uids: frozenset[int]
    gids: frozenset[int] = frozenset()


def trust_in(uid: int, gid: int) -> Trust:
    """root and one more user; for root, root alone."""
    return Trust(frozenset((0, uid)), frozenset((gid,)) if uid else frozenset())


@record
class Weakness:
    """Something on a path that an untrusted user could change. `uid` is its owner's."""

    path: str
    uid: int
    is_owned: bool
    """Whether the owner is untrusted; else it is a group or everybody that may write."""


@record
class Place:
    """A name in an open folder (O_PATH, the caller closes it), and the first weakness on the way there."""

    folder: int
    name: str
    path: str
    weakness: Weakness | None


def reach(path: str, trust: Trust) -> Place:
    """The folder that holds `path`, an absolute one, and the name in it, which need not be there and is no link.

    Raises OSError, with ELOOP for a link that somebody could have put there who is not trusted.
    """
    steps = _steps(path)
    folder, here = os.open("/", _FOLDER), "/"
    try:
        weakness = judge(here, os.fstat(folder), trust)
        links = 0
        while True:
            name = steps.pop() if steps else "."
            target = _link(name, folder, f"{here.rstrip('/')}/{name}", trust, weakness)
            if target is not None:
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                steps += _steps(target)
                if target.startswith("/"):
                    folder, here = _moved(folder, "/"), "/"
                continue
            inner = f"{here.rstrip('/')}/{name}"
            if not steps and name != "..":
                return Place(folder, name, inner, weakness)
            folder, here = _moved(folder, name), os.path.normpath(inner)
            weakness = weakness or judge(here, os.fstat(folder), trust)
    except BaseException:
        os.close(folder)
        raise


def _steps(path: str) -> list[str]:
    """The names of a path, the last one first."""
    return [name for name in path.split("/") if name not in ("", ".")][::-1]


def _moved(folder: int, name: str) -> int:
    inner = os.open(name, _FOLDER, dir_fd=folder)
    os.close(folder)
    return inner


def _link(name: str, folder: int, path: str, trust: Trust, weakness: Weakness | None) -> str | None:
    """Where a symbolic link leads; None for anything else. Raises OSError for a link that must not be followed."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(found.st_mode):
        return None
    if weakness is not None or found.st_uid not in trust.uids:
        raise OSError(errno.ELOOP, "it is a symbolic link, which another user could have put there", path)
    return os.readlink(name, dir_fd=folder)


def judge(path: str, found: os.stat_result, trust: Trust) -> Weakness | None:
    """What is weak about one step of a path, if anything is.

    In a folder with the sticky bit only owners may remove and rename entries, so the folder itself is no weakness.
    """
    if found.st_uid not in trust.uids:
        return Weakness(path, found.st_uid, is_owned=True)
    is_shared = found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and found.st_gid not in trust.gids
    )
    is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    return Weakness(path, found.st_uid, is_owned=False) if is_shared and not is_sticky else None


def open_folder(path: str, trust: Trust) -> tuple[int, Weakness | None]:
    """A folder that is there, and its first weakness. Raises OSError."""
    place = reach(path, trust)
    try:
        folder = os.open(place.name, _FOLDER, dir_fd=place.folder)
    finally:
        os.close(place.folder)
    return folder, place.weakness or judge(place.path, os.fstat(folder), trust)


def why_not_below(path: str, trust: Trust) -> str | None:
    """Why `make_folder` would refuse to make anything in an existing folder; None if it would not."""
    try:
        folder, _ = open_folder(path, trust)
    except OSError as error:
        return error.strerror
    weakness = judge(path, os.fstat(folder), trust)
    os.close(folder)
    return os.strerror(errno.EACCES) if weakness is not None else None


def make_folder(path: str, trust: Trust, settle: Callable[[int], None]) -> bool:
    """Make a folder, mode 0700, and those above it that are missing, 0755. False where it is there.

    Only in folders that nobody else may write. `settle` is called with the new one's descriptor. Raises OSError.
    """
    folder, made, here = os.open("/", _FOLDER), False, ""
    steps = _steps(os.path.normpath(path))
    try:
        while steps:
            name = steps.pop()
            here = f"{here}/{name}"
            try:
                os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                if judge(here, os.fstat(folder), trust) is not None:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), here) from None
                os.mkdir(name, 0o755 if steps else 0o700, dir_fd=folder)
                folder, made = _moved(folder, name), True
            else:
                inner, _ = open_folder(here, trust)
                os.close(folder)
                folder, made = inner, False
        if made:
            settle(folder)
    finally:
        os.close(folder)
    return made


def read_trusted(path: str, trust: Trust) -> tuple[bytes, Weakness | None]:
    """A regular file's content, and the first weakness of it or of what is above it. Raises OSError."""
    place = reach(path, trust)
    try:
        found = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.folder)
    finally:
        os.close(place.folder)
    try:
        return _read(found, path), place.weakness or judge(place.path, os.fstat(found), trust)
    finally:
        os.close(found)


def replace_file(path: str, content: bytes, trust: Trust) -> None:
    """Write a file, mode 0644, completely or not at all. Raises OSError.

    Folders that others may write to will do, as Debian's for node_exporter are: without a link to follow, they can lead
    only to folders of their own, and what is there of that name is replaced and never written to.
    """
    place = reach(path, trust)
    try:
        new = f".{place.name}.{os.getpid()}"
        try:
            os.unlink(new, dir_fd=place.folder)
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o600, dir_fd=place.folder), "wb") as file:
            try:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.replace(new, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
            except OSError:
                os.unlink(new, dir_fd=place.folder)
                raise
    finally:
        os.close(place.folder)


def read_regular(path: str) -> bytes:
    """A regular file's content: never a pipe that nobody writes, nor a device. Raises OSError."""
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return _read(found, path)
    finally:
        os.close(found)


def _read(found: int, path: str) -> bytes:
    """Read a file by an O_PATH descriptor, because opening a device or a pipe can have effects."""
    mode = os.fstat(found).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    with open(f"/proc/self/fd/{found}", "rb", buffering=0) as file:
        content = b""
        while chunk := file.read(LARGEST + 1 - len(content)):
            content += chunk
    if len(content) > LARGEST:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST >> 20} MB", path)
    return content

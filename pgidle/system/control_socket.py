"""The control socket in the state directory, both ends: where it is, who may connect, and who did.

Everything goes by descriptor: a socket's path may have 107 bytes (unix(7)), a folder's many more; and what is used is
what was looked at.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from pgidle.base.builtin_modules import socket
from pgidle.base.errors import PgidleError
from pgidle.base.record import record
from pgidle.system.state_directory import open_of_another
from pgidle.system.users import local_user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.system.state_directory import StateDir

NAME = "control.sock"
BACKLOG = 16
_UCRED = struct.Struct("=iII")
"""struct ucred (unix(7)): pid, uid, gid."""


@record
class Peer:
    """The process at the other end of a Unix socket, as of when it connected, or called listen(2)."""

    pid: int
    uid: int


def path(state_dir: str) -> str:
    return f"{state_dir}/{NAME}"


def listen(state_dir: StateDir) -> socket.socket:
    """The supervisor's end, in place of one that an earlier supervisor left. Raises PgidleError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        state_dir.forget(NAME)
        _bind(listener, state_dir)
        listener.listen(BACKLOG)
    except OSError as error:
        raise PgidleError(
            f"cannot make {path(state_dir.path)}: {error.strerror}", "set --state-dir"
        ) from None
    finally:
        os.umask(mask)
    return listener


def _bind(listener: socket.socket, state_dir: StateDir) -> None:
    """Under the socket's own name where that is possible: `find_control_sockets` reads it. Raises OSError."""
    try:
        listener.bind(path(state_dir.path))
    except OSError:  # Too long a path, or one that this user may not walk.
        listener.bind(f"/proc/self/fd/{state_dir.folder}/{NAME}")
        return
    # The path may lead elsewhere by now: then nobody would find this socket.
    os.stat(NAME, dir_fd=state_dir.folder, follow_symlinks=False)


def allowed_users() -> tuple[int, ...]:
    """The uids whose connections the supervisor takes: root's and its own."""
    return (0, os.geteuid())


def peer_of(connected: socket.socket) -> Peer:
    """Who is at the other end, by the kernel (SO_PEERCRED)."""
    pid, uid, _ = _UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid)


def peer_text(connected: socket.socket) -> str:
    """Who is at the other end, for people."""
    peer = peer_of(connected)
    user = f"user {local_user_name(peer.uid)}"
    try:
        with open(f"/proc/{peer.pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"{user} ({file.read().strip()}, pid {peer.pid})"
    except OSError:
        return user  # It is in another pid namespace, or has exited.


def connect(client: socket.socket, state_dir: str) -> None:
    """Connect to the supervisor of a state directory, which may be another user's. Raises OSError, as where there is no
    supervisor, or where something else is in the place of its socket: a link could lead to one that only root reaches.
    """
    folder = open_of_another(state_dir)
    try:
        found = os.open(NAME, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            _refuse_foreign(os.fstat(found), os.fstat(folder))
            client.connect(f"/proc/self/fd/{found}")
        finally:
            os.close(found)
    finally:
        os.close(folder)


def _refuse_foreign(found: os.stat_result, folder: os.stat_result) -> None:
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != folder.st_uid:
        raise OSError(errno.ENOTSOCK, "it is no socket of the folder's owner")

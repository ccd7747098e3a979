"""Makes the data directory and the state directory for the user that Postgres runs as, or tells why it could not.

What a directory's modes mean to that user is not worked out here: the kernel answers, within `acting_as`.
"""

from __future__ import annotations

import os

from pgidle.base.errors import PgidleError
from pgidle.system.trusted_path import make_folder, open_folder, trust_in, why_not_below
from pgidle.system.users import acting_as, user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.system.users import Identity

ROOT = trust_in(0, 0)
PASS, MAKE, USE = os.X_OK, os.W_OK | os.X_OK, os.R_OK | os.W_OK | os.X_OK


def prepare_directories(data_dir: str, state_dir: str, identity: Identity | None) -> None:
    """Make both where they are missing, mode 0700, the identity's own.

    An empty data directory of root's (a fresh volume) is handed over; nothing else that exists is touched, and no
    symbolic link is followed that root did not make. Before a first start, call it only once that start's settings have
    been checked, so that a refusal leaves nothing behind. Raises PgidleError.
    """
    for path, what in ((data_dir, "data directory"), (state_dir, "state directory")):
        try:
            _provide(path, identity)
            if path == data_dir and identity is not None and os.geteuid() == 0:
                _hand_over_empty(path, identity)
        except OSError as fault:
            raise _not_created(what, path, fault.strerror) from None
        if not _may(path, USE, identity):
            raise _not_usable(what, path, identity)


def refused_directories(data_dir: str, state_dir: str, identity: Identity | None) -> PgidleError | None:
    """What `prepare_directories` would raise. Nothing is made."""
    data_dir, state_dir = os.path.abspath(data_dir), os.path.abspath(state_dir)
    for path, what in ((data_dir, "data directory"), (state_dir, "state directory")):
        if path == state_dir and path.startswith(f"{data_dir}/") and not os.path.lexists(path):
            continue  # It will be made in the data directory, which will be the identity's own.
        if (why := _why_not_created(path, identity)) is not None:
            return _not_created(what, path, why)
        if not _will_be_usable(path, identity, is_data=path == data_dir):
            return _not_usable(what, path, identity)
    return None


def _not_created(what: str, path: str, why: str | None) -> PgidleError:
    return PgidleError(f"{what} {path} cannot be created: {why}", "name another")


def _not_usable(what: str, path: str, identity: Identity | None) -> PgidleError:
    user = identity.name if identity else user_name(os.geteuid())
    return PgidleError(
        f"{what} {path} cannot be used by user {user}", "chown it, and let that user pass all above it"
    )


def _may(path: str, mode: int, identity: Identity | None) -> bool:
    """Whether the kernel lets the identity, or this process's user, do that (access(2))."""
    with acting_as(identity):
        return os.access(path, mode, effective_ids=True)


def _makes_for_another(identity: Identity | None) -> bool:
    """Whether root makes directories for somebody else."""
    return identity is not None and os.geteuid() == 0


def _provide(path: str, identity: Identity | None) -> None:
    """Make a directory that is missing. Raises OSError."""
    try:
        # As the user itself where it may: root makes nothing in a folder that others can change.
        with acting_as(identity):
            _make(path)
    except PermissionError:
        if identity is None or os.geteuid() != 0:
            raise
        above = os.path.abspath(path)
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        if above == os.path.abspath(path):
            return
        if not _may(above, PASS, identity):
            raise
        make_folder(path, ROOT, lambda made: _hand_over(made, identity))


def _why_not_created(path: str, identity: Identity | None) -> str | None:
    """Why `_provide` would fail, in the kernel's words."""
    above = path
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        return "File exists" if above == path else "Not a directory"
    if above == path or _may(above, MAKE, identity):
        return None
    if _makes_for_another(identity) and _may(above, PASS, identity) and os.access(above, os.W_OK):
        return why_not_below(above, ROOT)
    return "Permission denied"


def _make(path: str) -> None:
    if not os.path.isdir(path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o755, exist_ok=True)
        os.mkdir(path, mode=0o700)


def _hand_over_empty(path: str, identity: Identity) -> None:
    """Hand over an empty folder of root's, reached through no link that others could have put there: only root moves
    root's folders to another place (rename(2))."""
    if os.stat(path).st_uid != 0:
        return
    folder, _ = open_folder(path, ROOT)
    try:
        if os.fstat(folder).st_uid == 0 and not os.listdir(f"/proc/self/fd/{folder}"):
            _hand_over(folder, identity)
    finally:
        os.close(folder)


def _hand_over(folder: int, identity: Identity) -> None:
    # O_PATH descriptors take no fchown(2), but what they lead to cannot be replaced.
    os.chown(f"/proc/self/fd/{folder}", identity.uid, identity.gid)
    os.chmod(f"/proc/self/fd/{folder}", 0o700)


def _will_be_usable(path: str, identity: Identity | None, *, is_data: bool) -> bool:
    """A missing one will be the identity's own, and so will an empty data directory of root's."""
    if not os.path.isdir(path):
        return True
    if is_data and _makes_for_another(identity) and os.stat(path).st_uid == 0 and not os.listdir(path):
        return _may(os.path.dirname(path), PASS, identity) and why_not_below(path, ROOT) is None
    return _may(path, USE, identity)

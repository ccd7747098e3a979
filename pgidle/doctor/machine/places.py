"""Whether a first start could make its directories, and whose unit runs what is there. Nothing is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import PgidleError
from pgidle.postgres.debian import find_cluster
from pgidle.system.trusted_path import why_not_below
from pgidle.system.users import ROOT, acting_as, user_name

if TYPE_CHECKING:
    from pgidle.system.users import Identity

PASS, MAKE, USE = os.X_OK, os.W_OK | os.X_OK, os.R_OK | os.W_OK | os.X_OK


def debian_unit(data_dir: str) -> str:
    """The unit of one cluster; `postgresql` would stop every cluster."""
    cluster = find_cluster(data_dir)
    return cluster.unit if cluster is not None else "postgresql@VERSION-NAME (pg_lsclusters lists them)"


def refused_directories(data_dir: str, state_dir: str, identity: Identity | None) -> PgidleError | None:
    """What `privileges.prepare_directories` would refuse, by the same rules."""
    data, state = Path(data_dir), Path(state_dir)
    for path, what in ((data, "data directory"), (state, "state directory")):
        if path is state and data in path.parents and not os.path.lexists(path):
            continue  # Below the other, which will be the identity's own.
        why = _refused_creation(path, identity)
        if why is not None:
            return PgidleError(f"{what} {path} cannot be created: {why}", "name another")
        if not _will_be_usable(path, identity, is_data=path is data):
            user = identity.name if identity else user_name(os.geteuid())
            return PgidleError(
                f"{what} {path} cannot be used by user {user}",
                "chown it, and let that user pass all above it",
            )
    return None


def _may(path: Path, mode: int, identity: Identity | None) -> bool:
    with acting_as(identity):
        return os.access(path, mode, effective_ids=True)


def _is_handed_over(identity: Identity | None) -> bool:
    """Root gives the identity what is root's, or what it makes."""
    return identity is not None and os.geteuid() == 0


def _refused_creation(path: Path, identity: Identity | None) -> str | None:
    above = path
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        return "File exists" if above == path else "Not a directory"
    if above == path or _may(above, MAKE, identity):
        return None
    if _is_handed_over(identity) and _may(above, PASS, identity) and os.access(above, os.W_OK):
        return why_not_below(str(above), ROOT)
    return "Permission denied"


def _will_be_usable(path: Path, identity: Identity | None, *, is_data: bool) -> bool:
    """One that is not there will be the identity's own, and so will an empty data directory of root's."""
    if not path.is_dir():
        return True
    if is_data and _is_handed_over(identity) and path.stat().st_uid == 0 and not any(path.iterdir()):
        return _may(path.parent, PASS, identity) and why_not_below(str(path), ROOT) is None
    return _may(path, USE, identity)

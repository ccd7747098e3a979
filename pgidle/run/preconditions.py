"""What Postgres needs before it can start (data directory, programs, folder for its socket), found or refused.

Judged with the rights of the user that Postgres will run as: what root may do does not count.
"""

from __future__ import annotations

import os

from pgidle.base.record import record
from pgidle.postgres.data_directory import DataDirState, inspect_data_dir, refuse_closed
from pgidle.postgres.programs import default_socket_dirs, find_bin_dir
from pgidle.system.users import acting_as

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgidle.postgres.image_variables import FirstStart
    from pgidle.postgres.programs import Binaries
    from pgidle.settings.resolve import Settings
    from pgidle.system.users import Identity


@record
class Found:
    """Postgres's programs, and what the first start is to do; None where the data directory is there already."""

    binaries: Binaries
    first: FirstStart | None


def find_postgres(settings: Settings, identity: Identity | None) -> Found:
    """Look at the data directory and find the programs for it. Raises PgidleError for what Postgres could not use."""
    data_dir = inspect_data_dir(settings.data_dir, identity.uid if identity else os.geteuid())
    first = None
    if data_dir.state is not DataDirState.READY:
        from pgidle.postgres.image_variables import first_start

        # While still root: the file that a _FILE variable names may be readable by root alone.
        first = first_start(os.environ)
    with acting_as(identity):
        if first is None:
            inspect_data_dir(settings.data_dir, os.geteuid())
            _refuse_unconfigured(settings)
        is_made_later = first is not None and f"{settings.socket_dir}/".startswith(f"{settings.data_dir}/")
        if settings.socket_dir and not is_made_later:
            refuse_closed(settings.socket_dir)
        path = os.environ.get("PATH", "")
        return Found(find_bin_dir(settings.bin_dir, data_dir.version, path, identity), first)


def _refuse_unconfigured(settings: Settings) -> None:
    """Raise PgidleError where Postgres would not find its configuration."""
    if any("config_file" in word.replace("-", "_") for word in settings.postgres_args):
        return
    if not os.access(f"{settings.data_dir}/postgresql.conf", os.F_OK, effective_ids=True):
        from pgidle.postgres.debian import unconfigured

        raise unconfigured(settings.data_dir)


def refuse_default_socket_dir(settings: Settings, found: Found) -> None:
    """Raise SettingsError where a first start would only find out after initdb that its Unix socket has no folder.

    Where no socket folder is set, it is the one that Postgres was built with, and only its program knows that. So this
    executes a program: call it as the user that Postgres runs as.
    """
    if found.first is None or settings.socket_dir is not None:
        return
    if any("unix_socket_directories" in word for word in found.first.initdb_args):
        return
    for folder in default_socket_dirs(found.binaries.path("postgres")).split(","):
        if folder.strip().startswith("/"):
            refuse_closed(folder.strip(), is_default=True)

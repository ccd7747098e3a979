"""The image's entrypoint: decides what `docker run IMAGE WORDS...` means, by the conventions of the official image.

It runs first in every wake, so whatever starting the server does not need is imported where it is used.
"""

from __future__ import annotations

import gc
import os
import sys

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.postgres.data_directory import FORBIDDEN_MODE
from pgidle.settings.image_command import BASE_ENTRYPOINT, COMMANDS, completed, refuse_own, serves

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

VOLUMES = "/var/lib/postgresql"


def main() -> None:
    gc.disable()  # As in `__main__`; `run` turns it on.
    words = completed(sys.argv[1:])
    try:
        if words[0] == "pgidle":
            sys.argv = words
            from pgidle.__main__ import main as command

            command()
        elif words[0] != "postgres":
            _become(words)
        elif not serves(words[1:]):
            _become([BASE_ENTRYPOINT, *words])
        else:
            refuse_own(words[1:])
            refuse_forgotten(os.environ)
            close_to_others(os.environ)
            from pgidle.run.boot import run
            from pgidle.run.sd_listen import settle_streams

            settle_streams()
            sys.exit(run({}, tuple(words[1:])))
    except PgidleError as error:
        sys.stderr.write(f"pgidle: {error}\n")
        sys.exit(error.status)


def refuse_forgotten(environ: Mapping[str, str]) -> None:
    """Raise PgidleError if the data directory is empty where the official image has it since 18, and there is data
    where the image had it before.

    Someone who still mounts the volume at the old place would otherwise get a new and empty database.
    """
    data_dir, major = environ.get("PGIDLE_DATA_DIR") or environ.get("PGDATA"), environ.get("PG_MAJOR", "")
    if data_dir != f"{VOLUMES}/{major}/docker" or os.path.exists(f"{data_dir}/PG_VERSION"):
        return
    old = f"{VOLUMES}/data"
    places = [VOLUMES, old, *(f"{VOLUMES}/{name}/docker" for name in sorted(os.listdir(VOLUMES)))]
    used = next((place for place in places if os.path.exists(f"{place}/PG_VERSION")), None)
    if used is not None:
        what = f"{used} has the data of another major version"
    elif _is_mounted(old):
        what = f"a volume is mounted at {old}"
    else:
        return
    raise PgidleError(
        f"{what}, and PostgreSQL {major} keeps its own in {data_dir}, which is empty",
        f"mount the volume at {VOLUMES}, and move old data over with pg_upgrade; or set PGDATA",
    )


def close_to_others(environ: Mapping[str, str]) -> None:
    """Set a data directory that its group may write to mode 0700, as the official image's entrypoint does at each
    start.

    Postgres refuses such a directory, and Kubernetes makes a volume writable by fsGroup at each mount. Only a directory
    of our own is changed, and no link is followed.
    """
    data_dir = environ.get("PGIDLE_DATA_DIR") or environ.get("PGDATA")
    try:
        folder = os.open(data_dir or "", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # Whatever is wrong with it is reported later.
    try:
        found = os.fstat(folder)
        if found.st_uid == os.geteuid() and found.st_mode & FORBIDDEN_MODE:
            os.fchmod(folder, 0o700)
    finally:
        os.close(folder)


def _is_mounted(path: str) -> bool:
    # os.path.ismount misses a mount of the same device as the folder above, for example of another volume.
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        return any(line.split(" ", 5)[4] == path for line in mounts)


def _become(words: list[str]) -> NoReturn:
    """Execute another program, found on PATH. If there is none, exit with status 127 or 126 as a shell does."""
    if not words[0]:
        raise SettingsError(
            "the first word is empty", "name a command of this image, or nothing for postgres"
        )
    from pgidle.system.execute import execute

    execute(words, f"write: pgidle {words[0]}" if words[0] in COMMANDS else "name a command of this image")

"""Whether a file is still the one that was read."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Signature: TypeAlias = tuple[int, ...] | None

POSTGRES_FILES = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")
"""What Postgres reads again when it is told to reload."""


def signature(path: str) -> Signature:
    """What changes with a file's content, or with the file; None where there is none that can be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def signatures(data_dir: str) -> dict[str, Signature]:
    """Those of POSTGRES_FILES, by name."""
    return {name: signature(f"{data_dir}/{name}") for name in POSTGRES_FILES}

"""Clusters of Debian's packages, which have their configuration in /etc/postgresql/VERSION/NAME, not beside the data.

https://manpages.debian.org/pg_createcluster
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

CONFIGURATIONS = "/etc/postgresql"
_DATA_DIRECTORY = re.compile(r"^\s*data_directory\s*=?\s*'([^']*)'", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cluster:
    """`folder` holds its postgresql.conf, and start.conf, which says whether it is started at boot."""

    version: str
    name: str
    folder: str

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-{self.name}"


def find_cluster(data_dir: str, configurations: str = CONFIGURATIONS) -> Cluster | None:
    """The cluster whose data is there, if its configuration is elsewhere.

    The data may be closed to who asks: then the configuration alone tells, which everybody may read.
    """
    try:
        if Path(data_dir, "postgresql.conf").exists():
            return None
        version = Path(data_dir, "PG_VERSION").read_text(encoding="ascii").strip()
    except PermissionError:
        version = ""
    except (OSError, ValueError):
        return None
    for conf in sorted(Path(configurations).glob("*/*/postgresql.conf")):
        cluster = Cluster(conf.parts[-3], conf.parts[-2], str(conf.parent))
        try:
            said = _DATA_DIRECTORY.search(conf.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        named = said[1] if said is not None else f"/var/lib/postgresql/{cluster.version}/{cluster.name}"
        if version in ("", cluster.version) and os.path.realpath(named) == os.path.realpath(data_dir):
            return cluster
    return None

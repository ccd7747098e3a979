"""Clusters of Debian's packages, whose configuration is in /etc/postgresql/VERSION/NAME, not beside the data.

https://manpages.debian.org/pg_createcluster
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import join

from pgidle.base.errors import PgidleError
from pgidle.postgres.postgresql_conf import read_parameters
from pgidle.system.trusted_path import read_regular

CONFIGURATIONS = "/etc/postgresql"
LAST_TO_COLLECT = 14
"""The last major version with a statistics collector."""
_VERSION, _NAME = re.compile(r"\d+(\.\d+)?", re.ASCII), re.compile(r"\w[\w.-]*", re.ASCII)
"""The names that pg_createcluster(1) accepts, less those that would need quotes."""
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

    @property
    def postgres_args(self) -> tuple[str, ...]:
        """The arguments that Postgres needs. Up to 14, Debian keeps statistics in a folder below /var/run, which is
        gone after a reboot until pg_ctlcluster makes it; without it, use of Postgres cannot be seen.
        """
        config = ("-c", f"config_file={self.folder}/postgresql.conf")
        major = int(self.version.partition(".")[0])
        return config if major > LAST_TO_COLLECT else (*config, "-c", "stats_temp_directory=pg_stat_tmp")

    def choices(self, data_dir: str) -> dict[str, str]:
        """Where its clients find it, as options: from its configuration, as far as that may be read."""
        parameters = read_parameters(data_dir, self.postgres_args)
        addresses = parameters.value("listen_addresses").replace(" ", "")
        said = {"port": parameters.value("port"), "listen-addresses": addresses}
        return {option: value for option, value in said.items() if value}


def find_cluster(data_dir: str, configurations: str | None = None) -> Cluster | None:
    """The cluster whose data is in `data_dir`, if its configuration is elsewhere.

    The caller may not be able to read the data; then the configuration, which everybody may read, has to do.
    """
    try:
        if Path(data_dir, "postgresql.conf").exists():
            return None
        version = read_regular(f"{data_dir}/PG_VERSION").decode("ascii").strip()
    except PermissionError:
        version = ""
    except (OSError, ValueError):
        return None
    for conf in sorted(Path(configurations or CONFIGURATIONS).glob("*/*/postgresql.conf")):
        cluster = Cluster(conf.parts[-3], conf.parts[-2], str(conf.parent))
        if not (_VERSION.fullmatch(cluster.version) and _NAME.fullmatch(cluster.name)):
            # Postgres's user owns the folders, and their names go into root's units and shell commands.
            continue
        try:
            said = _DATA_DIRECTORY.search(read_regular(str(conf)).decode("utf-8", "replace"))
        except OSError:
            continue
        named = said[1] if said is not None else f"/var/lib/postgresql/{cluster.version}/{cluster.name}"
        if version in ("", cluster.version) and os.path.realpath(named) == os.path.realpath(data_dir):
            return cluster
    return None


def unconfigured(data_dir: str) -> PgidleError:
    """The error for a data directory without postgresql.conf."""
    cluster = find_cluster(data_dir)
    args = (
        join(cluster.postgres_args)
        if cluster
        else f"-c config_file={CONFIGURATIONS}/VERSION/NAME/postgresql.conf"
    )
    return PgidleError(
        f"no postgresql.conf in {data_dir}, whose configuration is elsewhere, as with Debian's clusters",
        f"pgidle run -D {data_dir} -- {args}",
    )

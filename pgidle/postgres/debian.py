"""Clusters of Debian's packages, which have their configuration in /etc/postgresql/VERSION/NAME, not beside the data.

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
"""What pg_createcluster(1) takes for a name, less what would need quotes."""
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
        """What Postgres must be told. Up to 14, Debian has its statistics in a folder below /var/run, which is
        gone after a reboot until pg_ctlcluster makes it; without it nobody can be seen to use Postgres.
        """
        config = ("-c", f"config_file={self.folder}/postgresql.conf")
        major = int(self.version.partition(".")[0])
        return config if major > LAST_TO_COLLECT else (*config, "-c", "stats_temp_directory=pg_stat_tmp")

    def choices(self, data_dir: str) -> dict[str, str]:
        """Where its clients find it, as options: what its configuration says, as far as it may be read."""
        parameters = read_parameters(data_dir, self.postgres_args)
        addresses = parameters.value("listen_addresses").replace(" ", "")
        said = {"port": parameters.value("port"), "listen-addresses": addresses}
        return {option: value for option, value in said.items() if value}


def find_cluster(data_dir: str, configurations: str | None = None) -> Cluster | None:
    """The cluster whose data is there, if its configuration is elsewhere.

    The data may be closed to who asks: then the configuration alone tells, which everybody may read.
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
            # The folders are Postgres's user's, and the names go into units and shell commands of root's.
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
    """What to say of a data directory without postgresql.conf."""
    cluster = find_cluster(data_dir)
    args = (
        join(cluster.postgres_args)
        if cluster
        else f"-c config_file={CONFIGURATIONS}/VERSION/NAME/postgresql.conf"
    )
    return PgidleError(
        f"no postgresql.conf in {data_dir}, which has its configuration elsewhere, as Debian's clusters have",
        f"pgidle run -D {data_dir} -- {args}",
    )

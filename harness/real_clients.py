"""Clients as people use them, unmodified, and what each needs to have installed.

`scripts/clients --install` installs those that PyPI and npm have into the folder TOOLS.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.installations import run_as_server
from harness.supervised import PATIENCE, Supervised
from pgidle.control.client import request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.installations import Installation, Place

PROGRAMS = Path(__file__).parent / "client_programs"
TOOLS = Path(__file__).parent.parent / ".clients"
JDBC = Path("/usr/share/java/postgresql.jar")
SSLMODES = ("disable", "require", "verify-full")

PIP = "scripts/clients --install"
NPM = "scripts/clients --install, with Node.js"


@dataclass(frozen=True, slots=True)
class RealClient:
    """`command` gets what to do (`once`, `pool`, `checked`), the port, sslmode and the root certificate.

    `expected` is what `once` prints, `install` what to do where `is_there` is false. `checked` is what that
    action sets beyond the defaults, None where there is nothing to set.
    """

    name: str
    command: Callable[[str, int, str, Path], list[str]]
    is_there: Callable[[], bool]
    install: str
    expected: str = "42"
    has_pool: bool = False
    checked: str | None = None


def _python(program: str) -> Callable[[str, int, str, Path], list[str]]:
    def command(action: str, port: int, sslmode: str, root: Path) -> list[str]:
        return [f"{TOOLS}/venv/bin/python", f"{PROGRAMS}/{program}", action, str(port), sslmode, str(root)]

    return command


def _node(program: str) -> Callable[[str, int, str, Path], list[str]]:
    def command(action: str, port: int, sslmode: str, root: Path) -> list[str]:
        # Modules are looked for beside the program.
        return ["node", f"{TOOLS}/node/{program}", action, str(port), sslmode, str(root)]

    return command


def _libpq(script: str) -> Callable[[str, int, str, Path], list[str]]:
    def command(action: str, port: int, sslmode: str, root: Path) -> list[str]:
        variables = {"PGHOST": "localhost", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": "app"}
        variables |= {"PGSSLMODE": sslmode}
        if sslmode == "verify-full":
            variables["PGSSLROOTCERT"] = str(root)
        return ["env", *(f"{name}={value}" for name, value in variables.items()), "sh", "-euc", script]

    return command


def _jdbc(action: str, port: int, sslmode: str, root: Path) -> list[str]:
    classpath = f"{TOOLS}/java:{JDBC}"
    return ["java", "-Xshare:auto", "-cp", classpath, "Jdbc", action, str(port), sslmode, str(root)]


def _php(action: str, port: int, sslmode: str, root: Path) -> list[str]:
    return ["php", str(PROGRAMS / "pdo.php"), action, str(port), sslmode, str(root)]


def _is_in_venv(package: str) -> Callable[[], bool]:
    return lambda: any(TOOLS.glob(f"venv/lib/python3*/site-packages/{package}"))


def _is_in_node(package: str) -> Callable[[], bool]:
    return lambda: bool(shutil.which("node")) and (TOOLS / "node/node_modules" / package).is_dir()


def _are_programs(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) for name in names)


@functools.cache
def _has_php() -> bool:
    if not shutil.which("php"):
        return False
    modules = subprocess.run(["php", "-m"], capture_output=True, text=True, check=True).stdout
    return "pdo_pgsql" in modules.lower()


DUMP = "pg_dump --format=custom | pg_restore --clean --if-exists --dbname=app_copy; echo restored"
POSTGRESQL = "apt-get install postgresql-client"

CLIENTS = (
    RealClient("psql", _libpq('psql -Atc "SELECT 42"'), _are_programs("psql"), POSTGRESQL),
    RealClient(
        "pg_dump, pg_restore", _libpq(DUMP), _are_programs("pg_dump", "pg_restore"), POSTGRESQL, "restored"
    ),
    RealClient(
        "pgbench",
        _libpq("pgbench -n -S -c 4 -t 5 2>/dev/null | grep '^number of failed'"),
        _are_programs("pgbench"),
        "apt-get install postgresql-contrib",
        "number of failed transactions: 0 (0.000%)",
    ),
    RealClient(
        "psycopg",
        _python("psycopg_client.py"),
        _is_in_venv("psycopg_pool"),
        PIP,
        has_pool=True,
        checked="`check=ConnectionPool.check_connection`",
    ),
    RealClient("asyncpg", _python("asyncpg_client.py"), _is_in_venv("asyncpg"), PIP, has_pool=True),
    RealClient(
        "SQLAlchemy",
        _python("sqlalchemy_client.py"),
        _is_in_venv("sqlalchemy"),
        PIP,
        has_pool=True,
        checked="`pool_pre_ping=True`",
    ),
    RealClient(
        "Django",
        _python("django_client.py"),
        _is_in_venv("django"),
        PIP,
        has_pool=True,
        checked="`CONN_HEALTH_CHECKS`",
    ),
    RealClient(
        "node-postgres",
        _node("pg_client.mjs"),
        _is_in_node("pg"),
        NPM,
        has_pool=True,
        checked='`pool.on("error", …)`',
    ),
    RealClient("postgres.js", _node("postgres_client.mjs"), _is_in_node("postgres"), NPM, has_pool=True),
    RealClient(
        "JDBC (pgjdbc)",
        _jdbc,
        lambda: JDBC.exists() and (TOOLS / "java/Jdbc.class").exists(),
        "apt-get install default-jdk-headless libpostgresql-jdbc-java, then scripts/clients --install",
        has_pool=True,
        checked="`Connection.isValid`, as pools do",
    ),
    RealClient("PHP PDO", _php, _has_php, "apt-get install php-cli php-pgsql"),
)


class Host:
    """A pgidle with TLS, and the databases that the clients use."""

    def __init__(self, installation: Installation, place: Place) -> None:
        self._installation = installation
        self.one = Supervised(
            installation,
            place,
            listen_addresses="localhost",
            when_idle="stay",
            idle_timeout="off",
            tls="self-signed",
            postgres=("-c", "log_connections=on"),
        )
        self.root = place.folder() / "root.crt"

    def __enter__(self) -> Self:
        self.one.start()
        self.one.wait_for_state("awake")
        for database in ("app", "app_copy"):
            self._program("createdb", database)
        self._program("pgbench", "-q", "-i", "-s", "1", "app")
        # A copy, as a client would have it.
        shutil.copy(self.one.data_dir / "pgidle/tls/server.crt", self.root)
        return self

    def __exit__(self, *_: object) -> None:
        self.one.clean()

    def sleep(self) -> None:
        """Put it to sleep now, whoever is connected."""
        mark = self.one.mark()
        status, body = request(f"{self.one.data_dir}/pgidle", "POST", "/sleep?force=1")
        assert status < 300, body
        self.one.wait_for_state("asleep", since=mark)

    def seen(self, client: RealClient, sslmode: str) -> str | None:
        """Run a client once: what is wrong with what it printed, or with how Postgres saw it."""
        mark = self.one.mark()
        ran = run(client.command("once", self.one.port, sslmode, self.root))
        if ran.returncode or ran.stdout.strip() != client.expected:
            return f"status {ran.returncode}: {ran.stdout} {ran.stderr}"
        self.one.wait_log("connection authorized: .*database=app", since=mark)
        mine = [line.text for line in self.one.lines[mark:] if "connection authorized:" in line.text]
        mine = [line for line in mine if "database=app" in line]
        if any(("SSL enabled" in line) is (sslmode == "disable") for line in mine):
            return f"Postgres saw it otherwise: {mine}"
        return None

    @contextlib.contextmanager
    def pooled(self, client: RealClient, action: str, sslmode: str) -> Iterator[subprocess.Popen[str]]:
        """A client that has used its connection and now waits, with it open, for a line of input."""
        command = client.command(action, self.one.port, sslmode, self.root)
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=clean_environment(),
        ) as process:
            try:
                assert process.stdout
                first = process.stdout.readline()
                assert first == "ready 42\n", f"{first} {process.communicate()[1]}"
                yield process
            finally:
                process.kill()

    def _program(self, name: str, *arguments: str) -> None:
        where = ("-h", "127.0.0.1", "-p", str(self.one.port), "-U", "postgres")
        run_as_server(self._installation.program(name), *where, *arguments)


def clean_environment() -> dict[str, str]:
    """Without what libpq would take from it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 124, "", f"{shlex.join(command)}: {error}")

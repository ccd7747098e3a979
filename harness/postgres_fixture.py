"""A throw-away postmaster without pgidle, for tests of what pgidle sees of Postgres.

with Cluster(installation.bin_dir, place.data_dir(installation)) as cluster:
    cluster.start({"max_prepared_transactions": "5"})
    with cluster.connect() as connection: ...
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from harness import installations
from harness.installations import Installation, as_server, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from psycopg.abc import ConnParam

# Folders of `postgres` by a name for a test's id.
BINDIRS = {
    name: found.bin_dir
    for name, found in (("debian", installations.debian()), ("embedded", installations.embedded()))
    if found
}

# Seconds after which a condition that has not come true never will.
PATIENCE = 30.0


class Cluster:
    """One data directory and the postmaster that runs on it, as the user that runs Postgres."""

    def __init__(self, bin_dir: Path, data_dir: Path) -> None:
        self.bin_dir = bin_dir
        self.data_dir = data_dir
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def socket_dir(self) -> Path:
        """Where its Unix socket is: line 5 of postmaster.pid."""
        return Path(self._pidfile()[4])

    @property
    def log(self) -> str:
        """What it has written so far."""
        path = self._log_path()
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, options: Mapping[str, str] | None = None) -> None:
        """Launch it and wait until it is ready; it listens on 127.0.0.1 and ::1 unless told otherwise."""
        settings = {"listen_addresses": "127.0.0.1,::1", "port": str(self.port)} | dict(options or {})
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir), *arguments]
        with self._log_path().open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **as_server())
        wait_until(self._is_ready, lambda: f"postgres is not ready: {self.log}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it, by a fast shutdown unless told otherwise, and wait for its end. Twice is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def connect(self, **how: ConnParam) -> psycopg.Connection[tuple[Any, ...]]:
        """A client in autocommit mode: user and database postgres, the Unix socket."""
        usual: dict[str, ConnParam] = {"user": "postgres", "dbname": "postgres"}
        usual |= {"host": str(self.socket_dir), "port": self.port}
        return psycopg.connect(make_conninfo("", **(usual | how)), autocommit=True)

    @contextlib.contextmanager
    def program(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """One of PostgreSQL's client programs, running, with a pipe on its input; ended at the end."""
        where = ["-h", str(self.socket_dir), "-p", str(self.port), "-U", "postgres"]
        program = Installation(self.bin_dir, 0).client_program(name)
        command = [program, *where, *arguments]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _pidfile(self) -> list[str]:
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"postgres ended: {self.log}"
        lines = self._pidfile()
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() in ("ready", "standby")

    def _log_path(self) -> Path:
        return self.data_dir.with_suffix(".log")


def wait_until(
    is_so: Callable[[], bool], otherwise: Callable[[], str] = lambda: "it never came true"
) -> None:
    """Wait for a condition; AssertionError with `otherwise` if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.01)

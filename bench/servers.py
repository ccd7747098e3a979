"""The two servers compared, on one data directory: bare `postgres`, and `pgidle run` from a real installation."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import wire
from harness.installations import as_server, free_port
from harness.supervised import PATIENCE, Supervised
from pgidle.base.errors import PgidleError
from pgidle.control.client import request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from harness.installations import Installation, Place

SETTINGS = ("fsync=on", "shared_buffers=128MB", "max_connections=100")
"""What initdb writes, instead of the tests' own."""

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pgidle")
"""Of which an installation is made; not what earlier builds left beside them."""


def install(place: Place) -> Path:
    """Install pgidle as the Dockerfile does: a folder of its own without `site`, all compiled. Its command."""
    target = place.path / "pgidle"
    base = _install(place, "--no-compile", "--target", target)
    _run(base, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", target)
    program = target / "command"
    program.write_text(f"#!{base} -SEs\n" + (PROJECT / "docker/command").read_text().split("\n", 1)[1])
    program.chmod(0o755)
    return program


def install_in_venv(place: Place) -> Path:
    """Install pgidle as docs/systemd.md says: by pip, in a virtual environment. Its command."""
    _install(place)
    return place.path / "venv/bin/pgidle"


def _install(place: Place, *options: str | Path) -> str:
    """Have pip install a copy of the sources. The Python that it was done with."""
    sources, venv = place.path / "src", place.path / "venv"
    sources.mkdir()
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(
                PROJECT / name, sources / name, ignore=shutil.ignore_patterns("*.so", "__pycache__")
            )
        elif (PROJECT / name).exists():
            shutil.copy(PROJECT / name, sources)
    base: str = getattr(sys, "_base_executable", sys.executable)
    _run(base, "-m", "venv", venv)
    pip = venv / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check", "install"
    _run(*pip, *options, sources)
    return base


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=_environment(), check=False)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, command[1:]))}: {done.stderr.strip()}")


def commit() -> str:
    """Of this checkout, with a + where a file differs from it; empty where git does not tell."""
    said = []
    for words in ("rev-parse --short HEAD", "status --porcelain --untracked-files=no"):
        try:
            done = subprocess.run(
                ["git", "-C", PROJECT, *words.split()], check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError):
            return ""
        said.append(done.stdout.strip())
    return f"{said[0]}{'+' * bool(said[1])}"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _socket(data_dir: Path, port: int) -> str:
    """The Unix socket's path."""
    return str(data_dir / f".s.PGSQL.{port}")


def arguments(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("-c", setting)]


class BarePostgres:
    """`postgres` itself. `with` starts it without waiting for it, and ends it by a fast shutdown."""

    def __init__(
        self, installation: Installation, data_dir: Path, settings: Sequence[str] = SETTINGS
    ) -> None:
        self.port = free_port()
        self.socket = _socket(data_dir, self.port)
        self._data_dir = data_dir
        program, where = installation.program("postgres"), f"listen_addresses={wire.HOST}"
        self._command = [
            *(program, "-D", str(data_dir), "-p", str(self.port), "-c", where, "-k", str(data_dir)),
            *arguments(settings),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **as_server(),
        )

    def stop(self) -> None:
        """A fast shutdown, if it runs, to its end."""
        if self.is_running():
            assert self._process
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def first_row(self, where: wire.Where | None = None) -> int:
        return wire.first_row(where or self.port, self.is_running)

    def settle(self) -> None:
        """Wait until it does nothing but serve."""
        self.first_row()

    def wait_until_ready(self) -> None:
        """Wait until the last line of postmaster.pid says so, without connecting."""
        deadline = time.monotonic() + PATIENCE
        while not self._says_ready():
            if not self.is_running() or time.monotonic() > deadline:
                raise SystemExit("bench: a bare Postgres does not start")
            time.sleep(0.001)

    def _says_ready(self) -> bool:
        try:
            lines = (self._data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def __enter__(self) -> BarePostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Installed(Supervised):
    """`pgidle run` by its own command. `with` starts it without waiting; it never sleeps but when told to."""

    def __init__(
        self,
        program: Path,
        installation: Installation,
        place: Place,
        data_dir: Path,
        settings: Sequence[str] = SETTINGS,
        **options: str | None,
    ) -> None:
        usual: dict[str, Any] = {
            "http": f"{wire.HOST}:{free_port()}",
            "idle_timeout": "off",
            "socket_dir": str(data_dir),
        } | options
        super().__init__(installation, place, data_dir=data_dir, postgres=arguments(settings), **usual)
        self.socket = _socket(data_dir, self.port)
        self._program = program

    def command(self) -> list[str]:
        words = super().command()
        return [str(self._program), *words[words.index("run") :]]

    def environment(self) -> Mapping[str, str]:  # type: ignore[override]
        return {name: value for name, value in super().environment().items() if not name.startswith("PYTHON")}

    def __enter__(self) -> Installed:
        self.start()
        return self

    def first_row(self, where: wire.Where | None = None) -> int:
        try:
            return wire.first_row(where or self.port, lambda: self.running)
        except (OSError, wire.RefusedError) as error:
            said = self.lines[-1].text if self.lines else "without a word"
            status = "runs" if self.running else f"exit status {self._process and self._process.returncode}"
            raise SystemExit(f"bench: {self._program}: {status}: {said}; a client: {error}") from error

    def settle(self) -> None:
        """Wait until it does nothing but serve, and has looked at Postgres."""
        self.first_row()
        deadline = time.monotonic() + PATIENCE
        while not self._has_looked():
            assert time.monotonic() < deadline, "it does not look"
            time.sleep(0.02)

    def _has_looked(self) -> bool:
        try:
            # It is answered after another look.
            status, said = request(str(self.data_dir / "pgidle"), "GET", "/status")
        except (PgidleError, OSError):
            return False
        return status == 200 and said["looks"] > said["looks_failed"]

    def sleep(self) -> tuple[float, float]:
        """Put it to sleep; milliseconds from drowsy to asleep, by its own clock, and from the order, by ours."""
        mark, began = self.mark(), time.perf_counter()
        deadline = time.monotonic() + PATIENCE
        while not self.order_sleep():
            # The last client's backend may still be on its way out.
            assert time.monotonic() < deadline, "it does not sleep"
            time.sleep(0.02)
        asleep = self.wait_for_state("asleep", since=mark)
        lasted = time.perf_counter() - began
        drowsy = self.wait_for_state("drowsy", since=mark)
        by_log = datetime.fromisoformat(asleep.data["time"]) - datetime.fromisoformat(drowsy.data["time"])
        return by_log.total_seconds() * 1000, lasted * 1000

    def order_sleep(self) -> bool:
        """Whether it sleeps now, as asked."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            control.connect(str(self.data_dir / "pgidle/control.sock"))
            control.sendall(b"POST /sleep HTTP/1.1\r\nHost: pgidle\r\nContent-Length: 0\r\n\r\n")
            return b" 200 " in control.recv(65536).split(b"\r\n", 1)[0]

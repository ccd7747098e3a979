"""A supervisor small enough to read at once: it starts postmasters that share its listeners, and obeys orders.

    with Sharer(installation, place) as sharer:
        sharer.do("start"); sharer.do("open")
        sharer.do("rounds", seconds=20, kill=0.3, seed=1)

The process, sharing_supervisor.py, runs as Postgres's user, and takes one order per line on its input, in JSON; so are
its answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.installations import as_server, free_port
from harness.sharing_supervisor import PATIENCE

if TYPE_CHECKING:
    import socket

    from harness.installations import Installation, Place


class Sharer:
    """The tests' end. `listen` is listen_addresses; `options` are more of Postgres's settings."""

    def __init__(
        self,
        installation: Installation,
        place: Place,
        *,
        data_dir: Path | None = None,
        listen: str = "127.0.0.1",
        options: dict[str, str] | None = None,
        inherit: tuple[socket.socket, ...] = (),
        environ: dict[str, str] | None = None,
        port: int | None = None,
        library: str = "",
    ) -> None:
        self.installation = installation
        self.port = port or free_port()
        self.data_dir = data_dir or place.data_dir(installation)
        self.socket_dir = place.folder("s")
        settings = {
            "unix_socket_directories": str(self.socket_dir),
            "restart_after_crash": "off",
            "log_connections": "on",
            **(options or {}),
        }
        self.log = self.data_dir.parent / f"{self.data_dir.name}.{self.port}.log"
        plan = {
            "postgres": installation.program("postgres"),
            "data_dir": str(self.data_dir),
            "port": self.port,
            "listen": listen,
            "settings": settings,
            "inherit": [one.fileno() for one in inherit],
            "library": library or os.environ.get("TEST_LIBRARY", ""),
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.sharing_supervisor", json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[one.fileno() for one in inherit],
                env={**os.environ, **(environ or {})},
                text=True,
                cwd=Path(__file__).parents[1],
                **as_server(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        if self._process.poll() is None:
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def socket_path(self) -> Path:
        return self.socket_dir / f".s.PGSQL.{self.port}"

    def do(self, order: str, **more: object) -> dict[str, Any]:
        """Have it done and return the answer; AssertionError with Postgres's log if it ended instead."""
        self.begin(order, **more)
        return self.answer()

    def begin(self, order: str, **more: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"order": order, **more}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, self.log.read_text(errors="replace")[-5000:]
        found: dict[str, Any] = json.loads(line)
        assert "error" not in found, found["error"] + self.log.read_text(errors="replace")[-3000:]
        return found

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

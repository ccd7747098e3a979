"""Instances of the units that `pgidle init systemd` writes, installed in a booted machine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from harness.installations import conninfo
from pgidle.base.errors import PgidleError
from pgidle.control.client import request

if TYPE_CHECKING:
    from pathlib import Path

    from harness.booted import Booted


def init(folder: Path, *options: object) -> Path:
    """What `pgidle init systemd` writes."""
    subprocess.run(
        [sys.executable, "-m", "pgidle", "init", "systemd", "--dir", folder, *map(str, options)],
        check=True,
        capture_output=True,
        cwd="/",
    )
    return folder


@dataclass(slots=True)
class Instance:
    """pgidle@NAME in the booted machine; the plain units for no name."""

    machine: Booted
    name: str
    port: int
    data_dir: Path

    @property
    def unit(self) -> str:
        return f"pgidle@{self.name}" if self.name else "pgidle"

    @property
    def service(self) -> str:
        return f"{self.unit}.service"

    @property
    def socket(self) -> str:
        return f"{self.unit}.socket"

    def systemctl(self, verb: str, unit: str | None = None, *, check: bool = True) -> str:
        return self.machine.run("systemctl", verb, unit or self.service, check=check)

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        with self.machine.network():
            return psycopg.connect(conninfo(self.port, connect_timeout=30), autocommit=True)

    def ask(self) -> int:
        """Connect, and have Postgres say its own postmaster's pid, as this machine sees it."""
        with self.connect() as connection:
            connection.execute("SELECT 1")
        return int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])

    def set(self, **settings: object) -> None:
        """Write the instance's file of settings, as a user would."""
        lines = "".join(f"{name.upper()}={value}\n" for name, value in settings.items())
        self.machine.run(
            "sh", "-c", f"mkdir -p /etc/pgidle; printf '{lines}' > /etc/pgidle/{self.name or 'pgidle'}.env"
        )

    def wait_for(self, state: str) -> None:
        self.machine.wait_for(self.service, ActiveState=state)

    def sleeps(self) -> int:
        return self.machine.journal(self.service).count("asleep: Postgres shut down cleanly")

    def force_sleep(self) -> bool:
        with contextlib.suppress(PgidleError, OSError):
            return request(str(self.data_dir / "pgidle"), "POST", "/sleep?force=1")[0] == 200
        return False

    def check(self) -> None:
        """The socket was never lost, whatever happened to the service."""
        assert self.machine.show(self.socket, "ActiveState", "Result") == {
            "ActiveState": "active",
            "Result": "success",
        }
        assert "limit hit" not in self.machine.journal(self.socket)

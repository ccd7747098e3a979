"""What tests of docs/security.md share: a data directory that Postgres's user owns, and root, who is attacked.

The lesser user is Postgres's own, as whom a database superuser can run programs; the greater one is root, who runs
pgidle. Nothing that the lesser user wrote makes the greater one do anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from harness.installations import server_user

if TYPE_CHECKING:
    import pwd
    import socket
    from pathlib import Path

    from harness.installations import Installation

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, who is to be attacked")

# A command that hangs has been attacked, too.
PATIENCE = 30.0
SECRET = "tr0ub4dor"


@dataclass
class Attacked:
    """A data directory in a folder of Postgres's user's, and root's own folder `safe`, which only root may write."""

    home: Path
    data_dir: Path
    safe: Path
    installation: Installation
    port: int
    taken: socket.socket
    more: list[str] = field(default_factory=list)

    def plant(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        """A file of Postgres's user's."""
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        give(path, server_user())
        return path

    def secret(self, text: str) -> Path:
        """A file that only root may read."""
        path = self.safe / "secret"
        path.write_text(text)
        path.chmod(0o600)
        return path

    def run(self, command: str, *arguments: str, data_dir: Path | None = None) -> str:
        """What root is told by a command; `run` never gets further than to the port, which is taken."""
        options = ["--data-dir", str(data_dir or self.data_dir)]
        if command in ("run", "config", "doctor"):
            options += ["--port", str(self.port), "--listen-addresses", "127.0.0.1", "--http", "off"]
        ran = pgidle_command(command, *options, *arguments)
        return ran.stdout + ran.stderr


def give(path: Path, user: pwd.struct_passwd) -> None:
    os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def pgidle_command(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "POSTGRES_"))}
    return subprocess.run(
        [sys.executable, "-m", "pgidle", *words],
        env={**kept, "POSTGRES_HOST_AUTH_METHOD": "trust", **environ},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=PATIENCE,
        check=False,
    )

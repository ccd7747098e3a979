"""A backstage with real sockets, and what stands in the supervisor's place: a report, an inbox to read."""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pgidle.backstage import Backstage
from pgidle.errors import SettingsError
from pgidle.house import Doors, Files
from pgidle.inbox import Inbox
from pgidle.lifecycle import State
from pgidle.status import Report

if TYPE_CHECKING:
    from pathlib import Path

    from pgidle.inbox import Message
    from pgidle.settings import Settings

# Seconds after which a test gives up waiting for what must happen.
PATIENCE = 20.0


def make_report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "state": State.AWAKE,
        "since": time.monotonic() - 90,
        "why": "Postgres accepts connections",
        "reasons": (),
        "sleeps_at": None,
        "gate_mode": "shared",
        "gate_why": "clients are handed over by the kernel",
        "parked": 0,
        "sessions": None,
        "leases": (),
        "data_dir": "/var/lib/postgresql/data",
        "listen": ("0.0.0.0", "::"),
        "port": 5432,
        "supervisor_pid": os.getpid(),
        "postmaster_pid": None,
        "initialising": False,
        "started": time.monotonic() - 100,
        "wakes": 2,
        "sleeps": 1,
        "crashes": 0,
        "looks": 7,
        "looks_failed": 0,
        "last_sleep": None,
    }
    return Report(**values | changes)


class Mail(Inbox):
    """An inbox that a test reads."""

    def __init__(self) -> None:
        super().__init__()
        self._drained: deque[Message] = deque()

    def receive(self) -> Message:
        """The next message, waited for."""
        while not self._drained:
            assert select.select([self], [], [], PATIENCE)[0], "nothing was posted"
            self._drained.extend(self.drain())
        return self._drained.popleft()

    @property
    def is_empty(self) -> bool:
        self._drained.extend(self.drain())
        return not self._drained


class Backstaged:
    """Use it as a context: the thread runs inside. What `resolve` gives is `settings`, or an error."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.state_dir.mkdir(parents=True)
        self.data_dir = folder / "data"
        self.data_dir.mkdir()
        self.mail = Mail()
        self.report = make_report()
        self.settings: Settings | None = None
        tcp = socket.create_server(("127.0.0.1", 0))
        self.port: int = tcp.getsockname()[1]
        control = socket.socket(socket.AF_UNIX)
        descriptor = os.open(self.state_dir, os.O_PATH)
        control.bind(f"/proc/self/fd/{descriptor}/control.sock")
        os.close(descriptor)
        control.listen()
        files = Files(str(self.data_dir), str(folder / "pgidle.toml"), self._resolve)
        self.backstage = Backstage(self.mail, lambda: self.report, Doors((tcp,), control), files)

    def __enter__(self) -> Backstaged:
        self.backstage.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.backstage.stop(PATIENCE)

    def ask(self, path: str) -> bytes:
        """What the TCP door answers; every order from before has then been begun."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return client.makefile("rb").read()

    def _resolve(self) -> Settings:
        if self.settings is None:
            raise SettingsError("pgidle.toml: port: 'x' is not a port", "write a number")
        return self.settings

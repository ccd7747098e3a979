"""The `pgidle run` that is tortured, and the platform that starts it again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

from harness.flycast import Flycast, exited
from harness.supervised import PATIENCE, Supervised, parse_line
from pgidle.gate.gate import Mode
from torture.record import Exit
from torture.scenario import readable

if TYPE_CHECKING:
    from harness.installations import Installation

BACK_OFF = 0.2
"""Seconds that the platform waits before it starts again what failed as soon as it was started."""

SOON = 1.0
"""Seconds of life below which that is so."""


class Machine(Supervised):
    """Remembers when each line came, and how each supervisor ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.times: list[float] = []
        self.entered: dict[str, list[float]] = {}
        """When each state was entered."""
        self.exits: list[Exit] = []
        self.killed_at: float | None = None

    def wait(self, timeout: float = PATIENCE) -> int:
        """As a platform does: without waiting for a Postgres that holds the pipe of the log."""
        assert self._process
        status = self._process.wait(timeout)
        at = min(time.monotonic(), self._lost_at())
        self.killed_at = None
        is_clean = is_shut_down(self.installation, str(self.data_dir))
        stopping = min(self._said("terminating"), default=float("inf"))
        leaving, called_off = self._said("leaving"), self._said("starting")
        if status == 0 and leaving and leaving[-1] > max(called_off, default=0.0):
            # Its Unix listener ends with the last look: a fault can hold the process between that and its exit.
            stopping = min(stopping, leaving[-1])
        self.exits.append(Exit(status, at, self.has_spoken, is_clean, stopping=stopping))
        return status

    def _lost_at(self) -> float:
        """When this supervisor let go of the port, as far as that is known: killed, or by its own word `failed`."""
        killed = [self.killed_at] if self.killed_at is not None else []
        return min([*self._said("failed"), *killed], default=float("inf"))

    def _said(self, state: str) -> list[float]:
        """When this supervisor said that it was in a state."""
        with self._news:
            recent = list(zip(self.times, self.lines, strict=True))[-200:]
        return [at for at, x in recent if x.data.get("pid") == self.pid and x.data.get("state") == state]

    @property
    def has_spoken(self) -> bool:
        """Whether the supervisor that was started last has written a line: before that, signals meet Python."""
        return any(line.data.get("pid") == self.pid for line in self.lines[-200:])

    @property
    def postmaster_pid(self) -> int | None:
        """The living postmaster's, found without a look at every process."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
            return pid if Path(f"/proc/{pid}/cwd").readlink() == self.data_dir else None
        except (OSError, ValueError):
            return None

    def state_times(self, state: str) -> list[float]:
        with self._news:
            return list(self.entered.get(state, ()))

    def changes(self) -> list[tuple[float, str]]:
        """Every state, and when it was entered."""
        with self._news:
            pairs = list(zip(self.times, self.lines, strict=True))
        return [(at, str(line.data["state"])) for at, line in pairs if "state" in line.data]

    def immediate_stops(self) -> list[float]:
        """When Postgres was told to stop at once."""
        with self._news:
            pairs = list(zip(self.times, self.lines, strict=True))
        return [at for at, line in pairs if line.data.get("reason") == "immediate shutdown"]

    def gates(self) -> frozenset[Mode]:
        """Gate modes that it said to have."""
        with self._news:
            return frozenset(Mode(line.data["gate"]) for line in self.lines if "gate" in line.data)

    def crashes(self) -> list[tuple[float, str]]:
        """When, and why, a Postgres that was serving or shutting down was gone or going, or did not start."""
        with self._news:
            pairs = list(zip(self.times, self.lines, strict=True))
        return [
            (at, str(line.data["reason"]))
            for at, line in pairs
            if (line.data.get("state") == "starting" and line.data["from"] in ("awake", "drowsy", "stopping"))
            or (line.data.get("topic") == "start" and str(line.data["reason"]).startswith("the postmaster "))
        ]

    def copies_errors(self) -> bool:
        """Whether the running postmaster was started after a start that had failed: what it says is heard by a pipe."""
        for data in [line.data for line in reversed(self.lines)]:
            if data.get("topic") == "start":
                return str(data["reason"]).startswith("that is over")
            if data.get("state") == "starting":
                return False
        return False

    @property
    def state(self) -> str:
        with self._news:
            return next((str(x.data["state"]) for x in reversed(self.lines) if "state" in x.data), "")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr
        with process.stderr as stderr:
            for text in stderr:
                line = parse_line(text.rstrip("\n"))
                with self._news:
                    self.times.append(time.monotonic())
                    self.lines.append(line)
                    if state := line.data.get("state"):
                        self.entered.setdefault(state, []).append(self.times[-1])
                    self._news.notify_all()
                # It listens before it says its first line. Some before it may have ended without one.
                if line.data.get("state") == "starting" and line.data.get("from") is None:
                    for gone in self.exits:
                        gone.listening = min(gone.listening, self.times[-1])
                elif line.data.get("state") == "awake":
                    for gone in self.exits:
                        gone.serving = min(gone.serving, self.times[-1])


def is_shut_down(installation: Installation, data_dir: str) -> bool:
    """Whether the cluster lies as a clean shutdown leaves it, as PostgreSQL's own program reads it."""
    says = subprocess.run(
        [installation.program("pg_controldata"), data_dir],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C"},
    )
    return any(
        line.startswith("Database cluster state:") and line.split(":")[1].strip() == "shut down"
        for line in says.stdout.splitlines()
    )


class Keeper:
    """The platform of a supervisor that stays: starts it again whenever it ends, whatever its status."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.port = machine, machine.port
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Keeper:
        mark = self.machine.mark()
        await asyncio.to_thread(self.machine.start)
        # It listens before it says this.
        await asyncio.to_thread(self.machine.wait_for_state, "starting", since=mark)
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.let_go()

    async def let_go(self) -> None:
        """Do not start it again."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep(self) -> None:
        while True:
            began = time.monotonic()
            await exited(self.machine.pid)
            status = await asyncio.to_thread(self.machine.wait)
            if status > 0 and time.monotonic() - began < SOON:
                await asyncio.sleep(BACK_OFF)
            await self._wanted(status)
            await asyncio.to_thread(self.machine.start)

    async def _wanted(self, status: int) -> None:
        """Return when it is to be started again."""


class ServiceManager(Keeper):
    """The platform of a supervisor whose sockets it keeps: starts it again when it has failed, or somebody knocks."""

    async def _wanted(self, status: int) -> None:
        if status == 0:
            knocks = [asyncio.ensure_future(readable(one.fileno(), 1e6)) for one in self.machine.listen]
            try:
                await asyncio.wait(knocks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in knocks:
                    one.cancel()
                await asyncio.gather(*knocks, return_exceptions=True)


def listening(port: int, path: Path) -> tuple[socket.socket, socket.socket]:
    """Sockets as a service manager makes them: on loopback, and at a path, as SocketMode= says."""
    tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("127.0.0.1", port))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    unix.bind(str(path))
    path.chmod(0o777)
    for one in (tcp, unix):
        one.listen(4096)
    return tcp, unix


class Proxy(Flycast):
    """The platform of a supervisor that exits."""

    async def let_go(self) -> None:
        await self.__aexit__()


async def stop(machine: Machine) -> int | None:
    """Stop it by SIGTERM, with nobody to start it again; its status, or None if it was not running."""
    if not machine.running:
        return None
    machine.signal(SIGTERM)
    return await asyncio.to_thread(machine.wait)

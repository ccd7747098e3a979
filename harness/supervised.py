"""A real `pgidle run` process with its data directory, port and log, for tests of the whole program.

    with Supervised(installation, place, when_idle="stay", idle_timeout="1s") as one:
        mark = one.mark()
        one.wait_for_state("asleep", since=mark)

By default it uses `sys.executable`, so the Python that runs the tests must be readable by the user that runs Postgres.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGQUIT, SIGTERM
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from harness.installations import conninfo, free_port
from pgidle.observer.port_connections import scan

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from psycopg.abc import ConnParam

    from harness.installations import Installation, Place

# A condition that has not come true after so many seconds never will.
PATIENCE = 30.0

DEFAULTS: dict[str, str] = {
    "listen-addresses": "127.0.0.1",
    "http": "off",
    "idle-timeout": "2s",
    "min-awake": "0s",
    "log-format": "json",
}

# A test must not depend on what the person who runs it has set.
FOREIGN = re.compile(r"PG|POSTGRES_|LISTEN_|NOTIFY_|LD_PRELOAD")

# LISTEN_PID is the receiver's own pid, which only a process that then execs can know.
HAND_OVER = """
import os, sys
end = sys.argv.index("--")
for to, fd in enumerate(map(int, sys.argv[1:end]), 3):
    os.dup2(fd, to)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[end + 1], sys.argv[end + 1:])
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of standard error: pgidle's own (`data`, from its JSON) or Postgres's (no `data`)."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


def parse_line(text: str) -> Line:
    with contextlib.suppress(ValueError):
        data = json.loads(text)
        return Line(text, data if isinstance(data, dict) else {})
    return Line(text)


class Supervised:
    """One data directory and the `pgidle run` processes started on it, one after the other.

    Options are `pgidle run`'s, with `_` for `-`; None leaves one of DEFAULTS out, a tuple repeats an option.
    `postgres` are arguments after `--`, `prefix` a command before python (it must exec, not fork), `listen`
    sockets to hand over as a service manager does. Lines and states accumulate over several starts.
    """

    def __init__(
        self,
        installation: Installation,
        place: Place,
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        python: str = sys.executable,
        postgres: Sequence[str] = (),
        listen: Sequence[socket.socket] = (),
        **options: str | tuple[str, ...] | None,
    ) -> None:
        self.installation = installation
        self.data_dir = data_dir or place.data_dir(installation)
        self.port = port or free_port()
        self.env = dict(env or {})
        self.prefix, self.postgres, self.listen = tuple(prefix), tuple(postgres), tuple(listen)
        self.python = python
        self.options: dict[str, str | tuple[str, ...] | None] = {
            "data-dir": str(self.data_dir),
            "bin-dir": str(installation.bin_dir),
            "port": str(self.port),
            **DEFAULTS,
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self.lines: list[Line] = []
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._started: int | None = None

    def __enter__(self) -> Supervised:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.clean()

    def command(self) -> list[str]:
        words = [*self.prefix, self.python, "-m", "pgidle", "run"]
        for name, value in self.options.items():
            for one in (value,) if isinstance(value, str) else value or ():
                words += [f"--{name}", one]
        return [*words, "--", *self.postgres] if self.postgres else words

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        return kept | self.env

    def start(self) -> None:
        """Start it; it must not be running."""
        assert self._process is None or self._process.poll() is not None, "still running"
        command, env = self.command(), self.environment()
        self._started = self.mark()
        sources = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in self.listen]
        if sources:
            command = [sys.executable, "-c", HAND_OVER, *map(str, sources), "--", *command]
            env["LISTEN_FDS"] = str(len(sources))
        try:
            self._process = subprocess.Popen(
                command,
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                pass_fds=sources,
                start_new_session=True,
            )
        finally:
            for fd in sources:
                os.close(fd)
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status (negative: a signal's number), once it has exited and its last line was read."""
        assert self._process
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not exited after {timeout} s; {self._tail()}") from None
        if self._reader:
            self._reader.join(2)  # an orphaned Postgres would keep the pipe open
        return status

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the supervisor alone, with -9, and reap it. Postgres may outlive it."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self, number: int = SIGTERM) -> int:
        self.signal(number)
        return self.wait()

    def clean(self) -> None:
        """End it and every process of its data directory, by pid, whatever state they are in."""
        if self._process:
            if self.running:
                self.signal(SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
            self.kill()
        # An immediate shutdown also removes Postgres's shared memory; -9 would leak it.
        for number in (SIGQUIT, SIGKILL):
            if left := self.processes():
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(number)
                psutil.wait_procs(left, timeout=10)
        if self._reader:
            self._reader.join(5)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def postmaster_pid(self) -> int | None:
        """The living postmaster's pid, as postmaster.pid and the process itself say."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return pid if any(process.pid == pid for process in self.processes()) else None

    def processes(self) -> list[psutil.Process]:
        """Every living process of Postgres's in the data directory: each has it as its current folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.data_dir) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def conninfo(self, **more: ConnParam) -> str:
        return conninfo(self.port, **more)

    @property
    def socket_dir(self) -> Path:
        """Where Postgres has its Unix socket, unless told otherwise."""
        return self.data_dir.parent / "s"

    def unix_conninfo(self, **more: ConnParam) -> str:
        return conninfo(self.port, host=str(self.socket_dir), **more)

    def parked(self) -> int:
        """How many wait at the TCP port to be accepted."""
        return sum(queue.length for queue in scan(self.port).listeners)

    def parked_at_unix_socket(self, folder: Path | None = None) -> int:
        """How many wait there to be accepted: its sockets that are nobody's yet (unix_seq_show in af_unix.c)."""
        name = str((folder or self.socket_dir) / f".s.PGSQL.{self.port}")
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        return sum(words[5] == "02" and words[-1] == name for words in lines)

    def pgidle(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run another pgidle command, with this data directory: `one.pgidle("status", "--json")`."""
        name, *rest = arguments
        return subprocess.run(
            [*self.prefix, self.python, "-m", "pgidle", name, "--data-dir", str(self.data_dir), *rest],
            env=self.environment(),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def mark(self) -> int:
        """A place in the log, for `since`: the number of lines so far."""
        with self._news:
            return len(self.lines)

    @property
    def states(self) -> list[str]:
        """Every state entered so far, oldest first."""
        with self._news:
            return [line.data["state"] for line in self.lines if "state" in line.data]

    def wait_for_state(self, state: str, timeout: float = PATIENCE, *, since: int | None = None) -> Line:
        """Wait until it is in a state or enters it, or, with `since` a mark, until it has entered it after the mark.

        Take the mark before what makes it change: without one, the state that it is still in may match, and
        one that it has already left does not. Since a start nobody has waited for, the mark is that start.
        """
        if since is None:
            with self._news:
                changes = [number for number, line in enumerate(self.lines) if "state" in line.data]
                since = max(changes[-1:], default=0) if self._started is None else self._started
        self._started = None

        def entered() -> Line | None:
            changes = (line for line in self.lines[since:] if "state" in line.data)
            return next((line for line in changes if line.data["state"] == state), None)

        return self._until(entered, f"state {state}", timeout)

    def wait_log(self, pattern: str, timeout: float = PATIENCE, *, since: int = 0) -> Line:
        """Wait for a line, pgidle's or Postgres's, that the regular expression is found in."""
        found = re.compile(pattern)
        return self._until(
            lambda: next((line for line in self.lines[since:] if found.search(line.text)), None),
            f"a line like {pattern!r}",
            timeout,
        )

    def _until(self, condition: Callable[[], Line | None], what: str, timeout: float) -> Line:
        deadline = time.monotonic() + timeout
        with self._news:
            while (line := condition()) is None:
                ended = not self.running and not (self._reader and self._reader.is_alive())
                if ended or time.monotonic() > deadline:
                    why = "it exited" if ended else f"{timeout} s passed"
                    raise AssertionError(f"{why} without {what}; {self._tail()}")
                self._news.wait(0.2)
        return line

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr
        with process.stderr as stderr:
            for text in stderr:
                with self._news:
                    self.lines.append(parse_line(text.rstrip("\n")))
                    self._news.notify_all()

    def _tail(self) -> str:
        status = "running" if self.running else f"exit status {self._process and self._process.returncode}"
        return "\n".join([f"{status}, last lines:", *(line.text for line in self.lines[-30:])])


class Launch(Protocol):
    """Starts `pgidle run`; see Supervised for the options. `start=False` only prepares it."""

    def __call__(
        self, installation: Installation, /, *, start: bool = True, **more: object
    ) -> Supervised: ...

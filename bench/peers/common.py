"""What every peer can do, and bare Postgres, which has none."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import psycopg

from bench import wire
from bench.servers import BarePostgres
from harness.installations import as_server, conninfo
from harness.supervised import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from harness.installations import Installation, Place

QUIET = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND (NOT %s OR state IS DISTINCT FROM 'idle')
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a peer is started with. `program` is pgidle's own; `settings` are Postgres's."""

    installation: Installation
    place: Place
    program: Path
    data_dir: Path
    settings: tuple[str, ...]


class Peer:
    """One peer before one data directory. `with` starts both at once, waiting for neither, and ends both.

    `port` is where clients connect. `told`: the harness tells it before Postgres stops and after it is ready,
    as its manual has it for a planned restart; only for one that `can_be_told`.
    """

    name: ClassVar[str]
    by: ClassVar[str] = "harness"
    """Who stops and starts Postgres. The harness stands in for a platform that starts it when a client comes."""
    can_be_told: ClassVar[bool] = False
    port: int

    def __init__(self, setting: Setting, *, told: bool = False) -> None:
        self.setting, self.told = setting, told

    @classmethod
    def cold(cls, setting: Setting) -> Peer:
        """One to measure the start of."""
        return cls(setting)

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be started here, with the package that has it."""
        return None

    @classmethod
    def version(cls) -> str:
        """What it says that it is; empty if that says nothing new."""
        return ""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def sleep(self) -> None:
        """Stop Postgres as soon as nobody is served."""

    def rest(self) -> None:
        """Wait until it has ended what it keeps for a while after a stop of Postgres."""

    def wake(self) -> None:
        """A client came: start Postgres, if that is the harness's to do, and return when it is ready."""

    @contextlib.contextmanager
    def being_woken(self) -> Iterator[None]:
        """Meanwhile it wakes, or is woken."""
        waking = threading.Thread(target=self.wake)
        waking.start()
        yield
        waking.join()

    def pids(self) -> tuple[int, ...]:
        """The processes that are there besides Postgres."""
        return ()

    def is_running(self) -> bool:
        return True

    def first_row(self) -> int:
        """Connect until it works; how many attempts failed before."""
        return wire.first_row(self.port, self.is_running)

    def settle(self) -> None:
        """Wait until it does nothing but serve."""
        self.first_row()

    def __enter__(self) -> Peer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class BeforePostgres(Peer):
    """A peer whose Postgres the harness stops and starts; without a process of its own it is bare Postgres."""

    pools: ClassVar[bool] = False
    """It keeps connections to Postgres that nobody uses."""

    def __init__(self, setting: Setting, *, told: bool = False) -> None:
        super().__init__(setting, told=told)
        self.postgres = BarePostgres(setting.installation, setting.data_dir, setting.settings)
        self.port = self.postgres.port

    def start(self) -> None:
        self.postgres.start()

    def stop(self) -> None:
        self.postgres.stop()

    def sleep(self) -> None:
        # Held open: a connection for each look would be somebody, too.
        with contextlib.closing(psycopg.connect(conninfo(self.postgres.port), autocommit=True)) as connection:
            deadline = time.monotonic() + PATIENCE
            while connection.execute(QUIET, (self.pools,)).fetchone() != (0,):
                if time.monotonic() > deadline:
                    raise SystemExit(f"bench: {self.name}: its Postgres is never quiet")
                time.sleep(0.001)
            self.postgres.stop()

    def wake(self) -> None:
        self.postgres.start()
        self.postgres.wait_until_ready()


class Bare(BeforePostgres):
    """Postgres, and nothing before it."""

    name = "bare"


class Front:
    """A process of a peer's, run as the user that runs Postgres, its output in a file to quote when it dies."""

    def __init__(
        self,
        folder: Path,
        *command: str | Path,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._log, self._name = folder / "log", " ".join(map(str, command))
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=stdin,
                pass_fds=pass_fds,
                env=env,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **as_server(),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until(self, is_up: Callable[[], object]) -> None:
        """Wait until `is_up` returns without OSError."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                is_up()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"bench: {self._name}: {self._log.read_text()}") from None
                time.sleep(0.002)
            else:
                return

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def says(*command: str) -> str:
    """The first line of what a program prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
    return done.stdout.partition("\n")[0].strip()

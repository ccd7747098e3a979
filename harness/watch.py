"""A watcher with its own loop and memory, which looks and judges as the observer does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from harness.postgres_fixture import wait_until
from pgidle.base.record import replace
from pgidle.idle import policy
from pgidle.idle.between_looks import ignores_statements
from pgidle.idle.reasons import ReasonKind, Signal, Verdict
from pgidle.idle.snapshot import LookFailed, Snapshot
from pgidle.observer.watcher import Watcher
from pgidle.settings.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from harness.installations import Installation
    from harness.postgres_fixture import Cluster
    from pgidle.idle.reasons import Reason

SETTINGS = resolve(
    {"data-dir": "/nowhere", "idle-timeout": "1h", "min-awake": "0s"}, {}, None, None, "/"
).settings


class Watch:
    """A watcher with its own loop and memory: `judge` looks and evaluates, as the observer does."""

    def __init__(
        self, cluster: Cluster, *users: str, conninfo: str | None = None, knows_role: bool = False
    ) -> None:
        self.settings = SETTINGS
        self._runner = asyncio.Runner()
        where = str(cluster.socket_dir), cluster.port, cluster.pid
        self.has_role = knows_role
        self.watcher = Watcher(
            *(*where, users or ("postgres",), conninfo),
            knows_role=knows_role,
            on_role=self._on_role,
            wants_received=lambda: ignores_statements(self.settings),
        )
        self._memory = policy.begin(time.monotonic())
        # Seconds by which counters may be late.
        self.lag = 0.0

    def close(self) -> None:
        self._runner.run(self.watcher.end())
        self._runner.close()

    def disconnect(self) -> None:
        """As between two looks that are far apart."""
        self._runner.run(self.watcher.close())

    def _on_role(self, is_there: bool) -> None:
        self.has_role = is_there

    def look(self, deadline: float = 20.0) -> Snapshot | LookFailed:
        return self._runner.run(self.watcher.look(deadline))

    def see(self) -> Snapshot:
        look = self.look()
        assert isinstance(look, Snapshot), look
        return look

    def checkpoint(self, seconds: float = 20.0) -> str | None:
        return self._runner.run(self.watcher.checkpoint(seconds)).error

    def judge(self, **settings: Any) -> Verdict:
        changed = replace(self.settings, **settings)
        verdict, self._memory = policy.evaluate(self.look(), changed, self._memory, time.monotonic())
        return verdict

    @property
    def last_activity(self) -> float:
        return self._memory.last_activity

    def find(self, wanted: Signal, kind: ReasonKind, **settings: Any) -> list[Reason]:
        """The reasons of that signal in one verdict; all of them must be of that kind."""
        found = [reason for reason in self.judge(**settings).reasons if reason.signal is wanted]
        assert all(reason.kind is kind for reason in found), found
        return found

    def wait_for(self, wanted: Signal, kind: ReasonKind, **settings: Any) -> Reason:
        found: list[Reason] = []

        def is_found() -> bool:
            found.extend(self.find(wanted, kind, **settings))
            return bool(found)

        wait_until(is_found)
        return found[0]

    def settle(self) -> None:
        """Look until nothing is active, so that what an earlier test left behind is not seen by this one."""
        quiet_since = time.monotonic()

        def is_quiet() -> bool:
            nonlocal quiet_since
            verdict = self.judge()
            if active(verdict):
                quiet_since = time.monotonic()
            return time.monotonic() - quiet_since >= self.lag and not active(verdict)

        wait_until(is_quiet, lambda: f"still active: {self.judge().reasons}")


def active(verdict: Verdict) -> list[Reason]:
    return [r for r in verdict.reasons if r.kind in (ReasonKind.ACTIVITY, ReasonKind.UNKNOWN)]


@contextlib.contextmanager
def watching(cluster: Cluster, *users: str, **how: Any) -> Iterator[Watch]:
    with contextlib.closing(Watch(cluster, *users, **how)) as watch:
        yield watch


def pid_of(connection: psycopg.Connection[Any]) -> str:
    """How a reason begins that names it."""
    return f"session {connection.info.backend_pid} "


def at_first_look(installation: Installation, is_so: Callable[[], bool]) -> None:
    """At the first look; but what PostgreSQL 14 counts goes through a process of its own, which takes its time."""
    if installation.major == 14:
        wait_until(is_so)
    else:
        assert is_so()

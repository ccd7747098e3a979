"""How Postgres is stopped: clients who have come are let in, then fast shutdown, immediate shutdown, SIGKILL.

The lifecycle's table says when a step is due; what each does, and how long it gets, is here.
"""

from __future__ import annotations

import time

from pgidle.lifecycle.transitions import Event, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.gate.gate import Gate
    from pgidle.gate.gatekeeper import Gatekeeper
    from pgidle.lifecycle.transitions import Moment
    from pgidle.run.server import Server
    from pgidle.settings.settings import Settings
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log

DRAIN, DRAIN_POLL = 0.5, 0.002
"""The part of the stop timeout that Postgres gets at most to serve clients who have come before it is told to stop; and
seconds between two looks at that."""

UNLOGGED_PATIENCE, UNLOGGED_POLL = 60.0, 0.1
"""Seconds that clients wait at most, rather than have unlogged tables emptied; and between two looks at that."""

IMMEDIATE_PATIENCE = 1.0
"""Seconds that an immediate shutdown gets before what is left is killed."""


class Shutdown:
    """One method for each step. `moment` tells the state, and since when; `happen` gets STOP_TIMED_OUT."""

    def __init__(
        self,
        server: Server,
        gate: Gate,
        gatekeeper: Gatekeeper,
        loop: Loop,
        log: Log,
        settings: Settings,
        moment: Callable[[], Moment],
        happen: Callable[[Event, str], None],
    ) -> None:
        self._server = server
        self._gate = gate
        self._gatekeeper = gatekeeper
        self._loop = loop
        self._log = log
        self._timeout = settings.stop_timeout
        self._moment = moment
        self._happen = happen
        self._drain_since = 0.0

    def adopt(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        self._timeout = settings.stop_timeout

    def drain(self) -> None:
        """Have Postgres accept everybody who has come, and then nobody any more; GATE_SHUT or GATE_SILENT follows."""
        self._drain_since = time.monotonic()
        if self._server.is_ready and not self._gate.is_ending:
            if not self._gate.is_open:
                self._gatekeeper.open()  # Clients who came while it was shut are served.
            self._drain()
        else:
            self._gatekeeper.drain()  # From now on new clients get no answer.
            self.fast()

    def settle(self) -> None:
        """A fast shutdown, now that nobody is accepted any more. Clients who are just being authenticated get a session
        first: cut in the middle of connecting, no client could tell Postgres from a server that is broken."""
        if self._server.connecting and not self._is_drain_over:
            self._loop.after(DRAIN_POLL, "drain", self.settle)
        else:
            self.fast()

    def fast(self) -> None:
        """A fast shutdown, at once: any moment after the last look is one in which an idle session may stop being
        idle."""
        self._server.stop_fast()

    def limit(self) -> None:
        """Allow what is under way the stop timeout, from the first time that this is asked for."""
        if not self._loop.is_set("stop"):
            self._loop.after(self._timeout, "stop", self._on_timeout)

    def immediate(self) -> None:
        """An immediate shutdown. What it means for the data is known, and logged, when Postgres has ended."""
        if self._loop.is_set("kill"):
            return  # Another SIGQUIT: Postgres has its time all the same.
        self._loop.cancel("drain")
        self._log.note("stop", "immediate shutdown")
        self._server.stop_immediate()
        # A process that does not react even to that is killed.
        self._loop.after(IMMEDIATE_PATIENCE, "kill", self._on_killing_due)

    def over(self) -> None:
        """Postgres has ended, or runs again: nothing is limited any more."""
        self._loop.cancel("stop")
        self._loop.cancel("kill")

    @property
    def _is_drain_over(self) -> bool:
        return time.monotonic() - self._drain_since >= DRAIN * self._timeout

    def _drain(self) -> None:
        if self._gatekeeper.drain() or self._is_drain_over:
            self._gatekeeper.shut()
        else:
            self._loop.after(DRAIN_POLL, "drain", self._drain)

    def _on_timeout(self) -> None:
        """Clients who wait for a sleep to end are served sooner, unless that would cost the rows of unlogged tables."""
        moment = self._moment()
        may_wait = moment.state is State.STOPPING and time.monotonic() - moment.since < UNLOGGED_PATIENCE
        if may_wait and self._server.would_lose_unlogged():
            self._loop.after(UNLOGGED_POLL, "stop", self._on_timeout)
        else:
            self._happen(Event.STOP_TIMED_OUT, "the fast shutdown took longer than --stop-timeout")

    def _on_killing_due(self) -> None:
        self._happen(Event.STOP_TIMED_OUT, "the immediate shutdown took too long")

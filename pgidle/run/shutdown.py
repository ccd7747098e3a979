"""How Postgres is stopped: clients that have arrived are let in, then fast shutdown, immediate shutdown, SIGKILL.

The table of `lifecycle.transitions` tells when a step is due; here is what each does, and how long it may take.
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
    from pgidle.run.postgres_server import Server
    from pgidle.settings.resolve import Settings
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log

DRAIN, DRAIN_POLL = 0.5, 0.002
"""At most this part of the stop timeout is spent on serving clients that have arrived before Postgres is told to stop;
and seconds between two looks at them."""

UNLOGGED_PATIENCE, UNLOGGED_POLL = 60.0, 0.1
"""Most seconds for which clients are kept waiting to spare unlogged tables from being emptied; and seconds between two
looks whether they still would be."""

IMMEDIATE_PATIENCE = 1.0
"""Seconds that an immediate shutdown gets before remaining processes are killed."""


class Shutdown:
    """One method for each step. `moment` returns the state, and since when; `happen` is called with STOP_TIMED_OUT."""

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
        """Use these settings from now on."""
        self._timeout = settings.stop_timeout

    def drain(self) -> None:
        """Have Postgres accept every client that has arrived, and then no more; GATE_SHUT or GATE_SILENT follows."""
        self._drain_since = time.monotonic()
        if self._server.is_ready and not self._gate.is_ending:
            if not self._gate.is_open:
                self._gatekeeper.open()  # Clients that arrived while it was shut are served.
            self._drain()
        else:
            self._gatekeeper.drain()  # From now on new clients get no answer.
            self.fast()

    def settle(self) -> None:
        """Fast shutdown, now that no client is accepted any more. Clients that are being authenticated get their
        session first: to a client that is cut while connecting, the server looks broken."""
        if self._server.connecting and not self._is_drain_over:
            self._loop.after(DRAIN_POLL, "drain", self.settle)
        else:
            self.fast()

    def fast(self) -> None:
        """Fast shutdown, at once: at any moment after the last look an idle session may stop being idle."""
        self._server.stop_fast()

    def limit(self) -> None:
        """Limit the shutdown under way to the stop timeout, counted from the first call."""
        if not self._loop.is_set("stop"):
            self._loop.after(self._timeout, "stop", self._on_timeout)

    def immediate(self) -> None:
        """Immediate shutdown. What it means for the data is known, and logged, once Postgres has exited."""
        if self._loop.is_set("kill"):
            return  # Another SIGQUIT does not shorten the time that Postgres has.
        self._loop.cancel("drain")
        self._log.note("stop", "immediate shutdown")
        self._server.stop_immediate()
        # A process that ignores even that is killed.
        self._loop.after(IMMEDIATE_PATIENCE, "kill", self._on_killing_due)

    def over(self) -> None:
        """Postgres has exited, or runs again: no time limit applies any more."""
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
        """Cut the shutdown short for clients that wait, unless that would empty unlogged tables."""
        moment = self._moment()
        may_wait = moment.state is State.STOPPING and time.monotonic() - moment.since < UNLOGGED_PATIENCE
        if may_wait and self._server.would_lose_unlogged():
            self._loop.after(UNLOGGED_POLL, "stop", self._on_timeout)
        else:
            self._happen(Event.STOP_TIMED_OUT, "the fast shutdown took longer than --stop-timeout")

    def _on_killing_due(self) -> None:
        self._happen(Event.STOP_TIMED_OUT, "the immediate shutdown took too long")

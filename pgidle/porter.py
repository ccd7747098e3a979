"""Who comes to the gate: noticed in the moment in which they park, waited for while Postgres sleeps, and looked for
once more before the program leaves. Tells CLIENT_PARKED, NOBODY_PARKED and EXIT_CHOSEN."""

from __future__ import annotations

from pgidle.gate import Mode
from pgidle.lifecycle import Event
from pgidle.options import WhenIdle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.gate import Gate
    from pgidle.loop import Loop

KNOCK_POLL = 0.2
"""Seconds between two looks for dropped SYNs, where nobody can park."""


class Porter:
    """Stands at one gate. `happen` takes an event and the reason for it."""

    def __init__(
        self, gate: Gate, loop: Loop, happen: Callable[[Event, str], None], no_wake: tuple[str, ...]
    ) -> None:
        self.no_wake = no_wake
        """Networks whose clients wait until somebody else wakes Postgres."""
        self._gate = gate
        self._loop = loop
        self._happen = happen
        self._drops = 0

    def attend(self) -> None:
        """Notice everybody who parks from now on."""
        for listener in self._gate.listeners():
            self._loop.watch(listener.fileno(), self._on_gate, edge=True)

    def spare(self, networks: tuple[str, ...]) -> None:
        """From now on it is these networks whose clients wake nobody; who is parked and not theirs any more does."""
        self.no_wake = networks
        self._on_gate()

    def before_start(self) -> None:
        """Postgres is about to start: nobody has to be waited for, and in mode `none` the port is Postgres's."""
        self._loop.cancel("knock")
        if self._gate.mode is Mode.NONE:
            for listener in self._gate.listeners():
                self._loop.forget(listener.fileno())
            self._gate.make_way()

    def before_stop(self) -> None:
        """Postgres is about to stop: from now on whoever is not let in is waited for, also where nobody can park."""
        if self._gate.mode is Mode.SYNHOLD:
            self._drops = self._gate.dropped()
            self._loop.after(KNOCK_POLL, "knock", self._on_knock_poll)

    def look_at_queue(self, when_idle: WhenIdle) -> None:
        """Postgres sleeps: is somebody waiting already? Else stay and listen, or leave."""
        if parked := self._callers():
            self._happen(Event.CLIENT_PARKED, parked_text(parked))
        elif knocks := self._knocks():
            self._happen(Event.CLIENT_PARKED, f"{knocks} connection attempts while it went to sleep")
        elif when_idle is WhenIdle.EXIT:
            self._happen(Event.EXIT_CHOSEN, "nobody is parked, and --when-idle is exit")
        elif self._gate.mode is Mode.NONE:
            self._gate.await_knock()
            self.attend()

    def look_for_the_last_time(self) -> None:
        """Newcomers are shut out; who was in a handshake when the gate was plugged must not be left behind."""
        from pgidle.drain import on_their_way

        if parked := self._callers():
            self._happen(Event.CLIENT_PARKED, parked_text(parked))
        elif self._gate.is_inherited:
            reason = "nobody is parked; the socket stays open with the service manager"
            self._happen(Event.NOBODY_PARKED, reason)
        elif coming := on_their_way(self._gate):
            self._happen(Event.CLIENT_PARKED, f"{coming} connections in the middle of their handshake")
        elif parked := self._callers():
            self._happen(Event.CLIENT_PARKED, parked_text(parked))
        else:
            self._happen(Event.NOBODY_PARKED, "nobody is parked")

    def _on_gate(self) -> None:
        if parked := self._gate.parked() if self._gate.is_open else self._callers():
            self._happen(Event.CLIENT_PARKED, parked_text(parked))

    def _callers(self) -> int:
        """How many are parked and may wake Postgres."""
        parked = self._gate.parked()
        if not (parked and self.no_wake):
            return parked
        from pgidle.drain import callers

        return callers(self._gate, self.no_wake)

    def _knocks(self) -> int:
        """How many SYNs were dropped since Postgres was told to stop, where nobody can park."""
        return self._gate.dropped() - self._drops if self._gate.mode is Mode.SYNHOLD else 0

    def _on_knock_poll(self) -> None:
        """Who cannot park is known only by the SYN that was dropped; its sender tries again."""
        if knocks := self._knocks():
            self._happen(Event.CLIENT_PARKED, f"{knocks} connection attempts while asleep")
        else:
            self._loop.after(KNOCK_POLL, "knock", self._on_knock_poll)


def parked_text(count: int) -> str:
    """How many, for a person."""
    return f"{count} client{'s' * (count > 1)} parked at the gate"

"""Opens and shuts the gate, receives the postmaster's records about it, and notices clients that park.

Its events are GATE_SHUT and GATE_SILENT (what came of an order to shut), POSTMASTER_FAILING, CLIENT_PARKED and, before
an exit, EXIT_CHOSEN, NOBODY_PARKED and LEAVING_PUT_OFF.
"""

from __future__ import annotations

import os

from pgidle.gate.channel import Answer, ChannelError, ChildSignalled, StopSignalled, Waits
from pgidle.gate.gate import Mode
from pgidle.gate.unix_sockets_asleep import UnixSockets
from pgidle.lifecycle.transitions import Event
from pgidle.settings.options import WhenIdle, is_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.base.builtin_modules import socket
    from pgidle.gate.channel import Told
    from pgidle.gate.gate import Gate
    from pgidle.gate.leaving import Draining, Leaving
    from pgidle.gate.listeners import Listener
    from pgidle.settings.resolve import Settings
    from pgidle.system.event_loop import Loop
    from pgidle.system.log import Log

ANSWER_LIMIT = 5.0
"""Seconds for the postmaster to answer an order. After that, the order counts as not obeyed."""

ORDER_AGAIN = 0.1
"""Seconds until an order to open that could not be sent is sent again."""

LEAVE_AGAIN = 5.0
"""Seconds until another attempt to leave, if handshakes that do not complete prevented the last one."""


class Gatekeeper:
    """Works one gate. `happen` takes an event and the reason for it."""

    def __init__(
        self,
        gate: Gate,
        loop: Loop,
        log: Log,
        happen: Callable[[Event, str], None],
        no_wake: tuple[str, ...],
    ) -> None:
        self.no_wake = no_wake
        """Networks whose clients wait until somebody else wakes Postgres, and folders whose Unix sockets do not exist
        until then."""
        self._gate = gate
        self._loop = loop
        self._log = log
        self._happen = happen
        self._channel: int | None = None
        self._watched: list[int] = []
        self._leaving: Leaving | None = None
        self._draining: Draining | None = None
        self._unix = UnixSockets(gate, log)
        self._is_asleep = False
        self._is_to_open = False
        """Whether Postgres is to accept clients, unless it is about to end."""

    # The postmaster's end

    def began(self, end: socket.socket, data_dir: str) -> None:
        """A postmaster was started, with our end of its channel."""
        self._channel = self._gate.began(end, data_dir).fileno()
        self._loop.watch(self._channel, self._on_channel)

    def ending(self, data_dir: str, port: int) -> None:
        """The postmaster has exited and is not reaped yet: read its last records, and take over its sockets' lock
        files."""
        self._on_channel()
        self._unix.hold(data_dir, port)

    def gone(self) -> None:
        """The postmaster has been reaped."""
        self._rest()
        self._forget_channel()
        self._loop.cancel("gate")
        self._is_to_open = False
        self._gate.gone()

    def open(self) -> None:
        """Have Postgres accept whoever waits and whoever comes."""
        self._rest()
        self._loop.cancel("gate")
        self._is_to_open = True
        self._order_open()

    def _order_open(self) -> None:
        """Until this is sent everybody waits, so it is tried again for as long as there is a postmaster."""
        if not self._gate.open() and self._channel is not None:
            self._loop.after(ORDER_AGAIN, "gate", self._order_open)

    def shut(self) -> None:
        """Have Postgres accept nobody any more; GATE_SHUT or GATE_SILENT follows."""
        self._is_to_open = False
        self.attend()
        if self._gate.mode is Mode.NONE:
            self._happen(Event.GATE_SHUT, "nobody can be kept waiting")
        elif self._gate.shut():
            self._loop.after(ANSWER_LIMIT, "gate", self._on_silence)
        else:
            self._on_silence()

    def _on_silence(self) -> None:
        self._happen(Event.GATE_SILENT, "Postgres does not confirm that it accepts nobody")

    def _on_channel(self) -> None:
        try:
            while (told := self._gate.receive()) is not None:
                self._on_told(told)
        except (EOFError, ChannelError):
            # If it ends, its exit status says so. If it only dropped the library, it runs on and answers no order.
            self._forget_channel()

    def _on_told(self, told: Told) -> None:
        match told:
            case Waits():
                self._unix.check(self.no_wake)
            case Answer() if self._gate.is_answered:
                self._on_answer()
            case StopSignalled() if told.sender != os.getpid():
                self._happen(Event.POSTMASTER_FAILING, f"Postgres is stopped by {_process(told.sender)}")
            case ChildSignalled() if self._gate.is_ending:
                self._happen(Event.POSTMASTER_FAILING, "Postgres ends its processes, so all of it may end")
            case ChildSignalled() if self._is_to_open:
                self._order_open()

    def _on_answer(self) -> None:
        if self._gate.is_open:
            self._unix.empty_ended()
        if self._is_to_open and not self._gate.is_open and not self._gate.is_ending:
            self._order_open()  # The alarm was about a worker's end, and nothing else.
        elif not self._is_to_open and not self._gate.is_open:
            self._loop.cancel("gate")
            self._happen(Event.GATE_SHUT, "Postgres accepts nobody any more")

    def _forget_channel(self) -> None:
        if self._channel is not None:
            self._loop.forget(self._channel)
            self._channel = None

    # Who comes

    def attend(self) -> None:
        """Notice every client that parks from now on, and at once those that are parked already."""
        self._rest()
        for one in self._gate.listeners:
            self._watched.append(one.fileno())
            self._loop.watch(one.fileno(), self._on_gate, edge=True)

    def _rest(self) -> None:
        """Stop noticing clients: Postgres accepts them."""
        for fd in self._watched:
            self._loop.forget(fd)
        self._watched = []

    def adopt(self, settings: Settings) -> None:
        """Go by other settings from now on: a parked client whom `no_wake` no longer names wakes Postgres."""
        self.no_wake = no_wake = settings.no_wake
        if self._watched and self._is_asleep:
            self._rest()
            self._unix.refuse(no_wake)
            self.attend()
        if self._watched:
            self._on_gate()

    def before_start(self) -> None:
        """Postgres is about to start: stop noticing clients, and in mode `none` give up the port."""
        self._rest()
        self._is_asleep = False
        self._loop.cancel("leave")
        self._loop.cancel("touch")
        self._unix.wake()
        self._gate.make_way()

    def look_at_queue(self, when_idle: WhenIdle) -> None:
        """Postgres sleeps. Wake it if somebody is parked already; else stay and listen, or leave."""
        self._is_asleep = True
        self._rest()
        self._unix.restore()
        self._unix.refuse(self.no_wake)
        if why := self._why_wake():
            self._happen(Event.CLIENT_PARKED, why)
        elif when_idle is WhenIdle.EXIT:
            self._happen(Event.EXIT_CHOSEN, "nobody is parked, and --when-idle is exit")
        else:
            self._gate.notice()
            self.attend()
            self._touch()

    def _touch(self) -> None:
        """Programs that clean /tmp remove files that nobody has touched for days; others remove everything. So touch
        the files, and make those again that are gone."""
        from pgidle.gate.unix_socket_file import TOUCH_EVERY, find

        self._rest()
        self._unix.restore()
        self.attend()
        for path in self._gate.paths():
            try:
                if (file := find(path)) is not None:
                    file.touch()
            except OSError:
                continue  # It is touched again later, and by Postgres while that runs.
        self._loop.after(TOUCH_EVERY, "touch", self._touch)

    def _on_gate(self) -> None:
        if why := self._why_wake():
            self._happen(Event.CLIENT_PARKED, why)

    def _why_wake(self) -> str:
        """Why Postgres must wake: clients are parked that may wake it, or those that may not have filled a queue.
        Empty if it need not wake."""
        parked = self._gate.parked()
        if not (parked and self.no_wake):
            return parked_text(parked) if parked else ""
        from ipaddress import ip_address, ip_network

        networks = [ip_network(one) for one in self.no_wake if not is_folder(one)]
        try:
            waiting = self._gate.who()
            # A client that has given up keeps its place in the queue until Postgres, which accepts in order, takes it
            # out. A client for which there is no place left could not wake Postgres.
            crowds = [_crowd_text(one) for one in self._gate.listeners if one.is_crowded()]
        except OSError:
            return parked_text(parked)
        callers = sum(
            one.uid is not None
            or one.port == 0
            or not any(ip_address(one.address) in network for network in networks)
            for one in waiting
        )
        return parked_text(callers) if callers else "; ".join(crowds)

    # The way out

    def begin_leaving(self) -> None:
        """Let no client begin to connect any more, and see whether one has."""
        from pgidle.gate.leaving import Leaving

        self._rest()
        if all(one.is_inherited for one in self._gate.listeners):
            if why := self._why_wake():
                self._happen(Event.CLIENT_PARKED, why)
            else:
                reason = "nobody is parked; the socket stays open with the service manager"
                self._happen(Event.NOBODY_PARKED, reason)
            return
        try:
            self._leaving = Leaving(self._gate.listeners)
        except OSError as error:
            self._happen(Event.LEAVING_PUT_OFF, f"the kernel refuses to keep clients away: {error.strerror}")
            return
        self._look_for_the_last_time()

    def _look_for_the_last_time(self) -> None:
        from pgidle.gate.leaving import SETTLING, Outcome

        if self._leaving is None:
            return
        try:
            outcome = self._leaving.look()
        except OSError as error:
            self._happen(Event.LEAVING_PUT_OFF, f"the kernel does not tell who comes: {error.strerror}")
            return
        if outcome is Outcome.NOT_YET:
            self._loop.after(SETTLING, "leave", self._look_for_the_last_time)
        elif outcome is Outcome.SOMEBODY:
            self._happen(Event.CLIENT_PARKED, parked_text(self._gate.parked()))
        elif outcome is Outcome.NOT_NOW:
            self._happen(Event.LEAVING_PUT_OFF, "connections in the middle of their handshake do not end")
        else:
            self._happen(Event.NOBODY_PARKED, "nobody is parked")

    def call_off(self) -> None:
        """Stay after all: clients may come again."""
        from pgidle.gate.listeners import replace_ended

        self._loop.cancel("leave")
        if self._leaving is None:
            # `Leaving` failed half-way: some listeners may be plugged.
            for one in self._gate.listeners:
                if not (one.is_unix or one.is_inherited):
                    one.unplug()
            return
        ended_ones, self._leaving = self._leaving.call_off(), None
        for ended in ended_ones:
            try:
                self._gate.listeners.append(replace_ended(ended))
            except OSError as error:
                self._log.note(
                    "gate", f"no Unix socket at {ended.name} before the next start: {error.strerror}"
                )

    def leave_again_later(self) -> None:
        """Make another attempt in some seconds. A client that comes in the meantime wakes Postgres."""
        self.attend()
        self._loop.after(LEAVE_AGAIN, "leave", lambda: self.look_at_queue(WhenIdle.EXIT))

    def drain(self) -> bool:
        """Asked to stop while Postgres serves: let no client begin to connect, and those who have begun be served.
        Whether nobody is left on the way; ask again in SETTLING."""
        from pgidle.gate.leaving import Draining

        try:
            if self._draining is None:
                self._draining = Draining(self._gate.listeners)
            return self._draining.is_over()
        except OSError:
            return True

    def close(self) -> None:
        """Close the listeners for good, and remove the files of our Unix sockets."""
        from pgidle.gate.unix_socket_file import release_lock

        self._rest()
        for one in self._gate.listeners:
            one.close()
            if one.path is not None:
                try:
                    if not one.is_inherited and one.file is not None:
                        one.file.remove()
                    else:
                        release_lock(one.path)
                except OSError as error:
                    self._log.note("gate", f"{one.path} is left behind: {error.strerror}")


def parked_text(count: int) -> str:
    """How many, for a person."""
    return f"{count} client{'s' * (count > 1)} parked at the gate"


def _crowd_text(one: Listener) -> str:
    """Describes a queue with little room left. Raises OSError where the kernel does not tell."""
    parked = one.parked()
    return (
        f"{parked} of {one.places()} places in the queue at {one.name} are taken by connections that wake nobody, "
        f"{max(0, parked - len(one.who()))} of them given up"
    )


def _process(pid: int) -> str:
    """A process as a person would know it."""
    if pid == 0:
        return "the kernel"
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"{file.read().strip()} ({pid})"
    except OSError:
        return f"process {pid}"

"""The process behind sharing.py: a supervisor that, on order, starts postmasters which share its listeners."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgidle.base.builtin_modules import socket as light
from pgidle.gate import listeners, preload, unix_socket_file
from pgidle.gate.channel import ChildSignalled, PeerAccepted, StopSignalled
from pgidle.gate.gate import Gate
from pgidle.gate.leaving import SETTLING, Leaving, Outcome
from pgidle.postgres.orphans import find_orphans, hasten

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 30.0
OWN = (
    *(b"background writer", b"checkpointer", b"walwriter", b"autovacuum", b"stats collector"),
    *(b"logical replication launcher", b"archiver", b"logger", b"io worker"),
)
"""What Postgres calls processes of its own."""


class Supervisor:
    """What the process is. One method for each order; `_wait` receives what the postmaster tells."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        given = [listeners.Listener(light.socket(fileno=fd), is_inherited=True) for fd in plan["inherit"]]
        for one in given:
            if one.is_unix:
                one.listen_as_ourselves()
        taken = {one.name for one in given}
        wanted = [one for one in listeners.resolve(plan["listen"], plan["port"]) if one[1][0] not in taken]
        made, self.missing = listeners.listen_on(wanted) if wanted else ([], [])
        self.gate = Gate([*given, *made])
        library = os.open(plan["library"], os.O_RDONLY) if plan["library"] else preload.open_library()
        assert library is not None, "the library was not compiled"
        self.library = library
        self.pid = 0
        self.told: list[str] = []
        self.counts = {"starts": 0, "crashes": 0, "stops": 0, "alarms": 0, "false_alarms": 0, "shut_asks": 0}
        self.peers: list[tuple[int, int]] = []

    def start(self, *, wait: bool = True) -> None:
        """A postmaster, ready and still shut."""
        ours, theirs = preload.make_channel()
        hosts = [one.name for one in self.gate.listeners if not one.is_unix]
        settings = {
            "listen_addresses": ",".join(hosts),
            "port": str(self.plan["port"]),
            **self.plan["settings"],
        }
        words = [self.plan["postgres"], "-D", self.plan["data_dir"]]
        words += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # The newest first: of two at one address the other is on its way out.
        given = [one.fileno() for one in sorted(self.gate.listeners, key=lambda one: one.is_ended)]
        environment = preload.environment(os.environ, self.library, theirs.fileno(), given)
        with theirs:
            self.pid = os.posix_spawn(
                words[0],
                words,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 2, 1),
                    *preload.kept_open(self.library, theirs.fileno(), *given),
                ],
                setpgroup=0,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
                setsigmask=(),
            )
        self.pidfd = os.pidfd_open(self.pid)
        self.gate.began(ours, self.plan["data_dir"])
        self.counts["starts"] += 1
        if wait:
            self._wait(lambda: self.gate.is_shared and self._is_ready())
            for child in self._children():
                if b"background writer" in child[1]:
                    self.gate.knows(child[0])

    def open(self) -> bool:
        """Whether it is open; only another alarm keeps it from being so."""
        while not self.gate.is_open and not self.gate.is_ending and self._is_alive():
            self.gate.open()
            self._wait(lambda: self.gate.is_answered)
        return self.gate.is_open

    def shut(self) -> bool:
        self.gate.shut()
        self._wait(lambda: self.gate.is_answered)
        return self.gate.is_answered and not self.gate.is_open

    def stop(self, number: int = signal.SIGINT) -> int:
        """End the postmaster and wait for that: the exit status."""
        os.kill(self.pid, number)
        return self.end()

    def end(self) -> int:
        self._wait(lambda: False)
        # While its number is still taken: the path is ours from one to the next.
        for one in self.gate.listeners:
            if one.path is not None and not one.is_inherited:
                unix_socket_file.hold_lock(one.path, self.plan["data_dir"], self.plan["port"])
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.gate.gone()
        self._await_orphans()
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self, which: str) -> None:
        """SIGKILL for `postmaster`, or for a process whose title has these words."""
        if which == "postmaster":
            os.kill(self.pid, signal.SIGKILL)
        else:
            os.kill(next(pid for pid, title in self._children() if which.encode() in title), signal.SIGKILL)

    def rounds(self, count: int, seed: int, kill: float = 0.0, smart: float = 0.0) -> dict[str, Any]:
        """Sleep and wake over and over, and with the given chances end otherwise; at the end it is open."""
        chance = random.Random(seed)
        for _ in range(count):
            if not self.pid:
                self.start()
            self.open()
            self._wait(lambda: self.gate.is_ending, chance.uniform(0.0, 0.15), reopen=True)
            dice = chance.random()
            if dice < kill:
                victims = [self.pid, *(pid for pid, _ in self._children())]
                try:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.counts["crashes"] += 1
                if not self._wait(lambda: self.gate.is_ending, 5.0):
                    if self._is_alive():
                        continue  # What ends with 9 and is no crash: the archiver, the logger.
                self.end()
            elif dice < kill + smart:
                # As an administrator's pg_ctl stop -m smart, and then impatience.
                os.kill(self.pid, signal.SIGTERM)
                self._wait(lambda: False, chance.uniform(0.0, 0.2))
                if self._is_alive():
                    os.kill(self.pid, signal.SIGINT)
                self.end()
                self.counts["stops"] += 1
            else:
                self.shut()
                self.counts["shut_asks"] += 1
                # Whoever has got through is served: clients that never rest do not stay.
                self._wait(lambda: not self._sessions())
                self.stop()
                self.counts["stops"] += 1
            self._wait(lambda: False, chance.uniform(0.0, 0.03))
        if not self.pid:
            self.start()
        self.open()
        return self.look()

    def leave(self) -> str:
        """One attempt to leave; after NOBODY all is closed, else all is as before."""
        leaving = Leaving(self.gate.listeners)
        while (outcome := leaving.look()) is Outcome.NOT_YET:
            self._wait(lambda: False, SETTLING)
        if outcome is Outcome.NOBODY:
            for one in self.gate.listeners:
                one.close()
                if one.path is not None and not one.is_inherited:
                    found = unix_socket_file.find(one.path)
                    if found is not None:
                        found.remove()
        else:
            leaving.call_off()
        return str(outcome.value)

    def look(self) -> dict[str, Any]:
        self._receive()
        return {
            "pid": self.pid,
            "open": self.gate.is_open,
            "ending": self.gate.is_ending,
            "alive": self._is_alive(),
            "parked": self.gate.parked(),
            "who": [[one.address, one.port, one.uid] for one in self.gate.who()],
            "told": self.told[-20:],
            "peers": self.peers,
            **self.counts,
        }

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def open_blindly(self) -> bool:
        """Order it without having heard what the postmaster has told."""
        self.gate.open()
        self._wait(lambda: self.gate.is_answered)
        return self.gate.is_open

    def defer(self) -> None:
        """Have handshakes end only with the first data (tcp(7))."""
        for one in self.gate.listeners:
            if not one.is_unix:
                one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)

    def plug(self) -> None:
        for one in self.gate.listeners:
            if not one.is_unix:
                one.plug()

    def unplug(self) -> None:
        for one in self.gate.listeners:
            if not one.is_unix:
                one.unplug()

    def add_ended(self, *, replace: bool = True) -> None:
        """End the Unix socket with whoever is in its queue, and make another at its path."""
        ended = next(one for one in self.gate.listeners if one.is_unix)
        assert ended.path is not None
        path = Path(ended.path)
        found = path.stat()
        ended.end()
        if not replace:
            return
        path.unlink()
        made = light.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(str(path))
        made.listen(100)
        path.chmod(found.st_mode & 0o777)
        self.gate.listeners.append(listeners.Listener(made, is_inherited=False))

    def wait(self, what: str, seconds: float = PATIENCE) -> bool:
        """Until something was told whose text begins so."""
        return self._wait(lambda: any(one.startswith(what) for one in self.told), seconds)

    def _wait(self, is_so: Callable[[], bool], seconds: float = PATIENCE, *, reopen: bool = False) -> bool:
        """Receive until something is so, or the postmaster has ended, or the time is over; whether it is so."""
        until = time.monotonic() + seconds
        while not is_so():
            self._receive()
            if reopen and not self.gate.is_open and not self.gate.is_ending and self.gate.is_answered:
                self.counts["false_alarms"] += 1
                self.gate.open()
            left = until - time.monotonic()
            if is_so():
                break
            if left <= 0 or not self._is_alive():
                self._receive()
                return is_so()
            poll = select.poll()
            if self.gate._channel is not None:
                poll.register(self.gate._channel.fileno(), select.POLLIN)
            if self.pid:
                poll.register(self.pidfd, select.POLLIN)
            # What is waited for may be a line in postmaster.pid, of which nobody tells.
            poll.poll(min(left, 0.002) * 1000)
        return True

    def _receive(self) -> None:
        try:
            while (told := self.gate.receive()) is not None:
                self.told.append(repr(told))
                if isinstance(told, ChildSignalled | StopSignalled):
                    self.counts["alarms"] += 1
                elif isinstance(told, PeerAccepted):
                    self.peers = [*self.peers, (told.pid, told.uid)][-64:]
        except EOFError:
            return

    def _is_alive(self) -> bool:
        return not self.pid or not select.select([self.pidfd], [], [], 0)[0]

    def _is_ready(self) -> bool:
        try:
            lines = Path(self.plan["data_dir"], "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() in ("ready", "standby")

    def _children(self) -> list[tuple[int, bytes]]:
        found = []
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return []
        for child in children:
            try:
                found.append((int(child), Path(f"/proc/{child}/cmdline").read_bytes()))
            except OSError:
                continue
        return found

    def _sessions(self) -> list[int]:
        """Whoever is none of Postgres's own: a child that has no title yet, too."""
        return [pid for pid, title in self._children() if not any(one in title for one in OWN)]

    def _await_orphans(self) -> None:
        began = time.monotonic()
        while left := find_orphans(self.plan["data_dir"]):
            hasten(left, time.monotonic() - began)
            time.sleep(0.005)


def main() -> None:
    supervisor = Supervisor(json.loads(sys.argv[1]))
    for line in sys.stdin:
        order = json.loads(line)
        method = getattr(supervisor, order.pop("order"))
        try:
            answer = method(**order)
        except Exception as error:  # noqa: BLE001 - it is the test's to fail
            traceback.print_exc()
            sys.stdout.write(json.dumps({"error": repr(error)}) + "\n")
        else:
            sys.stdout.write(json.dumps(answer if isinstance(answer, dict) else {"answer": answer}) + "\n")
        sys.stdout.flush()
    if supervisor.pid:
        supervisor.stop(signal.SIGQUIT)


if __name__ == "__main__":
    main()

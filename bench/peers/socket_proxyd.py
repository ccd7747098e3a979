"""systemd-socket-proxyd behind systemd-socket-activate: started by the first client, gone when nobody is connected.

As systemd-socket-proxyd(8) has it in its examples, with stand-ins for what PID 1 does:

    the socket unit         a listening socket of the harness's, handed to systemd-socket-activate as descriptor 3
    Requires=, After=       a shell that asks the harness for Postgres, and becomes the proxy when it is ready
    StopWhenUnneeded=yes    the harness stops Postgres when the proxy has exited
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import ClassVar

from bench import wire
from bench.peers.common import Front, Peer, Setting, says
from bench.servers import BarePostgres
from harness.installations import free_port
from harness.supervised import HAND_OVER, PATIENCE

ACTIVATE = "systemd-socket-activate"
PROXY = Path("/lib/systemd/systemd-socket-proxyd")
IDLE = "50ms"
MOST = 2000
"""Connections at a time; 256 unless told."""

SERVICE = 'echo >&0; read -r _ || exit; exec "$@" </dev/null'


class SocketProxyd(Peer):
    """One activation after the other: a process that waits for a client, asks for Postgres, then is the proxy."""

    name = "systemd-socket-proxyd"
    by: ClassVar[str] = "harness, for systemd"

    def __init__(self, setting: Setting, *, told: bool = False) -> None:
        super().__init__(setting, told=told)
        self.port = free_port()
        self._postgres = BarePostgres(setting.installation, setting.data_dir, setting.settings)
        self._folder = setting.place.folder("s")
        self._turns = threading.Condition()
        self._ending, self._awake, self._asleep = False, False, 0

    @classmethod
    def missing(cls) -> str | None:
        found = shutil.which(ACTIVATE) and PROXY.exists()
        return None if found else f"no {ACTIVATE} or systemd-socket-proxyd (apt-get install systemd)"

    @classmethod
    def version(cls) -> str:
        return says(ACTIVATE, "--version")

    def start(self) -> None:
        self._socket = socket.create_server((wire.HOST, self.port), backlog=4096)
        self._socket.setblocking(False)
        self._ending = False
        self._activate()
        self._thread = threading.Thread(target=self._manage, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._turns:
            self._ending = True
            self._front.end()
        self._thread.join(PATIENCE)
        self._socket.close()

    def sleep(self) -> None:
        """It sleeps by itself, when nobody has been connected for a moment."""
        with self._turns:
            before = self._asleep
            if self._awake and not self._turns.wait_for(lambda: self._asleep > before, PATIENCE):
                raise SystemExit(f"bench: {self.name}: always somebody connected")

    def pids(self) -> tuple[int, ...]:
        return (self._front.pid,)

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _activate(self) -> None:
        """Wait for the next client, in a process of its own that gets the listening socket."""
        # Above the number that it is to have.
        fd = fcntl.fcntl(self._socket, fcntl.F_DUPFD, 20)
        self._asks, asking = socket.socketpair()
        proxy: list[str | Path] = [PROXY, f"--exit-idle-time={IDLE}", f"--connections-max={MOST}"]
        try:
            self._front = Front(
                self._folder,
                *(sys.executable, "-I", "-c", HAND_OVER, str(fd), "--"),
                *(ACTIVATE, "/bin/sh", "-c", SERVICE, "sh", *proxy, f"{wire.HOST}:{self._postgres.port}"),
                stdin=asking.fileno(),
                pass_fds=(fd,),
                env={"PATH": os.environ.get("PATH", os.defpath), "LISTEN_FDS": "1"},
            )
        finally:
            os.close(fd)
            asking.close()

    def _manage(self) -> None:
        while True:
            if self._asks.recv(1):
                self._awake = True
                self._postgres.start()
                self._postgres.wait_until_ready()
                self._asks.sendall(b"\n")
            self._asks.close()
            self._front.process.wait()
            if self._awake:
                self._postgres.stop()
            with self._turns:
                self._awake = False
                if self._ending:
                    return
                self._activate()
                self._asleep += 1
                self._turns.notify_all()

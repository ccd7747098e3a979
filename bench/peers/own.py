"""pgidle itself, staying: installed as an image does it, put to sleep by its own control socket."""

from __future__ import annotations

import time
from typing import ClassVar

from bench.peers.common import Peer, Setting
from bench.processes import observers
from bench.servers import Installed


class Pgidle(Peer):
    name = "pgidle"
    by: ClassVar[str] = "itself"

    def __init__(self, setting: Setting, *, told: bool = False, **options: str) -> None:
        super().__init__(setting, told=told)
        self.server = Installed(
            setting.program, setting.installation, setting.place, setting.data_dir, setting.settings,
            **({"when_idle": "stay"} | options),
        )  # fmt: skip
        self.port = self.server.port

    @classmethod
    def cold(cls, setting: Setting) -> Peer:
        return cls(setting, when_idle="exit", log_format="text")

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.clean()

    def sleep(self) -> None:
        self.server.sleep()

    def rest(self) -> None:
        # Its observer stays for a minute after an order.
        while observers(self.server.pid):
            time.sleep(0.5)

    def pids(self) -> tuple[int, ...]:
        return (self.server.pid, *observers(self.server.pid))

    def first_row(self) -> int:
        return self.server.first_row()

    def settle(self) -> None:
        self.server.settle()

    def is_running(self) -> bool:
        return self.server.running

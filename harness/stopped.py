"""A Supervised that halts where a test says; see `stopping` for the points."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.supervised import PATIENCE, Supervised

if TYPE_CHECKING:
    from harness.installations import Installation, Place

PROGRAM = Path(__file__).with_name("stopping.py")


class Stopped(Supervised):
    """Runs through the point unless armed; then `reached` says when it stands there, and `release` lets it go on."""

    def __init__(self, installation: Installation, place: Place, point: str, **options: Any) -> None:
        super().__init__(installation, place, **options)
        self.point = point
        self._door = place.folder() / "door"
        self._armed = threading.Event()
        self._reached = threading.Event()
        self._go_on = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._door))
        self._door.chmod(0o777)
        self._listener.listen()
        threading.Thread(target=self._attend, daemon=True).start()

    def command(self) -> list[str]:
        words = super().command()
        return [
            *(*self.prefix, self.python, "-P", str(PROGRAM), self.point, str(self._door)),
            *words[words.index("run") :],
        ]

    def arm(self) -> None:
        """The next time that it comes there, it stops."""
        self._reached.clear()
        self._go_on.clear()
        self._armed.set()

    def reached(self) -> None:
        assert self._reached.wait(PATIENCE), f"never came to {self.point!r}; {self._tail()}"

    def has_reached(self) -> bool:
        return self._reached.is_set()

    def release(self) -> None:
        self._armed.clear()
        self._go_on.set()

    def clean(self) -> None:
        self.release()
        super().clean()
        self._listener.close()

    def _attend(self) -> None:
        while True:
            try:
                told, _ = self._listener.accept()
            except OSError:
                return
            with told:
                if self._armed.is_set():
                    self._reached.set()
                    self._go_on.wait(PATIENCE)

"""Named timers and watched descriptors on an asyncio loop, with the interface of `event_loop.Loop`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class Timers:
    """Belongs to the running loop. A callback that raises ends the process (`serving.Serving`)."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}

    def after(self, seconds: float, name: Hashable, callback: Callable[[], None]) -> None:
        """Call back once after `seconds`; replaces a timer of the same name."""
        self.cancel(name)

        def due() -> None:
            del self._timers[name]
            callback()

        self._timers[name] = self._loop.call_later(seconds, due)

    def cancel(self, name: Hashable) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def is_set(self, name: Hashable) -> bool:
        return name in self._timers

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back when a descriptor is readable."""
        self._loop.add_reader(fd, callback)

    def forget(self, fd: int) -> None:
        """Stop watching, before the descriptor is closed."""
        self._loop.remove_reader(fd)

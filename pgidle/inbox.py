"""How other threads reach the supervisor: messages in, one descriptor to wait on."""

from __future__ import annotations

import os
from collections import deque

from pgidle.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgidle.orders import Order
    from pgidle.policy import Look
    from pgidle.settings import Settings
    from pgidle.startable import StartResult


@record
class Looked:
    """A look at Postgres has ended; `ticket` is the one it was asked with."""

    ticket: int
    look: Look


@record
class Checkpointed:
    """The pre-sleep checkpoint has ended: what went wrong, or nothing.

    `is_impossible`: Postgres tried and could not, so that a shutdown could not either.
    """

    error: str | None
    is_impossible: bool = False


@record
class StartTried:
    """Whether Postgres would start now has been tried; `ticket` is the one it was asked with."""

    ticket: int
    result: StartResult


@record
class Requested:
    """Somebody gave an order at the control socket.

    `reply` takes whether it was granted and a line about it; it may be called from any thread, once. `is_awaited` says
    whether anybody still waits for that.
    """

    order: Order
    reply: Callable[[bool, str], None]
    is_awaited: Callable[[], bool]


@record
class LookWanted:
    """Somebody asks how things are. `reply` is called, from any thread and once, when what is known is no older than
    the question, or cannot be had."""

    reply: Callable[[], None]


@record
class SettingsChanged:
    """pgidle.toml was read again: the new settings, or the line that says what is wrong with it."""

    settings: Settings | None
    error: str


@record
class ConfigurationChanged:
    """A file that Postgres reads when it is told to reload has changed."""

    name: str


@record
class BackstageFailed:
    """The thread that talks to the outside has ended with an error: nothing can be watched any more."""

    error: str


Message = (
    Looked
    | Checkpointed
    | StartTried
    | Requested
    | LookWanted
    | SettingsChanged
    | ConfigurationChanged
    | BackstageFailed
)


class Inbox:
    """A queue that any thread may post to and the supervisor's epoll wakes for (eventfd(2))."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._eventfd

    def post(self, message: Message) -> None:
        self._messages.append(message)
        os.eventfd_write(self._eventfd, 1)

    def drain(self) -> Iterator[Message]:
        """Take what is there. Called by the supervisor alone."""
        try:
            os.eventfd_read(self._eventfd)
        except OSError:
            pass  # Nothing was told of, or that cannot be read: what is there is there.
        while self._messages:
            yield self._messages.popleft()

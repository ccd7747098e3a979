"""A listening socket that speaks just enough HTTP to answer a health check, whatever else goes on.

`GET /health` and `GET /ready` are answered here, from memory, in every state. Any other request is handed on to the
observer, with what has been read so far. The supervisor waits for no client: one that has not sent a complete request
within REQUEST_TIME is cut, and when there are too many, so is the one silent longest, of the address that has most.
"""

from __future__ import annotations

import time

from pgidle.base.builtin_modules import close, socket
from pgidle.lifecycle.transitions import State
from pgidle.system.control_socket import peer_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pgidle.system.event_loop import Loop

    Asked = Callable[[], tuple[State, str]]

REQUEST_TIME = 3.0
"""Seconds from connect to the end of the request's header."""

CONNECTIONS, CONNECTIONS_OF_ONE = 64, 16
"""Most connections at a time, in all and from one address (IPv6: one /64 network), so that a flood cannot use up all
descriptors."""

LONGEST_HEAD = 8192
"""Bytes of a request's header."""

END_OF_HEAD = b"\r\n\r\n"
WITH_BODY = (b"\nexpect:", b"\ncontent-length:", b"\ntransfer-encoding:")
"""Headers of requests with a body: if the socket were closed before it is read, the answer could be lost (tcp(7))."""
ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before other events are looked at."""


class _Waiting:
    """A connection that has not sent a complete request yet."""

    def __init__(self, connected: socket.socket, origin: str) -> None:
        self.connected = connected
        self.origin = origin
        self.until = time.monotonic() + REQUEST_TIME
        self.data = b""


class HttpListener:
    """One listening socket, which the caller keeps owning. `asked` returns the state and what is wrong, if anything;
    `hand_on` is given a connection and the data read from it. `users`: the uids that may connect to a Unix socket;
    None: everybody may."""

    def __init__(
        self,
        listener: socket.socket,
        loop: Loop,
        asked: Asked,
        hand_on: Callable[[socket.socket, bytes], None],
        users: Collection[int] | None = None,
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._asked = asked
        self._hand_on = hand_on
        self._users = users
        self._waiting: dict[int, _Waiting] = {}
        """By descriptor, oldest first."""
        listener.setblocking(False)
        loop.watch(listener.fileno(), self.accept)

    def accept(self) -> None:
        """Accept the connections that have arrived. Raises OSError if that has to wait."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connected, address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            self._let_in(connected, address)

    def _let_in(self, connected: socket.socket, address: object) -> None:
        if self._users is not None and peer_of(connected).uid not in self._users:
            close(connected)
            return
        connected.setblocking(False)
        fd = connected.fileno()
        self._waiting[fd] = _Waiting(connected, origin(address))
        self._loop.watch(fd, lambda: self._read(fd))
        self._read(fd)
        self._make_room()
        self._await_oldest()

    def _await_oldest(self) -> None:
        oldest = next(iter(self._waiting.values()), None)
        name = ("http", self._listener.fileno())
        if oldest is None:
            self._loop.cancel(name)
        elif not self._loop.is_set(name):
            self._loop.after(max(0.0, oldest.until - time.monotonic()), name, self._on_time)

    def _on_time(self) -> None:
        now = time.monotonic()
        for fd in [fd for fd, one in self._waiting.items() if one.until <= now]:
            self._cut(fd)
        self._await_oldest()

    def _make_room(self) -> None:
        if len(self._waiting) <= min(CONNECTIONS, CONNECTIONS_OF_ONE):
            return
        crowd: dict[str, int] = {}
        for one in self._waiting.values():
            crowd[one.origin] = crowd.get(one.origin, 0) + 1
        of_one = max((count for where, count in crowd.items() if where), default=0)
        if of_one <= CONNECTIONS_OF_ONE and len(self._waiting) <= CONNECTIONS:
            return
        most = max(crowd.values())
        # They may have sent something by now: in a flood, connections are accepted before any of them is read.
        for fd in [fd for fd, one in self._waiting.items() if crowd[one.origin] == most]:
            self._read(fd)
            if fd in self._waiting:
                self._cut(fd)
                return

    def _read(self, fd: int) -> None:
        waiting = self._waiting[fd]
        try:
            more = waiting.connected.recv(LONGEST_HEAD + 1 - len(waiting.data))
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self._cut(fd)
            return
        waiting.data += more
        head, end, rest = waiting.data.partition(END_OF_HEAD)
        if end and not rest and (answer := self._answer(head)) is not None:
            self._forget(fd)
            try:
                waiting.connected.send(answer, socket.MSG_NOSIGNAL)
            except OSError:
                pass  # The client has disconnected.
            close(waiting.connected)
        elif end or not _could_be_http(waiting.data) or len(waiting.data) > LONGEST_HEAD:
            self._forget(fd)
            self._hand_on(waiting.connected, waiting.data)

    def _answer(self, head: bytes) -> bytes | None:
        """The answer to a health check; None if it is another request."""
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or words[0] != b"GET" or words[1] not in (b"/health", b"/ready"):
            return None
        if words[2] not in (b"HTTP/1.1", b"HTTP/1.0") or any(one in head.lower() for one in WITH_BODY):
            return None
        state, problem = self._asked()
        if words[1] == b"/health":
            # A problem is not a failure: a restart because of it would lose the clients that wait.
            return _response(200 if state is not State.FAILED else 503, state, problem)
        return _response(200 if state is State.AWAKE else 503, state, "")

    def _forget(self, fd: int) -> None:
        del self._waiting[fd]
        self._loop.forget(fd)

    def _cut(self, fd: int) -> None:
        connected = self._waiting[fd].connected
        self._forget(fd)
        close(connected)


def _could_be_http(data: bytes) -> bool:
    """Whether it may be the beginning of a method, which is of printable letters (RFC 9110, 9.1)."""
    return data[0] > 0x20


def _response(status: int, state: State, problem: str) -> bytes:
    body = f'{{"state": "{state.noun}"}}\n'
    if problem:
        import json

        body = json.dumps({"state": state.noun, "problem": problem}) + "\n"
    phrase = "OK" if status == 200 else "Service Unavailable"
    head = (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "cache-control: no-store\r\ncross-origin-resource-policy: same-origin\r\nconnection: close\r\n\r\n"
    )
    return (head + body).encode()


def origin(peer: object) -> str:
    """The address or network that a connection counts for, from its address as socket(7) calls return it."""
    if not isinstance(peer, tuple):
        return ""
    address = str(peer[0]).partition("%")[0]
    if ":" not in address or "." in address:
        return address
    return socket.inet_pton(socket.AF_INET6, address)[:8].hex()

"""The records that the supervisor and the library in the postmaster exchange.

Records of four int32 in the machine's order, a kind and three numbers, over a SOCK_SEQPACKET pair, one for each
postmaster. `enum kind` in library/library.h has the other end's numbers; nothing else knows them. A record that
does not fit is another version's, and an error.
"""

from __future__ import annotations

import struct

from pgidle.base.builtin_modules import close, socket
from pgidle.base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

VERSION = 1

_RECORD = struct.Struct("=4i")
_DESCRIPTOR = struct.Struct("=i")
_ONCE = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_OPEN, _SHUT = ord("O"), ord("C")


@record
class Loaded:
    """The library is loaded in the postmaster, which has inherited so many listeners."""

    listeners: int


@record
class SocketMade:
    """Postgres listens on a Unix socket that it has made. The receiver closes the descriptor; None: it had no room for
    another one (MSG_CTRUNC)."""

    descriptor: int | None


@record
class Waits:
    """The postmaster is about to wait for clients for the first time, at so many listeners and in a way that the
    library knows. By then it has written its own postmaster.pid. `left_out` has the numbers, from 0, of the inherited
    listeners that it does not wait at."""

    listeners: int
    left_out: tuple[int, ...] = ()


@record
class Answer:
    """An order was carried out, or was void. `alarms` is the number of alarms so far."""

    order: int
    is_open: bool
    alarms: int


@record
class ChildSignalled:
    """The postmaster has told a child to end, and the gate is shut: a crash, a stop, or just one background worker."""

    signal: int
    pid: int
    alarms: int


@record
class StopSignalled:
    """The postmaster got a signal that stops it, from this pid (0: from the kernel), and the gate is shut."""

    signal: int
    sender: int
    alarms: int


@record
class PeerAccepted:
    """A client was accepted at a Unix socket. Sent for the first few after each opening."""

    pid: int
    uid: int


@record
class LockLeft:
    """The postmaster ends, and has left a Unix socket's lock file in place."""


if TYPE_CHECKING:
    Told: TypeAlias = (
        Loaded | SocketMade | Waits | Answer | ChildSignalled | StopSignalled | PeerAccepted | LockLeft
    )


class ChannelError(Exception):
    """The other end has another version, or is not our library."""


def decode(data: bytes, descriptor: int | None) -> Told:
    """One record, with the descriptor that came with it. Raises ChannelError."""
    if len(data) != _RECORD.size:
        raise ChannelError(f"a record of {len(data)} bytes")
    kind, a, b, c = _RECORD.unpack(data)
    match chr(kind & 0xFF):
        case "H" if a == VERSION:
            return Loaded(b)
        case "U":
            return SocketMade(descriptor)
        case "W":
            bits = (b & 0xFFFFFFFF) | (c & 0xFFFFFFFF) << 32
            return Waits(a, tuple(at for at in range(64) if bits >> at & 1))
        case "S":
            return Answer(a, bool(b), c)
        case "K":
            return ChildSignalled(a, b, c)
        case "T":
            return StopSignalled(a, b, c)
        case "P":
            return PeerAccepted(a, b & 0xFFFFFFFF)
        case "L":
            return LockLeft()
    raise ChannelError(f"a record of kind {kind} with {a}, {b}, {c}")


class Channel:
    """The supervisor's end for one postmaster. Orders are numbered, so that an answer can be matched to its order."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._orders = 0
        self._alarms = 0

    def fileno(self) -> int:
        return self._end.fileno()

    def order_open(self) -> int | None:
        """Order Postgres to accept, unless there has been an alarm that is not received yet. The order's number; None
        if it cannot be sent."""
        return self._order(_OPEN, self._alarms)

    def order_shut(self) -> int | None:
        """Order Postgres to accept nobody from its next wait on. The order's number; None if it cannot be sent."""
        return self._order(_SHUT, 0)

    def receive(self) -> Told | None:
        """The next record; None if there is none now.

        Raises ChannelError, EOFError once nobody can send any more, and OSError if a later attempt may succeed.
        """
        try:
            data, rights, _, _ = self._end.recvmsg(_RECORD.size, socket.CMSG_SPACE(_DESCRIPTOR.size), _ONCE)
        except BlockingIOError:
            return None
        except (ConnectionResetError, BrokenPipeError) as error:
            raise EOFError(str(error)) from None
        if not data:
            raise EOFError
        told = decode(data, _DESCRIPTOR.unpack(rights[0][2])[0] if rights else None)
        if isinstance(told, Answer | ChildSignalled | StopSignalled):
            self._alarms = max(self._alarms, told.alarms)
        return told

    def close(self) -> None:
        close(self._end)

    def _order(self, kind: int, known: int) -> int | None:
        self._orders += 1
        try:
            self._end.send(
                _RECORD.pack(kind, self._orders, known, 0), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            )
        except OSError:
            return None
        return self._orders

"""One end of the SOCK_SEQPACKET pair between the supervisor and its observer, which carries only whole records."""

from __future__ import annotations

import struct

from pgidle.base.builtin_modules import close, socket
from pgidle.observer.record_encoding import WireError, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pgidle.observer.record_encoding import Kinds

LONGEST = 1 << 17
"""Bytes of a record: less than a socket buffer takes at once (net.core.wmem_default)."""
_DESCRIPTOR = struct.Struct("=i")
_ONCE = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class PairEnd:
    """Never blocks. `kinds` are the records that the other end may send."""

    def __init__(self, end: socket.socket, kinds: Kinds) -> None:
        self._end = end
        self._kinds = kinds

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: object, descriptor: int | None = None) -> None:
        """Send a record, and with it a copy of a descriptor. Raises BlockingIOError if the other end does not read, and
        OSError."""
        data = encode(message)
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(descriptor))]
            if descriptor is not None
            else []
        )
        self._end.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[Any, int | None] | None:
        """The next record and the descriptor that came with it, which the caller has to close; None if there is none
        now. Raises WireError, EOFError once the other end is closed, and OSError if it may work another time."""
        try:
            data, rights, flags, _ = self._end.recvmsg(LONGEST, socket.CMSG_SPACE(_DESCRIPTOR.size), _ONCE)
        except BlockingIOError:
            return None
        except (ConnectionResetError, BrokenPipeError) as error:
            raise EOFError(str(error)) from None
        descriptor = None
        for level, kind, content in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(content) >= _DESCRIPTOR.size:
                (descriptor,) = _DESCRIPTOR.unpack(content[: _DESCRIPTOR.size])
        try:
            if not data:
                raise EOFError("the other end is closed")
            if flags & socket.MSG_TRUNC:
                raise WireError(f"a record of more than {LONGEST} bytes")
            return decode(data, self._kinds), descriptor
        except (EOFError, WireError):
            if descriptor is not None:
                close(descriptor)
            raise

    def close(self) -> None:
        close(self._end)


def pair(kinds: Kinds, others: Kinds) -> tuple[PairEnd, PairEnd]:
    """Two ends; the first receives `kinds`, the second `others`. Raises OSError."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    return PairEnd(here, kinds), PairEnd(there, others)

"""`signal` and `socket` as they are built into the interpreter, for code that runs before Postgres is spawned.

The standard library's modules of these names wrap the same functions, and turn a hundred numbers or so into
enumerations on import: together with `enum`, which that needs, a fifth of the time to the spawn. Here numbers stay
numbers (`family`, `type`), and of the wrapping a socket has only what is used.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
    import socket as socket
else:
    import _signal as signal  # noqa: F401
    import _socket

    class _Socket(_socket.socket):
        __slots__ = ()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            close(self)

        def accept(self):
            fd, address = self._accept()
            return _Socket(fileno=fd), address

    class _SocketModule:
        socket = _Socket

        @staticmethod
        def socketpair(family, kind):
            return tuple(_Socket(fileno=one.detach()) for one in _socket.socketpair(family, kind))

        def __getattr__(self, name):
            return getattr(_socket, name)

    socket = _SocketModule()


def close(one: socket.socket | int) -> None:
    """Close a socket or a descriptor, ignoring errors: on Linux it is closed whatever close(2) returns."""
    try:
        if isinstance(one, int):
            os.close(one)
        else:
            one.close()
    except OSError:
        return

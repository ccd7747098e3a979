"""Somebody who answers at a control socket in a supervisor's place, whatever is asked."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

from pgidle.system import control_socket
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def impostor(folder: Path, body: bytes) -> Iterator[str]:
    """The state directory in which one answers with this body."""
    state_dir = StateDir(str(folder))
    listener = control_socket.listen(state_dir)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    def answer() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            with one, contextlib.suppress(OSError):
                one.recv(4096)
                one.sendall(head + body)

    answering = threading.Thread(target=answer)
    answering.start()
    try:
        yield str(folder)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        answering.join()
        listener.close()
        os.close(state_dir.folder)

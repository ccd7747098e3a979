"""That the light sockets are as those of the standard library, as far as they are used."""

from __future__ import annotations

import os
import socket as whole

import pytest

from pgidle.base.builtin_modules import signal, socket


def test_a_connection_from_one_end_to_the_other() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(listener.getsockname())
            server, where = listener.accept()
            assert where == client.getsockname()
            with server:
                server.sendall(b"hello")
            assert client.recv(8) == b"hello"
            assert client.recv(8) == b""
        assert client.fileno() == -1


def test_the_end_of_a_block_closes_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        raise ZeroDivisionError
    assert one.fileno() == -1


def test_a_pair_that_nothing_inherits() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(b"1")
        assert theirs.recv(8) == b"1"
        assert not os.get_inheritable(theirs.fileno())
        assert ours.type == whole.SOCK_SEQPACKET


def test_the_numbers_are_the_same() -> None:
    for name in ("AF_INET6", "SOCK_CLOEXEC", "SO_REUSEPORT", "SHUT_RD", "MSG_DONTWAIT", "TCP_INFO"):
        assert getattr(socket, name) == getattr(whole, name)
    assert signal.SIGTERM == 15
    with pytest.raises(OSError, match="Name or service not known"):
        socket.getaddrinfo("nobody.invalid.", 1)

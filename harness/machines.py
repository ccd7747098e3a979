"""Machines for a test: a network namespace each, joined by a veth pair, entered by the test's own thread.

    with two_machines() as (here, there):
        ...                      # this thread, and what it starts, is on `here`
        with there.entered():
            ...                  # and now on `there`

They share the file system and the clock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from ctypes import CDLL
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from harness.namespaces import CLONE_NEWNET, own_network

if TYPE_CHECKING:
    from collections.abc import Iterator

NETWORK = "10.77.0.0/24"


@dataclass(frozen=True, slots=True)
class Machine:
    """`network` is an open descriptor of the namespace."""

    address: str
    network: int

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        before = _own_network_namespace()
        _enter(self.network)
        try:
            yield
        finally:
            _enter(before)
            os.close(before)


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """The thread is on the first. Needs root, the right to make namespaces, and `ip`; else the test is skipped."""
    if shutil.which("ip") is None:
        pytest.skip("needs ip (apt-get install iproute2)")
    libc = CDLL(None, use_errno=True)
    with own_network():
        home = _own_network_namespace()
        here = Machine("10.77.0.1", home)
        assert libc.unshare(CLONE_NEWNET) == 0
        there = Machine("10.77.0.2", _own_network_namespace())
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as resident:
            _enter(home)
            _ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(resident.pid))
            assert resident.stdin
            resident.stdin.close()
        for machine in (here, there):
            with machine.entered():
                _ip("addr", "add", f"{machine.address}/24", "dev", "cable")
                _ip("link", "set", "lo", "up")
                _ip("link", "set", "cable", "up")
        try:
            yield here, there
        finally:
            _enter(home)
            os.close(there.network)
            os.close(home)


def _own_network_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter(network: int) -> None:
    assert CDLL(None, use_errno=True).setns(network, CLONE_NEWNET) == 0


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)

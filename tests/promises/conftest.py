"""What tests of several promises need."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from harness.attacked import Attacked
from harness.installations import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.orders import Begin
    from harness.supervised import Supervised


@pytest.fixture
def attacked(place: Place, newest: Installation) -> Iterator[Attacked]:
    home, safe = place.folder("home"), place.folder("safe")
    home.chmod(0o755)
    os.chown(safe, 0, 0)
    safe.chmod(0o755)
    data_dir = home / "data"
    place.data_dir(newest).rename(data_dir)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as taken:
        yield Attacked(home, data_dir, safe, newest, port, taken)


@pytest.fixture
def begin() -> Iterator[Begin]:
    """A pgidle command that is not waited for; none outlives its test."""
    begun: list[subprocess.Popen[str]] = []

    def command(one: Supervised, *arguments: str) -> subprocess.Popen[str]:
        name, *rest = arguments
        begun.append(
            subprocess.Popen(
                [one.python, "-m", "pgidle", name, "-D", str(one.data_dir), *rest],
                env=one.environment(),
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return begun[-1]

    yield command
    for process in begun:
        with process:
            process.kill()

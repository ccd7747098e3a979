"""A machine booted with the real systemd, one for all tests of a file, and instances of pgidle's units in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.booted import Booted, booted
from harness.systemd_units import Instance, init

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.installations import Installation, Place


@pytest.fixture(scope="module")
def machine(place: Place) -> Iterator[Booted]:
    with booted(place.path) as one:
        yield one


@pytest.fixture
def instance(machine: Booted, newest: Installation, place: Place) -> Iterator[Callable[..., Instance]]:
    """Installs the units of an instance and starts its socket. `env` is its file of settings."""
    launched: list[Instance] = []

    def begin(
        name: str, idle_timeout: str = "300ms", on: Installation | None = None, **env: object
    ) -> Instance:
        port = 5432 + len(launched)
        installation = on or newest
        one = Instance(machine, name, port, place.data_dir(installation))
        named = ("--name", name) if name else ()
        options = ("--port", port, "--idle-timeout", idle_timeout, "--data-dir", one.data_dir)
        machine.install(init(place.folder("units"), *named, *options))
        one.set(pgidle_bin_dir=installation.bin_dir, pgidle_min_awake="0s", **env)
        machine.run("systemctl", "start", one.socket)
        launched.append(one)
        return one

    yield begin
    for one in launched:
        machine.run("systemctl", "stop", one.socket, one.service)
        machine.run("systemctl", "reset-failed", check=False)

"""Link-local addresses, which mean something only together with their interface: fe80::1%eth0."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.installations import free_port
from harness.machines import Machine, two_machines
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Launch, Supervised

CABLE = "%cable"
STAY = {"when_idle": "stay", "idle_timeout": "off"}


def link_local(machine: Machine) -> str:
    """Its address on the cable, once the kernel has found that nobody else has it."""
    found: list[str] = []

    def is_there() -> bool:
        with machine.entered():
            shown = subprocess.run(
                ["ip", "-6", "-o", "addr", "show", "dev", "cable", "scope", "link"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        found[:] = re.findall(r"inet6 (fe80:\S+)/64 (?!.*tentative)", shown)
        return bool(found)

    wait_until(is_there)
    return found[0]


@pytest.fixture
def ends() -> Iterator[tuple[str, str, Machine]]:
    """The link-local addresses here and there, and the machine there."""
    with two_machines() as (here, there):
        yield link_local(here), link_local(there), there


def begin(launch: Launch, installation: Installation, place: Place, **options: object) -> Supervised:
    data_dir = place.data_dir(installation)
    with (data_dir / "pg_hba.conf").open("a") as hba:
        hba.write("host all all fe80::/10 trust\n")
    one = launch(installation, data_dir=data_dir, **options)
    one.wait_for_state("awake")
    return one


def test_a_client_of_a_link_local_address_is_served_awake_and_asleep(
    newest: Installation, launch: Launch, place: Place, ends: tuple[str, str, Machine]
) -> None:
    here, far, there = ends
    door = free_port()
    one = begin(
        launch,
        newest,
        place,
        listen_addresses=f"{here}{CABLE},127.0.0.1",
        http=f"[{here}{CABLE}]:{door}",
        **STAY,
    )
    assert f"[{here}{CABLE}]:{one.port}" in one.pgidle("status").stdout
    for _ in range(2):
        with there.entered(), psycopg.connect(one.conninfo(host=f"{here}{CABLE}")) as client:
            assert client.execute("SELECT host(inet_client_addr())").fetchone() == (far,)
            refused = one.pgidle("sleep")
            assert refused.returncode == 1
            assert f"{far}) has been idle in transaction" in refused.stderr
        done = one.pgidle("sleep", "--wait")
        assert done.returncode == 0, done.stderr
    # Whoever comes wakes it.
    mark = one.mark()
    with there.entered(), psycopg.connect(one.conninfo(host=f"{here}{CABLE}")) as client:
        client.execute("SELECT 1")
    one.wait_for_state("awake", since=mark)
    assert one.stop() == 0


def test_every_address_is_these_too(
    newest: Installation, launch: Launch, place: Place, ends: tuple[str, str, Machine]
) -> None:
    here, far, there = ends
    one = begin(launch, newest, place, listen_addresses="*", ignore=f"address={far}{CABLE}", **STAY)
    with there.entered(), psycopg.connect(one.conninfo(host=f"{here}{CABLE}")) as client:
        client.execute("SELECT 1")
        # In a transaction, and ignored.
        assert one.pgidle("sleep", "--wait").returncode == 0
        client.close()
    assert one.stop() == 0


def test_a_link_local_client_that_may_wake_nobody_waits(
    newest: Installation, launch: Launch, place: Place, ends: tuple[str, str, Machine]
) -> None:
    here, far, there = ends
    one = begin(launch, newest, place, listen_addresses=f"{here}{CABLE}", no_wake=f"{far}{CABLE}", **STAY)
    assert one.pgidle("sleep", "--wait").returncode == 0
    with there.entered():
        program = subprocess.Popen(
            [newest.client_program("psql"), "-XAtc", "SELECT 1", one.conninfo(host=f"{here}{CABLE}")],
            stdout=subprocess.PIPE,
            text=True,
        )
    with program:
        wait_until(lambda: json.loads(one.pgidle("status", "--json").stdout)["parked"] == 1)
        assert json.loads(one.pgidle("status", "--json").stdout)["state"] == "asleep"
        assert one.pgidle("wake", "--wait").returncode == 0
        assert program.communicate(timeout=30)[0] == "1\n"
    assert one.stop() == 0


def test_an_inherited_socket_of_a_link_local_address(
    newest: Installation, launch: Launch, place: Place, ends: tuple[str, str, Machine]
) -> None:
    here, _, there = ends
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((here, free_port(), 0, socket.if_nametoindex("cable")))
        listener.listen()
        port = listener.getsockname()[1]
        one = begin(launch, newest, place, listen=[listener], port=port, when_idle="exit", idle_timeout="off")
        with there.entered(), psycopg.connect(one.conninfo(host=f"{here}{CABLE}")) as client:
            client.execute("SELECT 1")
        assert one.pgidle("sleep", "--wait").returncode == 0
        assert one.wait() == 0


def test_one_without_its_interface_is_told_what_to_write(
    newest: Installation, launch: Launch, ends: tuple[str, str, Machine]
) -> None:
    here = ends[0]
    one = launch(newest, listen_addresses=here, **STAY)
    assert one.wait() == 1
    assert f"a link-local address needs its interface: {here}%eth0" in one.lines[-1].text
    one = launch(newest, listen_addresses=f"{here}%nowhere", **STAY)
    assert one.wait() == 1
    assert len(one.lines) == 1
    assert one.lines[0].text.startswith(f"pgidle: cannot listen on {here}%nowhere: ")

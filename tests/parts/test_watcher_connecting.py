"""Clients who are only connecting, at real sockets: each is seen, whatever it has said so far."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from harness.postgres_fixture import Cluster, wait_until
from harness.watch import SETTINGS, Watch, active, at_first_look
from pgidle.base.record import replace
from pgidle.idle.reasons import ReasonKind, Signal
from pgidle.settings.options import Ignore, IgnoreField

if TYPE_CHECKING:
    from harness.installations import Installation


@pytest.mark.parametrize("said", [b"", b"\0\0\0\x64garbage"], ids=["silent", "garbage"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_tcp_client_that_has_not_authenticated_is_active(
    shared_cluster: Cluster, watch: Watch, address: str, said: bytes
) -> None:
    with socket.create_connection((address, shared_cluster.port)) as client:
        client.sendall(said)
        found = watch.find(Signal.CONNECTING, ReasonKind.ACTIVITY)
        assert found[0].text.endswith(f"{address} port {client.getsockname()[1]}")
    watch.settle()


def test_a_unix_socket_client_that_has_not_authenticated_is_active(
    shared_cluster: Cluster, watch: Watch
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(shared_cluster.socket_dir / f".s.PGSQL.{shared_cluster.port}"))
        watch.wait_for(Signal.CONNECTING, ReasonKind.ACTIVITY)
        assert watch.find(Signal.CONNECTING, ReasonKind.ACTIVITY)
    watch.settle()


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_a_client_in_the_middle_of_authentication_is_active(
    shared_cluster: Cluster, watch: Watch, family: socket.AddressFamily
) -> None:
    """PostgreSQL 18 shows it as `starting`; before, only its process and its socket do."""
    hba = shared_cluster.data_dir / "pg_hba.conf"
    before = hba.read_text()
    with shared_cluster.connect() as client:
        client.execute("CREATE ROLE slow LOGIN PASSWORD 'x'")
        hba.write_text(f"local all slow scram-sha-256\nhost all slow all scram-sha-256\n{before}")
        client.execute("SELECT pg_reload_conf()")
        try:
            with socket.socket(family) as raw:
                unix = str(shared_cluster.socket_dir / f".s.PGSQL.{shared_cluster.port}")
                raw.connect(unix if family == socket.AF_UNIX else ("127.0.0.1", shared_cluster.port))
                startup = struct.pack("!I", 196608) + b"user\0slow\0database\0postgres\0\0"
                raw.sendall(struct.pack("!I", len(startup) + 4) + startup)
                assert raw.recv(1) == b"R", "the server asks for a password"
                for _ in range(3):
                    found = active(watch.judge())
                    assert {reason.signal for reason in found} & {Signal.CONNECTING, Signal.SESSION_STATE}
        finally:
            hba.write_text(before)
            client.execute("SELECT pg_reload_conf()")
            client.execute("DROP ROLE slow")
    watch.settle()


def test_a_client_that_nobody_has_accepted_is_active(shared_cluster: Cluster, watch: Watch) -> None:
    watch.see()
    os.kill(shared_cluster.pid, signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", shared_cluster.port)):
            assert watch.find(Signal.CONNECTING, ReasonKind.ACTIVITY)
    finally:
        os.kill(shared_cluster.pid, signal.SIGCONT)
    watch.settle()


def test_sessions_explain_their_sockets(shared_cluster: Cluster, watch: Watch) -> None:
    with (
        shared_cluster.connect(host="127.0.0.1"),
        shared_cluster.connect(host="::1"),
        shared_cluster.connect(),
    ):
        watch.judge()
        assert len(watch.see().clients) == 3
        assert not active(watch.judge())


@pytest.mark.usefixtures("_counters")
def test_clients_that_come_and_go_all_the_time_never_slip_between(
    installation: Installation, shared_cluster: Cluster, watch: Watch
) -> None:
    count = 0
    stop = threading.Event()

    def come_and_go() -> None:
        nonlocal count
        while not stop.is_set():
            shared_cluster.connect(host="127.0.0.1" if count % 2 else str(shared_cluster.socket_dir)).close()
            count += 1

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(60):
            before = count
            wait_until(lambda before=before: count > before)  # type: ignore[misc]
            at_first_look(installation, lambda: bool(active(watch.judge())))
    finally:
        stop.set()
        thread.join()


def test_an_ignored_address_may_knock(shared_cluster: Cluster, watch: Watch) -> None:
    watch.settings = replace(SETTINGS, ignore=(Ignore(IgnoreField.ADDRESS, "127.0.0.0/8"),))
    with socket.create_connection(("127.0.0.1", shared_cluster.port)):
        for _ in range(3):
            assert not active(watch.judge())
    with socket.create_connection(("::1", shared_cluster.port)):
        assert active(watch.judge())

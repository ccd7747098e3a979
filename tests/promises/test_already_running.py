"""Somebody else is there: a postmaster, another pgidle, a taken port, or a postmaster.pid that only says so."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.faults import bystander, carry_out, complaint, contents, query, start_again
from harness.installations import as_server, free_port, server_user
from harness.postgres_fixture import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place


def test_a_living_postmaster_keeps_its_data_directory(installation: Installation, place: Place, launch):
    with Cluster(installation.bin_dir, place.data_dir(installation)) as cluster:
        cluster.start()
        line = complaint_beside(launch(installation, data_dir=cluster.data_dir), 1)
        assert f"a postmaster with pid {cluster.pid} already runs on {cluster.data_dir}: stop it" in line
        with cluster.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("apart", [True, False], ids=["own state directory", "same options"])
def test_a_data_directory_that_another_pgidle_serves(newest: Installation, place: Place, launch, apart: bool):
    http = f"127.0.0.1:{free_port()}"
    first = launch(newest, http=http)
    first.wait_for_state("awake")
    more = {"state_dir": str(place.folder() / "state")} if apart else {"http": http, "port": first.port}
    line = complaint_beside(launch(newest, data_dir=first.data_dir, **more), 1)
    if apart:
        assert f"a postmaster with pid {first.postmaster_pid} already runs" in line
    else:
        assert f"pgidle with pid {first.pid} already serves" in line
    assert query(first, "SELECT 1") == 1
    assert first.stop() == 0


def complaint_beside(one, status: int) -> str:
    """The single line, where somebody else's Postgres goes on running in the data directory."""
    assert one.wait() == status
    said = [line.text for line in one.lines if not line.data]
    assert len(said) == 1, said
    return said[0]


@pytest.fixture(params=["alone", "shared"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Somebody on a port, who would share it or not. Made by the user of Postgres, or the kernel would refuse."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if request.param == "shared":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if os.getuid() == 0:
                os.fchown(one.fileno(), server_user().pw_uid, server_user().pw_gid)
        one.bind(("127.0.0.1", free_port()))
        one.listen()
        yield one


@pytest.mark.parametrize("addresses", ["127.0.0.1", "*"])
def test_a_port_that_is_taken(newest: Installation, launch, listener: socket.socket, addresses: str):
    port = listener.getsockname()[1]
    one = launch(newest, start=False, port=port, listen_addresses=addresses)
    before = contents(one.data_dir)
    one.start()
    line = complaint(one, 1)
    assert f"port {port} on " in line
    assert "is taken: stop what listens there, or set --port" in line
    assert contents(one.data_dir) == before


def test_a_port_that_another_pgidle_serves(newest: Installation, launch):
    first = launch(newest, idle_timeout="off")
    first.wait_for_state("awake")
    line = complaint(launch(newest, port=first.port), 1)
    assert f"port {first.port} on 127.0.0.1 is taken" in line
    assert query(first, "SELECT 1") == 1


def test_an_http_port_that_is_taken(newest: Installation, launch, listener: socket.socket):
    port = listener.getsockname()[1]
    line = complaint(launch(newest, http=f"127.0.0.1:{port}"), 1)
    assert f"cannot serve HTTP on 127.0.0.1:{port}" in line
    assert "set --http" in line


def test_a_stale_pidfile(installation: Installation, launch):
    one = launch(installation)
    one.wait_for_state("awake")
    carry_out(one, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill_all(one)
    assert (one.data_dir / "postmaster.pid").exists()
    start_again(one)
    assert query(one, "SELECT answer FROM kept") == 42
    assert one.stop() == 0


@pytest.mark.parametrize("whose", ["the same user's", "another user's"])
def test_a_stale_pidfile_with_a_recycled_pid(installation: Installation, launch, whose: str):
    if whose == "another user's" and os.getuid() != 0:
        pytest.skip("needs root, for a process of another user")
    one = launch(installation)
    one.wait_for_state("awake")
    carry_out(one, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill_all(one)
    pidfile = one.data_dir / "postmaster.pid"
    with bystander(**(as_server() if whose == "the same user's" else {})) as other:
        pidfile.write_text(f"{other.pid}\n" + pidfile.read_text().split("\n", 1)[1])
        start_again(one)
        assert query(one, "SELECT answer FROM kept") == 42
        assert one.stop() == 0
        assert other.poll() is None


def kill_all(one) -> None:
    """The supervisor, the postmaster and its children, all at once with -9."""
    everybody = one.processes()
    for process in everybody:
        # The backend of a client that has just left may be gone by now.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    one.kill()
    for process in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(everybody, timeout=10)

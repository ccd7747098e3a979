"""The whole, as a user meets it: one database, from its first start to its second, with every command."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.installations import free_port
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation, Place
    from harness.supervised import Launch, Supervised

STAY = {"when_idle": "stay", "idle_timeout": "off"}


def ask(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def status(one: Supervised) -> dict[str, object]:
    ran = one.pgidle("status", "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def empty(place: Place) -> Path:
    return place.folder()


def test_from_an_empty_folder_to_the_second_start(
    installation: Installation, place: Place, launch: Launch, empty: Path
) -> None:
    one = launch(
        installation,
        data_dir=empty,
        socket_dir=str(place.folder()),  # Debian's default is for the user postgres alone
        idle_timeout="1s",
        env={"POSTGRES_PASSWORD": 'it\'s "secret"', "POSTGRES_USER": "app", "POSTGRES_DB": "shop"},
    )
    one.wait_for_state("awake")
    login = {"user": "app", "password": 'it\'s "secret"', "dbname": "shop"}
    with psycopg.connect(one.conninfo(**login), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert one.wait() == 0
    assert one.states == ["starting", "awake", "drowsy", "stopping", "asleep", "leaving"]
    ran = one.pgidle("status")
    assert ran.returncode == 3
    assert "idle-timeout" in ran.stdout + ran.stderr

    # The second start needs no password in the environment, and an idle one would not wait for it.
    one.env.clear()
    mark = one.mark()
    one.start()
    one.wait_for_state("awake", since=mark)
    with psycopg.connect(one.conninfo(**login)) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(one.conninfo(**login | {"password": "guess"}))
    assert one.stop() == 0


def test_clients_are_postgres_s_own(installation: Installation, launch: Launch) -> None:
    one = launch(installation, **STAY)
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo(), autocommit=True) as connection:
        here = connection.execute("SELECT inet_client_addr()::text, inet_client_port()").fetchone()
        assert here is not None
        assert here[0] == "127.0.0.1/32"
        with socket.socket(fileno=os.dup(connection.fileno())) as ours:
            assert here[1] == ours.getsockname()[1]
        # A cancel request is a connection of its own, to the same address.
        canceller = threading.Timer(0.3, connection.cancel_safe)
        canceller.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")
        canceller.join()


def test_sleep_hold_release_and_wake(newest: Installation, launch: Launch) -> None:
    one = launch(newest, **STAY)
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo()) as connection:
        connection.execute("SELECT 1")
        refused = one.pgidle("sleep")
        assert refused.returncode == 1
        assert "idle in transaction" in refused.stdout + refused.stderr
        mark = one.mark()
        assert one.pgidle("sleep", "--force").returncode == 0
        one.wait_for_state("asleep", since=mark)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert status(one)["state"] == "asleep"

    mark = one.mark()
    assert one.pgidle("hold", "1h", "--why", "a migration").returncode == 0
    one.wait_for_state("awake", since=mark)
    refused = one.pgidle("sleep")
    assert refused.returncode == 1
    assert "a migration" in refused.stdout + refused.stderr
    assert "a migration" in one.pgidle("status").stdout
    assert one.pgidle("release").returncode == 0
    mark = one.mark()
    assert one.pgidle("sleep").returncode == 0
    one.wait_for_state("asleep", since=mark)
    mark = one.mark()
    assert one.pgidle("wake").returncode == 0
    one.wait_for_state("awake", since=mark)
    assert one.stop() == 0


def test_a_client_wakes_what_stayed_and_the_log_says_why(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="500ms")
    one.wait_for_state("asleep")
    mark = one.mark()
    with psycopg.connect(one.conninfo()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        woke = one.wait_for_state("starting", since=mark)
        assert "parked" in woke.data["reason"]
        slept = [line for line in one.lines if line.data.get("state") == "stopping"][-1]
        assert "idle-timeout" in slept.data["reason"]


def test_who_keeps_it_awake_is_named(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="500ms")
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo(application_name="nightly report")) as connection:
        connection.execute("SELECT 1")
        said = {}

        def named() -> bool:
            said.update(status(one))
            return "nightly report" in json.dumps(said["reasons"])

        for _ in range(200):
            if named():
                break
        assert said["state"] == "awake"
        assert "idle in transaction" in json.dumps(said["reasons"])
        kept = r"kept awake for .*: session .*nightly report.* has been idle in transaction"
        one.wait_log(kept)
        looks = said["looks"]
        while status(one)["looks"] < looks + 10:
            pass
        assert sum(bool(re.search(kept, line.text)) for line in one.lines) == 1


def test_doors_answer_in_every_state_and_never_count(newest: Installation, launch: Launch) -> None:
    door = free_port()
    one = launch(newest, http=f"127.0.0.1:{door}", when_idle="stay", idle_timeout="1s")
    one.wait_for_state("awake")
    assert ask(door, "/ready")[0] == 200
    while "asleep" not in one.states:
        assert ask(door, "/health")[0] == 200
    assert ask(door, "/health")[0] == 200
    code, text = ask(door, "/ready")
    assert code == 503
    assert "asleep" in text
    assert json.loads(ask(door, "/status")[1])["state"] == "asleep"
    assert "pgidle_" in ask(door, "/metrics")[1]
    assert ask(door, "/sleep")[0] == 404
    assert one.pgidle("health").returncode == 0
    assert one.states[-1] == "asleep"
    one.kill()
    assert one.pgidle("health").returncode == 1


def test_a_cut_session_is_told_so_and_a_new_one_is_served(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="500ms")
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo(), autocommit=True) as connection:
        connection.execute("SELECT 1")
        one.wait_for_state("asleep")
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")
    with psycopg.connect(one.conninfo()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(("more", "says"), [((), True), (("--when-idle", "stay"), False)])
def test_who_is_at_a_terminal_is_told_that_exit_is_the_end(newest, place, more, says):
    master, slave = os.openpty()
    command = [
        sys.executable,
        "-P",
        "-m",
        "pgidle",
        "run",
        "-D",
        str(place.data_dir(newest)),
        "--http",
        "off",
    ]
    command += ["--bin-dir", str(newest.bin_dir), "-p", str(free_port()), "--listen-addresses", "127.0.0.1"]
    environ = {name: value for name, value in os.environ.items() if name != "INVOCATION_ID"}
    process = subprocess.Popen([*command, *more], stderr=slave, cwd="/", env=environ)
    os.close(slave)
    text = b""
    with contextlib.suppress(OSError):
        while b"awake: " not in text:
            text += os.read(master, 4096)
    process.terminate()
    with contextlib.suppress(OSError):
        while os.read(master, 4096):
            pass
    assert process.wait() == 0
    os.close(master)
    assert (b"--when-idle stay wakes Postgres itself" in text) is says, text


def test_a_session_that_is_never_caught_busy_is_named(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="1s")
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo(application_name="poller"), autocommit=True) as client:
        named = r'awake.*kept awake for \S+: repeated use by app \\"poller\\", user postgres, 127.0.0.1'
        wait_until(
            lambda: client.execute("SELECT 1") and any(re.search(named, line.text) for line in one.lines)
        )
    assert "drowsy" not in one.states

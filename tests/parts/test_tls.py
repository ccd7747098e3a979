"""TLS with `--tls self-signed`, and untouched without it."""

from __future__ import annotations

import shutil
import socket
import stat
import struct
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.installations import debian, embedded, run_as_server, server_user
from harness.postgres_fixture import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation, Place
    from harness.supervised import Launch, Supervised

SELF_SIGNED = {"tls": "self-signed", "when_idle": "stay", "idle_timeout": "1s"}
KEPT = ("server.crt", "server.key", "expires")
GSSENC_REQUEST = struct.pack("!II", 8, 80877104)
OVER_TLS = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.fixture
def with_tls() -> Installation:
    found = debian()
    if found is None or not shutil.which("openssl"):
        pytest.skip("no PostgreSQL with TLS in /usr/lib/postgresql, or no openssl")
    return found


def folder(one: Supervised) -> Path:
    return one.data_dir / "pgidle/tls"


def kept(one: Supervised) -> dict[str, bytes]:
    return {name: (folder(one) / name).read_bytes() for name in KEPT}


def connect(one: Supervised, sslmode: str, **more: object) -> psycopg.Connection:
    root = {"sslrootcert": str(folder(one) / "server.crt")} if sslmode.startswith("verify") else {}
    where = one.conninfo(sslmode=sslmode, connect_timeout=30, **root, **more)
    return psycopg.connect(where, autocommit=True)


def refused(one: Supervised, status: int) -> str:
    assert one.wait() == status
    assert one.states == [], "nothing may have been started"
    return one.lines[-1].text


@pytest.mark.parametrize("sslmode", ["disable", "require", "verify-ca", "verify-full"])
def test_every_sslmode_is_served_asleep_and_awake(
    with_tls: Installation, launch: Launch, sslmode: str
) -> None:
    one = launch(with_tls, **SELF_SIGNED)
    one.wait_for_state("asleep")
    mark = one.mark()
    for _ in ("asleep", "awake"):
        with connect(one, sslmode, host="localhost", hostaddr="127.0.0.1") as connection:
            assert connection.execute("SELECT inet_client_port() IS NOT NULL").fetchone() == (True,)
            expected = (False, None) if sslmode == "disable" else (True, "TLSv1.3")
            assert connection.execute(OVER_TLS).fetchone() == expected
        one.wait_for_state("awake", since=mark)


def test_the_certificate_is_made_once_and_only_its_owner_can_read_it(
    with_tls: Installation, launch: Launch
) -> None:
    one = launch(with_tls, **SELF_SIGNED)
    one.wait_log("made a self-signed certificate")
    one.wait_for_state("asleep")
    made = kept(one)
    for name in KEPT:
        found = (folder(one) / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, server_user().pw_uid)
    assert sorted(path.name for path in folder(one).iterdir()) == sorted(KEPT)
    assert one.stop() == 0
    mark = one.mark()
    one.start()
    one.wait_for_state("awake", since=mark)
    with connect(one, "verify-full"):
        assert kept(one) == made
    assert not any("certificate" in line.text for line in one.lines[mark:])


@pytest.mark.parametrize("fault", ["expired", "no key", "half made", "no folders"])
def test_what_does_not_serve_is_made_again(with_tls: Installation, launch: Launch, fault: str) -> None:
    one = launch(with_tls, **SELF_SIGNED)
    one.wait_for_state("awake")
    assert one.stop() == 0
    made = kept(one)
    if fault == "expired":
        (folder(one) / "expires").write_text(f"{time.time() - 1:.0f}\n")
    elif fault == "no key":
        (folder(one) / "server.key").unlink()
    elif fault == "no folders":
        shutil.rmtree(folder(one))
        folder(one).write_text("")
        folder(one).with_suffix(".new").symlink_to(folder(one).parent)
    else:
        folder(one).rename(folder(one).with_suffix(".new"))
        (folder(one).with_suffix(".new") / "server.crt").write_text("-----BEGIN")
    mark = one.mark()
    one.start()
    one.wait_for_state("awake", since=mark)
    with connect(one, "verify-full"):
        assert kept(one)["server.crt"] != made["server.crt"]
    assert [path.name for path in folder(one).parent.iterdir() if path.name.startswith("tls")] == ["tls"]


def test_a_first_start_has_it_too(with_tls: Installation, launch: Launch, place: Place) -> None:
    env = {"POSTGRES_HOST_AUTH_METHOD": "trust", "FLY_APP_NAME": "shop-db"}
    more = {"data_dir": place.folder(), "socket_dir": str(place.folder()), "env": env}
    one = launch(with_tls, **SELF_SIGNED, **more)
    one.wait_for_state("awake", timeout=60)
    # What a client calls the server and what it connects to are two things.
    with connect(one, "verify-full", host="shop-db.flycast", hostaddr="127.0.0.1") as connection:
        assert connection.execute(OVER_TLS).fetchone() == (True, "TLSv1.3")
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        connect(one, "verify-full", host="another.example", hostaddr="127.0.0.1")
    with connect(one, "verify-ca", host="another.example", hostaddr="127.0.0.1"):
        pass


def test_an_own_certificate_passes_through_and_is_not_hidden(with_tls: Installation, launch: Launch) -> None:
    one = launch(with_tls, start=False, when_idle="stay", idle_timeout="off")
    files = ("-keyout", str(one.data_dir / "own.key"), "-out", str(one.data_dir / "own.crt"))
    run_as_server("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=own", *files)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write("ssl = on\nssl_cert_file = 'own.crt'\nssl_key_file = 'own.key'\n")
    one.start()
    one.wait_for_state("awake")
    with psycopg.connect(
        one.conninfo(sslmode="verify-ca", sslrootcert=str(one.data_dir / "own.crt"))
    ) as connection:
        assert connection.execute(OVER_TLS).fetchone() == (True, "TLSv1.3")
    assert not folder(one).exists()
    assert one.stop() == 0
    one = launch(with_tls, data_dir=one.data_dir, **SELF_SIGNED)
    line = refused(one, 2)
    assert "already has ssl = on, with own.crt: leave --tls out, or set ssl = off there" in line
    assert not folder(one).exists()


def test_a_postgres_without_tls_is_refused(launch: Launch) -> None:
    found = embedded()
    if found is None or b"SSL_CTX_new" in (found.bin_dir / "postgres").read_bytes():
        pytest.skip("no PostgreSQL without TLS here")
    one = launch(found, **SELF_SIGNED)
    line = refused(one, 1)
    assert line == (
        f"pgidle: --tls self-signed: {found.program('postgres')} was built without TLS:"
        " install a PostgreSQL that has it (Debian's has), or leave --tls out"
    )
    assert not folder(one).exists()


def test_without_openssl_it_says_what_to_install(with_tls: Installation, launch: Launch) -> None:
    one = launch(with_tls, **SELF_SIGNED, env={"PATH": "/nonexistent"})
    assert "is not on PATH: install it (Debian: apt-get install openssl)" in refused(one, 1)
    assert [path.name for path in folder(one).parent.iterdir() if path.name.startswith("tls")] == []


@pytest.fixture
def asleep(with_tls: Installation, launch: Launch) -> Supervised:
    one = launch(with_tls, **SELF_SIGNED)
    one.wait_for_state("asleep")
    return one


def test_a_cancel_request_over_tls(asleep: Supervised) -> None:
    with connect(asleep, "require") as connection:
        waiting = threading.Thread(target=_cancel_when_busy, args=(asleep, connection))
        waiting.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")
        waiting.join()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def _cancel_when_busy(one: Supervised, connection: psycopg.Connection) -> None:
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    with connect(one, "require") as other:
        wait_until(lambda: other.execute(busy).fetchone() == (1,))
    # Since libpq 17 encrypted as the session is.
    connection.cancel_safe(timeout=30)


def test_a_client_that_waited_may_ask_for_gssapi_encryption(asleep: Supervised) -> None:
    """As libpq does first where it has a Kerberos ticket."""
    with socket.create_connection(("127.0.0.1", asleep.port), timeout=30) as client:
        client.sendall(GSSENC_REQUEST)
        # G: it may come; N: this Postgres was built without. Either is Postgres's own answer.
        assert client.recv(1) in (b"G", b"N")

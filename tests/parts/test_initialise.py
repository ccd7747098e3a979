"""The first start on real installations: what it makes."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.initialising import (
    MAKE,
    PASSWORD,
    PATIENCE,
    QUICK,
    SUPERUSER,
    begin,
    initialise,
    over_tcp,
    script,
    served,
    state,
)
from harness.installations import run_as_server, server_user
from pgidle.postgres.data_directory import DataDirState

if TYPE_CHECKING:
    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: is another user than Postgres's")


@pytest.mark.parametrize("user", ["postgres", "the app"])
def test_what_is_made(installation: Installation, place: Place, user: str) -> None:
    data_dir = place.folder()
    database = 'my "shop"'
    names = {"POSTGRES_USER": user, "POSTGRES_DB": database}
    assert initialise(installation, data_dir, {**PASSWORD, **QUICK, **names}) == ""
    assert state(data_dir) is DataDirState.READY
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert not data_dir.joinpath("pgidle/initdb").exists()
    secret = {"user": user, "password": PASSWORD["POSTGRES_PASSWORD"]}
    with served(installation, data_dir, place) as where:
        assert over_tcp(where, dbname=database, **secret) == [(user, database, "UTF8")]
        with pytest.raises(psycopg.OperationalError, match="no password"):
            over_tcp(where, dbname=database, user=user)
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            over_tcp(where, dbname=database, user=user, password="guess")
        # The supervisor watches like this: as the user that runs Postgres, through the socket.
        whoami = (
            "-h",
            where["sockets"],
            "-p",
            where["port"],
            "-U",
            user,
            "-d",
            "postgres",
            "-Atc",
            "select 1",
        )
        assert run_as_server(installation.program("psql"), *whoami).stdout == "1\n"
        if os.getuid() == 0:
            with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
                psycopg.connect(host=where["sockets"], port=where["port"], user=user, dbname="postgres")
    hba = data_dir.joinpath("pg_hba.conf").read_text()
    assert not re.search(r"^[^#]*\btrust\b", hba, re.MULTILINE)
    assert hba.endswith("\nhost all all all scram-sha-256\n")


def test_people_still_log_in_locally_as_themselves(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    assert initialise(newest, data_dir, {**PASSWORD, **QUICK, "POSTGRES_USER": "app"}) == ""
    own = server_user().pw_name
    with served(newest, data_dir, place) as where:
        with psycopg.connect(
            host="127.0.0.1",
            port=where["port"],
            user="app",
            password=PASSWORD["POSTGRES_PASSWORD"],
            autocommit=True,
        ) as connection:
            connection.execute(f'create role "{own}" login')
        for arguments in (("-U", own), ("-U", "app")):
            address = (
                "-h",
                where["sockets"],
                "-p",
                where["port"],
                "-d",
                "app",
                "-Atc",
                "select current_user",
            )
            shown = run_as_server(newest.program("psql"), *arguments, *address).stdout
            assert shown.strip() == arguments[1]


def test_trust_is_trust_when_asked_for(installation: Installation, place: Place) -> None:
    data_dir = place.folder()
    assert initialise(installation, data_dir, {**QUICK, "POSTGRES_HOST_AUTH_METHOD": "trust"}) == ""
    with served(installation, data_dir, place) as where:
        assert over_tcp(where, user="postgres", dbname="postgres") == [("postgres", "postgres", "UTF8")]
    assert data_dir.joinpath("pg_hba.conf").read_text().endswith("\nhost all all all trust\n")


@pytest.mark.parametrize(
    ("environ", "loopback", "everywhere"),
    [
        ({"POSTGRES_HOST_AUTH_METHOD": "md5"}, "md5", "md5"),
        ({"POSTGRES_HOST_AUTH_METHOD": "reject"}, "scram-sha-256", "reject"),
        ({"POSTGRES_HOST_AUTH_METHOD": "cert map=x"}, "scram-sha-256", "cert map=x"),
        ({"POSTGRES_INITDB_ARGS": "-N --auth-host=md5"}, "md5", "md5"),
    ],
)
def test_the_methods_of_hosts(
    newest: Installation, place: Place, environ: dict[str, str], loopback: str, everywhere: str
) -> None:
    data_dir = place.folder()
    assert initialise(newest, data_dir, {**PASSWORD, **QUICK, **environ}) == ""
    hba = data_dir.joinpath("pg_hba.conf").read_text()
    assert re.search(rf"^host\s+all\s+all\s+127\.0\.0\.1/32\s+{loopback}$", hba, re.MULTILINE)
    assert hba.endswith(f"\nhost all all all {everywhere}\n")


def test_initdb_args_win(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    wanted = {"POSTGRES_INITDB_ARGS": "-N --encoding=LATIN1 --locale=C --allow-group-access"}
    assert initialise(newest, data_dir, {**PASSWORD, **wanted}) == ""
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o750
    with served(newest, data_dir, place) as where:
        assert over_tcp(where, **SUPERUSER)[0][2] == "LATIN1"


def test_the_images_script_is_used_where_it_is(installation: Installation, place: Place) -> None:
    data_dir, secret = place.folder(), place.folder() / "secret"
    secret.write_text("from a file\n")
    # As a secret is: root's alone.
    secret.chmod(0o400)
    environ = {
        **QUICK,
        "POSTGRES_PASSWORD_FILE": str(secret),
        "POSTGRES_USER": "app",
        "SOCKETS": str(place.folder("s")),
    }
    path = script(place, installation, f"{MAKE}\npg_ctl -w stop")
    said = begin(installation, data_dir, environ, path=path).communicate(timeout=PATIENCE)[1]
    assert "noise" in said
    assert state(data_dir) is DataDirState.READY
    assert f"hba_file = '{data_dir}/pg_hba.conf'" in data_dir.joinpath("postgresql.conf").read_text()
    with served(installation, data_dir, place) as where:
        query = (
            "-h",
            where["sockets"],
            "-p",
            where["port"],
            "-U",
            "app",
            "-d",
            "postgres",
            "-Atc",
            "table made",
        )
        assert run_as_server(installation.program("psql"), *query).stdout == ""

"""What `start_check` says of a set-up, beside what Postgres does when it is really started with it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from installations import debian, run_as_server, server_user
from postgres_fixture import Cluster

import pgidle
from pgidle.start_check import make_scratch
from pgidle.start_trial import PROGRAM
from pgidle.startable import Startable, StartResult

if TYPE_CHECKING:
    from installations import Installation, Place

YES, NO = Startable.YES, Startable.NO


@dataclass(frozen=True, slots=True)
class Setup:
    """Files as an administrator left them. `files` are appended to, or made. `says` is part of the reason.

    `since`: the first major version that is meant.
    """

    name: str
    startable: Startable
    conf: str = ""
    hba: str = ""
    says: str = ""
    files: dict[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    since: int = 0

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


SETUPS = (
    Setup("as initdb made it", YES),
    # Errors that only a reload, or a view, complains of
    Setup("hostssl without ssl", YES, hba="hostssl all all 10.0.0.0/8 scram-sha-256"),
    Setup("hostgssenc without gss", YES, hba="hostgssenc all all 10.0.0.0/8 trust"),
    Setup(
        "a text search configuration of another database", YES, conf="default_text_search_config = 'my.own'"
    ),
    Setup("a tablespace of another database", YES, conf="default_tablespace = 'elsewhere'"),
    Setup("a table access method of another database", YES, conf="default_table_access_method = 'columnar'"),
    Setup("an unknown setting of a library", YES, conf="pg_stat_statements.no_such = 1\nmine.own = 2"),
    Setup(
        "an unknown setting of a preloaded library",
        YES,
        conf="shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.no_such = 1",
    ),
    Setup("a session library that is missing", YES, conf="session_preload_libraries = 'no_such'"),
    Setup("a folder of libraries that is missing", YES, conf="dynamic_library_path = '/no/such:$libdir'"),
    Setup("a pid file that cannot be written", YES, conf="external_pid_file = '/no/such/pid'"),
    Setup("an invalid pg_ident.conf", YES, files={"pg_ident.conf": '\nmap "unfinished\n'}),
    Setup("a map that is missing", YES, hba="local all all peer map=none"),
    Setup("an include_if_exists that does not", YES, conf="include_if_exists 'no_such.conf'"),
    Setup("an empty include_dir", YES, conf="include_dir 'pg_twophase'"),
    Setup("a log folder that the collector makes", YES, conf="logging_collector = on\nlog_directory = 'new'"),
    Setup("a log folder that nobody uses", YES, conf="log_directory = '/no/such/folder'"),
    Setup(
        "a library that is there", YES, conf="shared_preload_libraries = 'auto_explain, pg_stat_statements'"
    ),
    Setup("no preloaded library", YES, conf="shared_preload_libraries = ''"),
    Setup("no certificate and no ssl", YES, conf="ssl_cert_file = '/no/such'"),
    Setup("many connections", YES, conf="max_connections = 3000\nmax_worker_processes = 100"),
    Setup("connections that are reserved", YES, conf="reserved_connections = 50", since=16),
    Setup("archive_command fails", YES, conf="archive_mode = on\narchive_command = 'false'"),
    # A reload complains, and goes on with what it had
    Setup("an unknown setting", NO, conf="no_such_setting = 1", says="no_such_setting"),
    Setup("a wrong value", NO, conf="work_mem = 'lots'", says="work_mem"),
    Setup("a wrong value that the command line overrides", NO, conf="port = 'x'", says="port"),
    Setup(
        "one of two socket folders", NO, conf="unix_socket_directories = '/tmp, /no/such'", says="/no/such"
    ),
    Setup("a value out of range", NO, conf="work_mem = 1", says="work_mem"),
    Setup("a syntax error", NO, conf="work_mem = = 3", says="syntax error"),
    Setup(
        "a syntax error of ALTER SYSTEM's file", NO, files={"postgresql.auto.conf": "x y z\n"}, says="syntax"
    ),
    Setup("a missing include", NO, conf="include 'no_such.conf'", says="no_such.conf"),
    Setup("a missing include_dir", NO, conf="include_dir 'no_such'", says="no_such"),
    Setup("a locale that is missing", NO, conf="lc_messages = 'xx_XX.UTF-8'", says="lc_messages"),
    Setup("a time zone that is missing", NO, conf="timezone = 'Mars/Olympus'", says="TimeZone"),
    Setup("a misspelt method", NO, hba="host all all 10.0.0.0/8 scram", says="scram"),
    Setup("an unknown option", NO, hba="host all all 10.0.0.0/8 trust no=1", says="no"),
    Setup("an invalid address", NO, hba="host all all 10.0.0.0/99 trust", says="10.0.0.0/99"),
    Setup("an unfinished record", NO, hba="host all", says="pg_hba.conf"),
    Setup("peer over TCP", NO, hba="host all all 10.0.0.0/8 peer", says="peer"),
    Setup("no pg_hba.conf", NO, gone=("pg_hba.conf",), says="pg_hba.conf"),
    Setup(
        "an invalid regular expression", NO, hba='host all "/(" 10.0.0.0/8 trust', says="regular", since=16
    ),
    Setup("a missing include of pg_hba.conf", NO, hba="include no_such", says="no_such", since=16),
    # Read at a start alone: nobody says a word
    Setup("more memory than there is", NO, conf="shared_buffers = 7TB", says="memory"),
    Setup("a library that is missing", NO, conf="shared_preload_libraries = 'no_such'", says="no_such"),
    Setup(
        "one of several libraries",
        NO,
        conf="shared_preload_libraries = 'auto_explain, /no/such.so'",
        says="no/such",
    ),
    Setup("no connection for others", NO, conf="max_connections = 3", says="must be less than"),
    Setup("no WAL for an archive", NO, conf="wal_level = minimal\narchive_mode = on", says="wal_level"),
    Setup("no WAL for replicas", NO, conf="wal_level = minimal", says="wal_level"),
    Setup("ssl without a certificate", NO, conf="ssl = on", says=""),
    Setup("another data directory", NO, conf="data_directory = '/no/such'", says="/no/such"),
    Setup("no socket folder", NO, conf="unix_socket_directories = '/no/such'", says="/no/such"),
    Setup(
        "a log folder that cannot be made",
        NO,
        conf="logging_collector = on\nlog_directory = '/no/such/folder'",
        says="/no/such/folder",
    ),
    Setup("huge pages that are not there", NO, conf="huge_pages = on", says="huge", since=15),
    Setup("pg_hba.conf elsewhere", NO, conf="hba_file = '/no/such/pg_hba.conf'", says="/no/such/pg_hba.conf"),
)


def make(setup: Setup, data_dir: Path) -> None:
    for name, text in {"postgresql.conf": setup.conf, "pg_hba.conf": setup.hba, **setup.files}.items():
        with (data_dir / name).open("a") as file:
            file.write(f"{text}\n")
        shutil.chown(data_dir / name, server_user().pw_uid)
    for name in setup.gone:
        (data_dir / name).unlink()


def check(installation: Installation, data_dir: Path) -> StartResult:
    command = (installation.program("postgres"), "-D", str(data_dir), "-p", "5432", "-c", "listen_addresses=")
    own = data_dir / "pgidle"
    own.mkdir(exist_ok=True)
    shutil.chown(own, server_user().pw_uid)
    question = (str(installation.major), str(data_dir), str(own), *command)
    package = str(Path(pgidle.__file__).parents[1])
    said = run_as_server(sys.executable, "-I", "-S", "-c", PROGRAM, package, *question)
    startable, _, reason = said.stdout.partition(" ")
    assert said.stderr == ""
    assert list(own.iterdir()) == []
    return StartResult(Startable(startable), reason)


def starts(installation: Installation, data_dir: Path) -> bool:
    with Cluster(installation.bin_dir, data_dir) as cluster:
        try:
            cluster.start({"listen_addresses": ""})
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_it_says_what_a_start_does(installation: Installation, place: Place, setup: Setup) -> None:
    if installation.major < setup.since:
        pytest.skip(f"PostgreSQL {installation.major} has none of that")
    data_dir = place.data_dir(installation)
    make(setup, data_dir)
    found = check(installation, data_dir)
    truth = YES if starts(installation, data_dir) else NO
    assert (truth, found.startable) == (setup.startable, setup.startable), found
    assert setup.says in found.reason
    assert bool(found.reason) == (found.startable is not YES)
    assert "\n" not in found.reason


@pytest.mark.parametrize(
    ("where", "mode", "startable"),
    [("", 0o600, YES), ("certs/", 0o600, YES), ("", 0o644, NO), ("", 0o000, NO)],
)
def test_a_key_beside_the_data(place: Place, where: str, mode: int, startable: Startable) -> None:
    """Paths that are relative count from the data directory."""
    installation = debian()
    if installation is None or shutil.which("openssl") is None:
        pytest.skip("no PostgreSQL with TLS in /usr/lib/postgresql, or no openssl")
    data_dir = place.data_dir(installation)
    run_as_server("mkdir", "-p", data_dir / where)
    run_as_server(
        *("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=x"),
        *("-keyout", data_dir / f"{where}server.key", "-out", data_dir / f"{where}server.crt"),
    )
    (data_dir / f"{where}server.key").chmod(mode)
    conf = f"ssl = on\nssl_cert_file = '{where}server.crt'\nssl_key_file = '{where}server.key'"
    make(Setup("", startable, conf=conf), data_dir)
    found = check(installation, data_dir)
    assert (found.startable, starts(installation, data_dir)) == (startable, startable is YES), found
    assert "server.key" in found.reason or startable is YES


def test_what_another_trial_left(newest: Installation, place: Place) -> None:
    """It was killed; or somebody put there what is none, and what it leads to stays as it is."""
    data_dir, other = place.data_dir(newest), place.folder()
    (other / "kept").touch()
    scratch = data_dir / "pgidle/start-check"
    scratch.mkdir(parents=True)
    (scratch / "global").mkdir()
    (scratch / "link").symlink_to(other)
    shutil.chown(data_dir / "pgidle", server_user().pw_uid)
    for path in (scratch, scratch / "global"):
        shutil.chown(path, server_user().pw_uid)
    assert check(newest, data_dir).startable is YES
    scratch.symlink_to(other)
    assert check(newest, data_dir).startable is YES
    assert (other / "kept").exists()


def test_the_socket_of_the_server_that_runs_is_in_nobodys_way(newest: Installation, place: Place) -> None:
    data_dir, scratch = place.data_dir(newest), place.folder() / "scratch"
    for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
        (data_dir / name).touch()
    make_scratch(str(data_dir), str(scratch))
    assert (scratch / "postgresql.conf").exists()
    assert not list(scratch.glob(".s.PGSQL.*"))

"""What `start_check` says of a set-up, beside what Postgres does when it is really started with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgidle
from harness.installations import debian, run_as_server, server_user
from harness.postgres_fixture import Cluster
from pgidle.idle.start_result import Startable, StartResult
from pgidle.postgres.start_trial import PROGRAM

if TYPE_CHECKING:
    from harness.installations import Installation, Place

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


def check(installation: Installation, data_dir: Path, *capabilities: str, prepared: int = 0) -> StartResult:
    """`capabilities`: what the user has besides, as setpriv(1) names them; takes root."""
    postgres = (
        installation.program("postgres"),
        "-D",
        str(data_dir),
        "-p",
        "5432",
        "-c",
        "listen_addresses=",
    )
    own = data_dir / "pgidle"
    own.mkdir(exist_ok=True)
    shutil.chown(own, server_user().pw_uid)
    question = (str(installation.major), str(prepared), str(data_dir), str(own), *postgres)
    package = str(Path(pgidle.__file__).parents[1])
    command = (sys.executable, "-I", "-S", "-c", PROGRAM, package, *question)
    if capabilities:
        user, given = server_user(), ",".join(f"+{one}" for one in capabilities)
        who = ("--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups")
        command = ("setpriv", *who, "--inh-caps", given, "--ambient-caps", given, *command)
        said = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    else:
        said = run_as_server(*command)
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
    [("", 0o600, YES), ("certs/", 0o600, YES), ("pg_tls/", 0o600, YES), ("", 0o644, NO), ("", 0o000, NO)],
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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a capability")
@pytest.mark.parametrize("setup", [Setup("right", YES), Setup("wrong", NO, hba="host all")], ids=str)
def test_a_user_whom_no_limit_of_processes_binds(
    installation: Installation, place: Place, setup: Setup
) -> None:
    data_dir = place.data_dir(installation)
    make(setup, data_dir)
    found = check(installation, data_dir, "sys_admin")
    assert found.startable is setup.startable, found


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


PREPARED = ("CREATE TABLE t (a int)", "BEGIN", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'left'")
PHYSICAL = "SELECT pg_create_physical_replication_slot('standby')"
LOGICAL = "SELECT pg_create_logical_replication_slot('sub', 'test_decoding')"
TEMPORARY = "SELECT pg_create_physical_replication_slot('gone', true, true)"
ORIGINS = tuple(
    f"SELECT pg_replication_origin_{statement}"
    for name in ("one", "two")
    for statement in (f"create('{name}')", f"advance('{name}', '0/1000000')")
)


@pytest.mark.parametrize(
    ("left", "conf", "says"),
    [
        (PREPARED, "max_prepared_transactions = 0", "max_prepared_transactions"),
        (PREPARED, "max_prepared_transactions = 1", ""),
        ((PHYSICAL, LOGICAL), "max_replication_slots = 1", "max_replication_slots"),
        ((PHYSICAL,), "max_replication_slots = 0", "max_replication_slots"),
        ((PHYSICAL, LOGICAL), "max_replication_slots = 2", ""),
        ((PHYSICAL, TEMPORARY), "max_replication_slots = 1", ""),
        ((LOGICAL,), "wal_level = replica", "sub"),
        ((PHYSICAL,), "wal_level = replica", ""),
        ((PHYSICAL,), "wal_level = minimal\nmax_wal_senders = 0", "minimal"),
        ((), "wal_level = minimal\nmax_wal_senders = 0", ""),
        (ORIGINS, "max_replication_slots = 1\nmax_active_replication_origins = 1", "origins"),
        (ORIGINS, "max_replication_slots = 2\nmax_active_replication_origins = 2", ""),
        (ORIGINS, "max_replication_slots = 0\nmax_active_replication_origins = 0", ""),
    ],
)
def test_what_a_start_has_to_restore(
    installation: Installation, place: Place, left: tuple[str, ...], conf: str, says: str
) -> None:
    """A value that waits for a restart may leave no room for it, and nothing says so while Postgres runs."""
    data_dir = place.data_dir(installation)
    if installation.major < 18:
        conf = "\n".join(line for line in conf.splitlines() if "origins" not in line)
    with Cluster(installation.bin_dir, data_dir) as cluster:
        cluster.start({"wal_level": "logical", "max_prepared_transactions": "2"})
        with cluster.connect() as connection:
            for statement in left:
                connection.execute(statement)
            connection.execute("CHECKPOINT")
            # The last line counts.
            make(Setup("", YES, conf=f"wal_level = logical\n{conf}"), data_dir)
            found = check(installation, data_dir, prepared=left.count(PREPARED[-1]))
    truth = YES if starts(installation, data_dir) else NO
    assert (truth, found.startable) == ((NO, NO) if says else (YES, YES)), found
    assert says in found.reason

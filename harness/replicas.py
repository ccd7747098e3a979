"""A primary and its standby on another machine, made with pg_basebackup and connected by streaming replication.

with two_machines() as (here, there):
    primary = launch(installation, **PRIMARY)
    open_to_the_network(primary.data_dir)
    data_dir = copy_of(primary, here, there, place, slot="standby")
    with standby_on(there, ...) as standby: ...
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg

from harness.installations import conninfo, run_as_server
from harness.machines import NETWORK
from harness.postgres_fixture import Cluster, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psycopg.abc import ConnParam

    from harness.installations import Installation, Place
    from harness.machines import Machine

# A standby that lost its primary tries again after five seconds by default (wal_retrieve_retry_interval).
RETRY = "500ms"

CONF = f"""
wal_level = logical
wal_retrieve_retry_interval = {RETRY}
"""


def primary_data_dir(installation: Installation, place: Place) -> Path:
    """A data directory whose server serves everybody on the test's network, replicas included."""
    data_dir = place.data_dir(installation)
    with (data_dir / "pg_hba.conf").open("a") as hba:
        hba.write(f"host all,replication all {NETWORK} trust\n")
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write(CONF)
    return data_dir


def copy(
    installation: Installation, place: Place, machine: Machine, primary: str, slot: str, *more: str
) -> Path:
    """What pg_basebackup, run on a machine, makes of a primary (a connection string): a standby's data directory.

    The slot is also the standby's application_name. Raises CalledProcessError.
    """
    data_dir = place.folder("standby")
    with machine.entered():
        run_as_server(
            installation.client_program("pg_basebackup"),
            *("-d", f"{primary} application_name={slot}", "-D", data_dir, "-X", "stream", "-c", "fast"),
            *("--create-slot", f"--slot={slot}", *more),
        )
    # As pg_basebackup -R does, but a new one writes options that an old server does not know.
    with (data_dir / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"primary_conninfo = '{primary} application_name={slot}'\nprimary_slot_name = '{slot}'\n")
    (data_dir / "standby.signal").touch()
    return data_dir


@contextlib.contextmanager
def standby_on(machine: Machine, installation: Installation, data_dir: Path) -> Iterator[Cluster]:
    """A standby without pgidle."""
    with Cluster(installation.bin_dir, data_dir) as cluster:
        with machine.entered():
            cluster.start({"listen_addresses": machine.address})
        yield cluster


def reach(machine: Machine, port: int, **more: ConnParam) -> str:
    """How one machine connects to a server of another."""
    return conninfo(port, **({"host": machine.address} | more))


def ask(conninfo: str, statement: str) -> Any:
    """The first value that a new session gets."""
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=30) as connection:
        row = connection.execute(statement).fetchone() if statement else None
        return row[0] if row else None


def do(conninfo: str, *statements: str) -> None:
    """Each in a transaction of its own, all in one new session."""
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=30) as connection:
        for statement in statements:
            connection.execute(statement)


def caught_up(standby: Cluster, statement: str, value: object) -> None:
    """Wait until a query on a standby has this answer."""

    def seen() -> object:
        with standby.connect() as connection:
            row = connection.execute(statement).fetchone()
            return row[0] if row else None

    wait_until(lambda: seen() == value, lambda: f"the standby has {seen()}; {standby.log[-2000:]}")

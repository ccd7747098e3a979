"""Clients as people use them, unmodified: served asleep and awake, and what they do when sleep cuts them.

`scripts/clients --install` brings most of them; the others are Debian packages.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from harness.installations import debian
from harness.real_clients import CLIENTS, Host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Place
    from harness.real_clients import RealClient

pytestmark = pytest.mark.heavy

BY_NAME = {client.name: client for client in CLIENTS}


@pytest.fixture(scope="module")
def host(place: Place) -> Iterator[Host]:
    found = debian()
    if found is None or not shutil.which("openssl"):
        pytest.skip("no PostgreSQL with TLS in /usr/lib/postgresql, or no openssl")
    with Host(found, place) as host:
        yield host


def needed(name: str) -> RealClient:
    client = BY_NAME[name]
    if not client.is_there():
        pytest.skip(f"{name} is not here: {client.install}")
    return client


@pytest.mark.parametrize("name", BY_NAME)
def test_a_real_client_is_served_asleep_and_awake(host: Host, name: str) -> None:
    client = needed(name)
    # `scripts/clients` tries them all, awake too; without TLS is what every other test is.
    for sslmode in ("require", "verify-full"):
        host.sleep()
        assert host.seen(client, sslmode) is None, f"asleep, {sslmode}"
    assert host.seen(client, "require") is None, "awake"


def across_a_sleep(host: Host, name: str, action: str) -> tuple[int, list[str]]:
    """The exit status of a client whose pooled connection was cut, and what its next two queries came to."""
    with host.pooled(needed(name), action, "require") as process:
        host.sleep()
        output, _ = process.communicate("go on\n", timeout=60)
        return process.returncode, [line.partition(" ")[0] for line in output.splitlines()]


ONE_ERROR = (0, ["error", "ok"])
NO_ERROR = (0, ["ok", "ok"])


@pytest.mark.parametrize(
    ("name", "action", "expected"),
    [
        ("psycopg", "pool", ONE_ERROR),
        ("psycopg", "checked", NO_ERROR),
        ("asyncpg", "pool", NO_ERROR),
        ("SQLAlchemy", "pool", ONE_ERROR),
        ("SQLAlchemy", "checked", NO_ERROR),
        ("Django", "pool", ONE_ERROR),
        ("Django", "checked", NO_ERROR),
        ("node-postgres", "checked", NO_ERROR),
        ("postgres.js", "pool", NO_ERROR),
        ("JDBC (pgjdbc)", "checked", NO_ERROR),
    ],
)
def test_what_a_pool_does_when_sleep_cut_its_connection(
    host: Host, name: str, action: str, expected: tuple[int, list[str]]
) -> None:
    """docs/clients.md tells users what to set, and this is why."""
    assert across_a_sleep(host, name, action) == expected


def test_a_pool_of_node_postgres_without_an_error_listener_ends_its_program(host: Host) -> None:
    status, said = across_a_sleep(host, "node-postgres", "pool")
    assert (status != 0, said) == (True, [])

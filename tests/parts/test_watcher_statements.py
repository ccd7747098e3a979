"""What a look at a real server sees of statements, and uses that consist in an ignored one."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from harness.postgres_fixture import Cluster, wait_until
from harness.watch import Watch, active, watching
from pgidle.base.record import replace as changed
from pgidle.idle.reasons import Signal
from pgidle.settings.options import WHOLE_BELOW, Ignore, IgnoreField

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from harness.installations import Installation, Place
    from pgidle.idle.snapshot import Session

IGNORED = Ignore(IgnoreField.STATEMENT, "select 1;")


@pytest.fixture
def ignoring(watch: Watch) -> Watch:
    watch.settings = changed(watch.settings, ignore=(IGNORED,))
    return watch


@pytest.fixture
def poller(shared_cluster: Cluster, ignoring: Watch) -> Iterator[psycopg.Connection[Any]]:
    """A session over TCP whose use in asking the ignored statement is known already."""
    with shared_cluster.connect(host="127.0.0.1", application_name="poller") as client:
        ignoring.settle()
        client.execute("SELECT 1")
        assert counts(ignoring)
        yield client


def counts(watch: Watch) -> bool:
    """Whether the next look shows a use."""
    before = watch.last_activity
    verdict = watch.judge()
    return bool(active(verdict)) or watch.last_activity > before


def only(watch: Watch) -> Session:
    (session,) = watch.see().clients
    return session


def test_the_last_statement_is_seen(shared_cluster: Cluster, watch: Watch) -> None:
    long = f"SELECT '{'x' * (WHOLE_BELOW - 9)}'"
    with shared_cluster.connect() as client:
        for statement, is_whole in (("SELECT 1", True), (long[:-2] + "'", True), (long, False)):
            client.execute(statement.encode())
            assert (only(watch).statement, only(watch).is_whole) == (statement, is_whole)
        client.execute(f"SELECT '{'x' * 1100}'".encode())
        assert not only(watch).is_whole


def test_a_statement_in_another_encoding_is_not_asked_for(shared_cluster: Cluster, watch: Watch) -> None:
    with shared_cluster.connect() as client:
        client.execute(
            "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
    with shared_cluster.connect(dbname="latin") as client:
        client.execute("SELECT 'm\u00fcller'")
        assert only(watch).statement == ""
    with shared_cluster.connect() as client:
        client.execute("DROP DATABASE latin")


def test_what_a_connection_received_is_known_where_a_statement_is_ignored(
    shared_cluster: Cluster, watch: Watch
) -> None:
    with shared_cluster.connect(host="127.0.0.1") as client:
        assert only(watch).received is None
        watch.settings = changed(watch.settings, ignore=(IGNORED,))
        before = only(watch).received
        assert before
        client.execute(b"SELECT 1")
        after = only(watch).received
        assert after
        assert after[0] == after[1]
        assert after[0].segments == before[1].segments + 1
        assert after[0].octets > before[1].octets
    with shared_cluster.connect() as client:
        assert only(watch).received is None


def test_the_ignored_statement_puts_off_sleep_for_a_moment(
    ignoring: Watch, poller: psycopg.Connection[Any]
) -> None:
    def is_put_off() -> bool:
        poller.execute("SELECT 1")
        verdict = ignoring.judge(**short)
        return not verdict.idle and Signal.IGNORED_STATEMENT in {one.signal for one in verdict.reasons}

    short = {"idle_timeout": 0.001, "min_awake": 0.0}
    wait_until(is_put_off)
    used = ignoring.last_activity
    wait_until(lambda: ignoring.judge(**short).idle)
    assert ignoring.last_activity == used


def test_the_ignored_statement_alone_does_not_count(ignoring: Watch, poller: psycopg.Connection[Any]) -> None:
    for statement in (b"SELECT 1", b"select 1", b"SELECT 1"):
        poller.execute(statement)
        assert not counts(ignoring)
    assert not counts(ignoring)


@pytest.mark.parametrize(
    "statements",
    [
        ("SELECT 2",),
        ("CREATE TEMPORARY TABLE t ()", "SELECT 1"),
        ("SELECT 1", "SELECT 1"),
        ("BEGIN", "SELECT 1", "COMMIT"),
        ("SELECT 1; SELECT 2",),
    ],
    ids=str,
)
def test_anything_else_counts(
    ignoring: Watch, poller: psycopg.Connection[Any], statements: tuple[str, ...]
) -> None:
    for statement in statements:
        poller.execute(statement.encode())
    assert counts(ignoring)


def test_a_transaction_that_asked_it_is_active(ignoring: Watch, poller: psycopg.Connection[Any]) -> None:
    poller.execute("BEGIN")
    poller.execute("SELECT 1")
    for _ in range(3):
        assert active(ignoring.judge())


def test_a_pipelined_statement_before_it_counts(ignoring: Watch, poller: psycopg.Connection[Any]) -> None:
    """Both in one packet: then it is longer."""
    with poller.pipeline():
        poller.execute("SELECT set_config('a.b', 'c', false)")
        poller.execute("SELECT 1")
    assert counts(ignoring)


def test_a_far_end_that_is_connected_twice_counts(newest: Installation, place: Place) -> None:
    """To two addresses of the server: which connection belongs to which session is not known."""
    words = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0\0"
    begins = struct.pack("!I", 4 + len(words)) + words
    asks = b"Q" + struct.pack("!I", 13) + b"SELECT 1\0"

    def send(raw: socket.socket, message: bytes) -> None:
        raw.sendall(message)
        said = b""
        while not said.endswith(b"Z\0\0\0\5I"):
            said += raw.recv(4096)

    with Cluster(newest.bin_dir, place.data_dir(newest)) as cluster, ExitStack() as open_until_then:
        cluster.stop()
        cluster.start({"listen_addresses": "127.0.0.1,127.0.0.2"})
        both = [open_until_then.enter_context(socket.socket()) for _ in range(2)]
        watch = open_until_then.enter_context(watching(cluster))
        watch.settings = changed(watch.settings, ignore=(IGNORED,))
        for one in both:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        both[0].bind(("127.0.0.1", 0))
        both[1].bind(both[0].getsockname())
        both[0].connect(("127.0.0.1", cluster.port))
        send(both[0], begins)
        watch.settle()
        both[1].connect(("127.0.0.2", cluster.port))
        assert Signal.CONNECTING in {one.signal for one in active(watch.judge())}
        send(both[1], begins)
        watch.settle()
        assert {one.received for one in watch.see().clients} == {None}
        for _ in range(3):
            for one in both:
                send(one, asks)
                assert counts(watch)


def test_a_fastpath_call_counts(shared_cluster: Cluster, ignoring: Watch) -> None:
    """It leaves the last statement as it was."""
    with shared_cluster.connect() as client:
        row = client.execute("SELECT 'pg_catalog.pg_backend_pid()'::regprocedure::oid::int8").fetchone()
    assert row
    words = b"user\0postgres\0database\0postgres\0\0"
    asks = b"Q" + struct.pack("!I", 13) + b"SELECT 1\0"
    calls = b"F" + struct.pack("!IIHHH", 14, row[0], 0, 0, 0)
    with socket.create_connection(("127.0.0.1", shared_cluster.port), 30) as raw:

        def send(message: bytes) -> None:
            raw.sendall(message)
            said = b""
            while not said.endswith(b"Z\0\0\0\5I"):
                said += raw.recv(4096)

        send(struct.pack("!II", 8 + len(words), 196608) + words)
        ignoring.settle()
        send(asks)
        assert counts(ignoring)
        send(asks)
        assert not counts(ignoring)
        send(calls)
        assert only(ignoring).statement == "SELECT 1"
        assert counts(ignoring)


def test_a_session_that_came_for_it_alone_counts(shared_cluster: Cluster, ignoring: Watch) -> None:
    with shared_cluster.connect(host="127.0.0.1") as client:
        client.execute(b"SELECT 1")
        assert Signal.NEW_SESSION in {reason.signal for reason in active(ignoring.judge())}
    wait_until(lambda: Signal.VANISHED_SESSION in {reason.signal for reason in active(ignoring.judge())})


def test_over_the_unix_socket_it_counts(shared_cluster: Cluster, ignoring: Watch) -> None:
    """There, nothing tells what else came."""
    with shared_cluster.connect() as client:
        ignoring.settle()
        for _ in range(3):
            client.execute(b"SELECT 1")
            assert counts(ignoring)

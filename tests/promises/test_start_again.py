"""A sleep never ends in an outage: what a start would not take keeps Postgres awake, and nothing else does."""

from __future__ import annotations

import shutil
from signal import SIGHUP
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.faults import notes
from harness.installations import conninfo, server_user
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped

if TYPE_CHECKING:
    from harness.installations import Installation, Place
    from harness.supervised import Launch, Supervised


def append(one: Supervised, name: str, text: str) -> None:
    with (one.data_dir / name).open("a") as file:
        file.write(f"\n{text}\n")


def execute(one: Supervised, *statements: str) -> None:
    with psycopg.connect(conninfo(one.port, connect_timeout=30), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_what_only_a_view_complains_of_is_slept_on(installation: Installation, launch: Launch) -> None:
    one = launch(installation, start=False, when_idle="stay", idle_timeout="500ms")
    append(one, "pg_hba.conf", "hostssl all all 10.0.0.0/8 scram-sha-256")
    append(one, "postgresql.conf", "default_tablespace = 'elsewhere'\ndefault_text_search_config = 'my.own'")
    append(
        one, "postgresql.conf", "shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.none = 1"
    )
    one.start()
    one.wait_for_state("asleep")
    execute(one, "SELECT 1")
    assert one.stop() == 0


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("ALTER SYSTEM SET shared_buffers = '7TB'", "shared memory"),
        ("ALTER SYSTEM SET shared_preload_libraries = 'no_such'", "no_such"),
    ],
)
def test_a_value_that_waits_for_a_restart(
    installation: Installation, launch: Launch, statement: str, says: str
) -> None:
    one = launch(installation, when_idle="stay", idle_timeout="500ms")
    one.wait_for_state("awake")
    execute(one, statement)
    one.wait_log("Postgres could not start again, so it stays awake")
    refused = one.pgidle("sleep")
    assert refused.returncode == 1
    assert says in refused.stderr
    assert "could not start again" in one.pgidle("status").stdout
    mark = one.mark()
    execute(one, "ALTER SYSTEM RESET ALL")
    assert one.pgidle("sleep").returncode == 0
    one.wait_for_state("asleep", since=mark)
    execute(one, "SELECT 1")
    assert one.stop() == 0


def test_a_mistake_in_a_file_is_known_at_once(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="1h")
    one.wait_for_state("awake")
    hba = one.data_dir / "pg_hba.conf"
    good = hba.read_text()
    # Written again until it is seen, as nothing tells when files begin to be watched.
    wait_until(lambda: bool(hba.write_text(f"{good}host all all all scam\n")) and notes(one, "reload") != [])
    one.wait_log("Postgres could not start again, so it stays awake: invalid authentication method")
    assert "could not start again" in one.pgidle("status").stdout
    hba.write_text(good)
    one.wait_log("that is over")
    assert one.pgidle("sleep").returncode == 0


def test_a_mistake_that_comes_after_the_trial(newest: Installation, place: Place) -> None:
    """While a checkpoint is written, which may take a minute, or in the last moment."""
    one = Stopped(newest, place, "before Judge.checkpointed", when_idle="stay", idle_timeout="500ms")
    with one:
        one.wait_for_state("awake")
        one.arm()
        one.reached()
        append(one, "pg_hba.conf", "host all all all scam")
        one.signal(SIGHUP)
        one.release()
        one.wait_log("Postgres could not start again, so it stays awake")
        execute(one, "SELECT 1")
        assert "asleep" not in one.states


def test_where_it_cannot_be_tried_that_is_said_and_slept_on(newest: Installation, launch: Launch) -> None:
    """Postgres has started with what there was, more often than not."""
    one = launch(newest, when_idle="stay", idle_timeout="500ms", start=False)
    own = one.data_dir / "pgidle"
    own.mkdir(mode=0o700)
    shutil.chown(own, server_user().pw_uid)
    # Not a folder, and not to be removed as one.
    (own / "start-check").touch()
    one.start()
    one.wait_for_state("asleep")
    one.wait_log("cannot tell whether Postgres would start again")
    assert one.stop() == 0


def test_nothing_is_left_of_a_trial(newest: Installation, launch: Launch) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="500ms")
    one.wait_for_state("asleep")
    assert not (one.data_dir / "pgidle/start-check").exists()
    assert not any("could not fork" in line.text for line in one.lines)
    assert one.stop() == 0


def test_no_room_for_a_prepared_transaction(installation: Installation, launch: Launch) -> None:
    """It is nowhere but in WAL yet when the start is tried."""
    one = launch(installation, start=False, when_idle="stay", idle_timeout="500ms")
    append(one, "postgresql.conf", "max_prepared_transactions = 1")
    one.start()
    one.wait_for_state("awake")
    execute(
        one,
        "ALTER SYSTEM SET max_prepared_transactions = 0",
        "BEGIN",
        "CREATE TABLE t ()",
        "PREPARE TRANSACTION 'x'",
    )
    one.wait_log("Postgres could not start again, so it stays awake: max_prepared_transactions is 0")
    mark = one.mark()
    execute(one, "COMMIT PREPARED 'x'")
    one.wait_for_state("asleep", since=mark)
    execute(one, "SELECT 1")
    assert one.stop() == 0


def test_a_checkpoint_that_fails(installation: Installation, place: Place, launch: Launch) -> None:
    """A shutdown would fail of the same, and the start after it."""
    folder = place.folder() / "space"
    folder.mkdir()
    shutil.chown(folder, server_user().pw_uid)
    one = launch(installation, when_idle="stay", idle_timeout="500ms")
    one.wait_for_state("awake")
    with psycopg.connect(conninfo(one.port), autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE away LOCATION '{folder}'")
        connection.execute("CREATE TABLE t TABLESPACE away AS SELECT 1")
        folder.rename(folder.with_name("gone"))
    one.wait_log("Postgres cannot checkpoint, so it stays awake")
    refused = one.pgidle("sleep")
    assert refused.returncode == 1
    assert "cannot checkpoint" in refused.stderr
    mark = one.mark()
    folder.with_name("gone").rename(folder)
    assert one.pgidle("sleep").returncode == 0
    one.wait_for_state("asleep", since=mark)
    execute(one, "SELECT FROM t")
    assert one.stop() == 0


def test_a_socket_in_the_data_directory(installation: Installation, launch: Launch) -> None:
    """As `scripts/run` has it: its lock file is the running Postgres's, and in no next one's way."""
    one = launch(installation, start=False, when_idle="stay", idle_timeout="500ms")
    one.options["socket-dir"] = str(one.data_dir)
    one.start()
    one.wait_for_state("asleep")
    assert notes(one, "configuration") == []
    assert one.stop() == 0

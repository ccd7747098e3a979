"""The connection that looks obeys nobody, is in nobody's way, and is not counted; on real servers."""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import pq

from harness.postgres_fixture import Cluster, wait_until
from harness.watch import active, watching
from pgidle.idle.reasons import ReasonKind, Signal
from pgidle.observer.watch_connection import NOT_CONNINFO

if TYPE_CHECKING:
    from harness.installations import Installation

TRAPS = """
CREATE FUNCTION public.trap() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    IF pg_catalog.current_setting('is_superuser') = 'on' THEN EXECUTE 'ALTER ROLE app SUPERUSER'; END IF;
    RETURN true;
END $$;
CREATE FUNCTION public.set_config(text, text, boolean) RETURNS text LANGUAGE sql
    AS $$ SELECT public.trap(); SELECT pg_catalog.set_config($1, $2, $3) $$;
CREATE FUNCTION public.current_setting(text) RETURNS text LANGUAGE sql
    AS $$ SELECT public.trap(); SELECT pg_catalog.current_setting($1) $$;
CREATE FUNCTION public.same(text, text) RETURNS boolean LANGUAGE sql
    AS $$ SELECT public.trap(); SELECT $1 OPERATOR(pg_catalog.=) $2 $$;
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.same);
CREATE VIEW public.pg_stat_activity AS SELECT a.*, public.trap() FROM pg_catalog.pg_stat_activity a;
CREATE VIEW public.pg_roles AS SELECT r.*, public.trap() FROM pg_catalog.pg_roles r;
"""
BY_AN_OWNER = (
    "search_path = public, pg_catalog",
    "role = app",
    "statement_timeout = 1",
    "lock_timeout = 1",
    "default_transaction_read_only = on",
    "default_transaction_isolation = serializable",
    "standard_conforming_strings = off",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = sql_standard",
    "TimeZone = 'Asia/Kathmandu'",
    "extra_float_digits = -15",
    "bytea_output = escape",
    "row_security = off",
    "quote_all_identifiers = on",
    "local_preload_libraries = nowhere",
)


@pytest.mark.parametrize("how", ["found", "watch"])
def test_whoever_owns_the_database_gains_nothing_and_is_in_no_way(cluster: Cluster, how: str) -> None:
    cluster.start()
    with cluster.connect() as admin:
        admin.execute("CREATE ROLE app LOGIN")
        admin.execute("ALTER DATABASE postgres OWNER TO app")
        with cluster.connect(user="app") as app:
            admin.execute("GRANT CREATE ON SCHEMA public TO app")
            app.execute(TRAPS)
            for setting in BY_AN_OWNER:
                app.execute(f"ALTER DATABASE postgres SET {setting}")
        conninfo = "user=postgres dbname=postgres" if how == "watch" else None
        with watching(cluster, conninfo=conninfo) as watch:
            for _ in range(3):
                watch.see()
                watch.disconnect()
        superusers = admin.execute("SELECT rolname FROM pg_catalog.pg_roles WHERE rolsuper").fetchall()
        assert superusers == [("postgres",)]


@pytest.mark.parametrize("digits", [0, -6, -15])
def test_a_use_is_seen_however_numbers_are_written(cluster: Cluster, digits: int) -> None:
    cluster.start({"extra_float_digits": str(digits)})
    with cluster.connect() as client, watching(cluster) as watch:
        client.execute("ALTER ROLE postgres SET extra_float_digits = -15")
        watch.settle()
        for _ in range(3):
            before = watch.last_activity
            client.execute("SELECT 1")
            watch.judge()
            assert watch.last_activity > before


def test_a_slow_checkpoint_keeps_nobody_from_the_database(cluster: Cluster) -> None:
    cluster.start()
    asked = "SELECT FROM pg_stat_activity WHERE query = 'CHECKPOINT'"
    with (
        cluster.connect(dbname="template1") as admin,
        watching(cluster) as watch,
        ThreadPoolExecutor(1) as beside,
        contextlib.ExitStack() as going_on,
    ):
        watch.see()
        found = admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
        ).fetchone()
        assert found is not None
        os.kill(found[0], SIGSTOP)
        going_on.callback(os.kill, found[0], SIGCONT)
        written = beside.submit(watch.checkpoint, 60.0)
        wait_until(lambda: admin.execute(asked).fetchone() is not None)
        admin.execute("ALTER DATABASE postgres RENAME TO other")
        going_on.close()
        assert written.result() is None
        watch.see()


def test_it_takes_no_place_from_anybody(cluster: Cluster) -> None:
    cluster.start({"max_connections": "6"})
    with cluster.connect() as admin:
        admin.execute("CREATE ROLE app LOGIN")

    def places() -> int:
        with contextlib.ExitStack() as clients:
            count = 0
            with contextlib.suppress(psycopg.OperationalError):
                while count < 10:
                    clients.enter_context(contextlib.closing(cluster.connect(user="app")))
                    count += 1
        return count

    alone = places()
    assert 0 < alone < 6
    with watching(cluster) as watch:
        watch.see()
        wait_until(lambda: places() == alone)
        assert places() == alone


def test_the_last_places_of_walsenders_are_left_to_those_who_need_them(cluster: Cluster) -> None:
    cluster.start({"max_wal_senders": "2"})
    with cluster.connect() as admin, watching(cluster) as watch:
        watch.see()
        for _ in range(3):
            watch.disconnect()
            assert not active(watch.judge())
            found = admin.execute(
                "SELECT backend_type FROM pg_stat_activity WHERE application_name = 'pgidle'"
            ).fetchall()
            assert found == [("client backend",)]


@pytest.mark.parametrize("who", ["a walsender", "an ordinary session"])
def test_its_own_sessions_are_never_counted_and_everybody_elses_always(
    installation: Installation, cluster: Cluster, who: str
) -> None:
    cluster.start({} if who == "a walsender" else {"max_wal_senders": "0", "wal_level": "minimal"})
    with watching(cluster) as watch:
        watch.settle()
        for _ in range(20):
            watch.disconnect()
            assert not active(watch.judge())
        if installation.major < 14:
            return
        for _ in range(5):
            cluster.connect().close()
            watch.disconnect()
            wait_until(lambda: bool(watch.find(Signal.COUNTERS, ReasonKind.ACTIVITY)))
            watch.settle()


def test_the_database_can_be_dropped_and_copied_between_two_looks(cluster: Cluster) -> None:
    cluster.start()
    with cluster.connect(dbname="template1") as admin, watching(cluster) as watch:
        watch.see()
        watch.disconnect()
        admin.execute("CREATE DATABASE copy TEMPLATE postgres")
        admin.execute("DROP DATABASE postgres")
        watch.see()
        watch.disconnect()
        admin.execute("CREATE DATABASE postgres TEMPLATE template1")
        watch.see()
        watch.disconnect()
        watch.see()
        found = admin.execute(
            "SELECT datname FROM pg_stat_activity WHERE application_name = 'pgidle'"
        ).fetchall()
        assert found == [("postgres",)]


def test_a_database_that_lets_nobody_in_is_left_alone(cluster: Cluster) -> None:
    cluster.start()
    with cluster.connect(dbname="template1") as admin, watching(cluster) as watch:
        admin.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
        for _ in range(3):
            watch.see()
            watch.disconnect()
        assert cluster.log.count('database "postgres" is not currently accepting connections') <= 2


def _libpq_names() -> list[str]:
    return [*(o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar), *NOT_CONNINFO]


def test_nothing_that_is_set_for_other_programs_reaches_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start()
    names = _libpq_names()
    assert {"PGHOSTADDR", "PGSERVICE", "PGREQUIREAUTH", "PGOPTIONS", "PGTZ"} <= set(names)
    for name in names:
        monkeypatch.setenv(name, "nonsense")
    with watching(cluster) as watch:
        watch.see()
        assert os.environ["PGPORT"] == "nonsense", "the settings are read again"
    with watching(cluster, conninfo="user=postgres dbname=template1") as watch:
        watch.see()


def test_statistics_that_were_reset_are_a_use(installation: Installation, cluster: Cluster) -> None:
    if installation.major < 14:
        pytest.skip("PostgreSQL counts sessions from 14 on")
    cluster.start()
    with cluster.connect() as client, watching(cluster) as watch:
        watch.settle()
        client.execute("SELECT pg_stat_reset()")
        wait_until(lambda: bool(watch.find(Signal.COUNTERS, ReasonKind.ACTIVITY)))


def test_looks_are_not_in_the_log_of_a_server_that_logs_everything(cluster: Cluster) -> None:
    cluster.start({"log_statement": "all", "log_min_duration_statement": "0", "log_duration": "on"})
    with watching(cluster) as watch:
        for _ in range(3):
            watch.see()
            watch.disconnect()
    assert "pg_stat_activity" not in cluster.log


def test_a_login_trigger_is_not_asked(installation: Installation, cluster: Cluster) -> None:
    if installation.major < 17:
        pytest.skip("PostgreSQL has login triggers from 17 on")
    cluster.start()
    with cluster.connect() as admin:
        admin.execute("CREATE TABLE seen (who text)")
        admin.execute(
            "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO seen VALUES (session_user); RAISE 'nobody' USING ERRCODE = '28000'; END $$"
        )
        admin.execute("CREATE EVENT TRIGGER t ON login EXECUTE FUNCTION f()")
        with watching(cluster) as watch:
            watch.see()


def test_a_backup_is_known_though_another_statement_hid_it(
    installation: Installation, cluster: Cluster
) -> None:
    start = "pg_backup_start('b', true)" if installation.major >= 15 else "pg_start_backup('b', true, false)"
    cluster.start()
    with cluster.connect() as client, cluster.connect() as other, watching(cluster) as watch:
        other.execute("SELECT 1")
        watch.settle()
        # pg_control knows the second alone, by a clock that is a tick late: who was used in it may be meant too.
        next_second = int(time.time()) + 1
        wait_until(lambda: time.time() > next_second + 0.1)
        client.execute(f"SELECT {start}")
        client.execute("SELECT 1")
        reason = watch.wait_for(Signal.BASE_BACKUP, ReasonKind.BLOCKER)
        assert f"session {client.info.backend_pid} " in reason.text
        assert len(watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER)) == 1, "and nobody else"
        client.close()
        wait_until(lambda: not watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER))


def test_a_checkpoint_is_no_backup(cluster: Cluster) -> None:
    cluster.start()
    with cluster.connect() as client, watching(cluster) as watch:
        watch.settle()
        client.execute("CHECKPOINT")
        assert watch.checkpoint() is None
        client.execute("SELECT 1")
        for _ in range(3):
            assert not watch.find(Signal.BASE_BACKUP, ReasonKind.BLOCKER)


def test_no_descriptor_is_left_of_what_watched(cluster: Cluster) -> None:
    cluster.start()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for how in ("connected", "between two looks"):
        with watching(cluster) as watch:
            watch.see()
            if how != "connected":
                watch.disconnect()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

"""Passwords are in no output of pgidle's, and in no environment that does not need them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from harness.installations import free_port
from harness.postgres_fixture import wait_until
from pgidle.base.errors import SettingsError
from pgidle.postgres.conninfo import harmless
from pgidle.settings.options import OPTIONS, printable, read_value
from pgidle.system.users import for_children

if TYPE_CHECKING:
    from harness.installations import Installation
    from harness.supervised import Launch

WATCH = next(option for option in OPTIONS if option.name == "watch")
SECRETS = ("s3cret", "hid den", "p'w")


@pytest.mark.parametrize(
    ("conninfo", "shown"),
    [
        ("host=db user=watch password=s3cret", "host=db"),
        ("host=db password = 's3cret hid den' user=watch", "user=watch"),
        (r"host=db password=s3cret\ hid\ den", "host=db"),
        (r"host=db password='s3cret\'s hid den'", "host=db"),
        ("postgresql://watch:s3cret@db/app", "dbname=app"),
        ("postgresql://watch:s3%40cret%2Fs3cret@db:5433/app", "port=5433"),
        ("postgresql://watch@db/app?password=s3cret", "dbname=app"),
        ("postgresql://watch@db/app?pass%77ord=s3cret", "dbname=app"),
        ("host=db scram_client_key=s3cret scram_server_key=s3cret", "host=db"),
        ("host=db sslcert=/c sslpassword=s3cret", "sslcert=/c"),
        ("host=db oauth_client_secret=s3cret", ""),
        ("host=db options='-c my.secret=s3cret'", "host=db"),
        ("host=db unheard_of=s3cret", ""),
        ("host=db password='s3cret", ""),
        ("host=db password=hid den s3cret", ""),
        ("postgresql://watch:s3cret@[db/app", ""),
        ("service=shop passfile=/etc/pgpass application_name=watcher", "passfile=/etc/pgpass"),
    ],
)
def test_only_what_is_known_to_be_harmless_is_shown(conninfo: str, shown: str) -> None:
    said = printable(WATCH, read_value(WATCH, conninfo, "/"), harmless)
    assert shown in said
    assert not [secret for secret in SECRETS if secret in said or secret.replace(" ", "") in said], said


@pytest.mark.parametrize(
    "conninfo",
    ["postgresql://watch:s3@cret@db/app", "postgres://watch:s3/cret@db/app", "postgresql://u:a/b@h"],
)
def test_a_password_that_libpq_would_take_for_a_host_is_refused(conninfo: str) -> None:
    with pytest.raises(SettingsError, match="bare @ or /") as refusal:
        read_value(WATCH, conninfo, "/")
    assert "cret" not in str(refusal.value)


def test_what_cannot_be_read_is_not_quoted_to_anybody(launch: Launch, newest: Installation) -> None:
    one = launch(newest, watch="host=db password=hid s3cret", when_idle="stay", http=None)
    one.wait_log("watch is not a valid connection string")
    for said in (
        one.pgidle("status").stdout,
        one.pgidle("status", "--json").stdout,
        one.pgidle("config", "--watch", "host=db password=hid s3cret").stdout,
        "\n".join(line.text for line in one.lines),
    ):
        assert said
        assert "s3cret" not in said


def test_config_and_status_hide_the_same(launch: Launch, newest: Installation) -> None:
    watch = "host=/nowhere user=watch password='s3cret' scram_client_key=s3cret"
    one = launch(newest, watch=watch, when_idle="stay")
    one.wait_for_state("awake")
    one.wait_log("cannot connect to watch")
    shown = json.loads(one.pgidle("config", "--watch", watch, "--json").stdout)["watch"]["value"]
    assert json.loads(one.pgidle("status", "--json").stdout)["settings"]["watch"] == shown
    assert "s3cret" not in shown + "\n".join(line.text for line in one.lines)


def test_children_get_no_password_and_none_of_our_settings() -> None:
    kept = {"PATH": "/bin", "POSTGRES_USER": "app", "AWS_REGION": "x", "PGDATA": "/d"}
    hidden = {"POSTGRES_PASSWORD": "x", "PGPASSWORD": "x", "PGIDLE_WATCH": "x", "PGIDLE_HTTP": "off"}
    assert for_children(kept | hidden) == kept


READ = 'COPY (SELECT 1) TO PROGRAM \'tr "\\0" "\\n" </proc/{}/environ >{}\''


def test_no_superuser_reads_a_password_in_the_environment(launch: Launch, newest: Installation) -> None:
    import psycopg

    secrets = {
        "POSTGRES_PASSWORD": "s3cret",
        "PGPASSWORD": "s3cret",
        "PGIDLE_WATCH": "host=/n password=s3cret",
    }
    one = launch(newest, env=secrets, when_idle="stay")
    one.wait_for_state("awake")
    found = one.data_dir / "found"
    with psycopg.connect(one.conninfo(), autocommit=True) as session:
        session.execute(READ.format("self", found).encode())
        assert "PATH=" in found.read_text()
        assert "s3cret" not in found.read_text()
        # The supervisor's own, and whoever else's is there.
        for pid in {one.pid, one.postmaster_pid, *(each.pid for each in one.processes())}:
            found.unlink(missing_ok=True)
            try:
                session.execute(READ.format(pid, found).encode())
            except psycopg.Error:
                assert not found.exists() or "s3cret" not in found.read_text()
            else:
                assert "s3cret" not in found.read_text()


def test_status_shows_whose_session_it_is_and_never_its_query(launch: Launch, newest: Installation) -> None:
    import psycopg

    door = free_port()
    one = launch(newest, http=f"127.0.0.1:{door}", when_idle="stay", idle_timeout="1min")
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo(application_name="shop")) as session:
        session.execute("SELECT 's3cret'")

        def shown() -> str:
            with urlopen(f"http://127.0.0.1:{door}/status", timeout=20) as answer:
                return str(answer.read(), "utf-8")

        wait_until(lambda: "shop" in shown())
        said = shown() + one.pgidle("status").stdout + one.pgidle("status", "--json").stdout
    assert "127.0.0.1" in said
    assert "s3cret" not in said

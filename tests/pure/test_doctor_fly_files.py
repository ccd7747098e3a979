"""Whose fly.toml it is, what flyctl passes over in it, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, of_fly, said
from harness.platform_files import STOCK
from pgidle.doctor.output import as_text
from pgidle.doctor.readers.stated_settings import Context

if TYPE_CHECKING:
    from pgidle.doctor.finding import Severity


def test_nothing_says_that_pgidle_runs_there() -> None:
    chart = of_fly(STOCK)
    assert said(chart) == [
        (UNKNOWN, "whether pgidle runs here"),
        (UNKNOWN, "whether the data directory lies on the volume at /data"),
    ]
    cure = chart.findings[1].change
    assert "/data/data" not in cure
    assert "PG_VERSION" in cure
    assert "/data/postgresql" in chart.findings[1].why
    text = " ".join(as_text([chart]).split())
    assert "nothing wrong in what was read, 0 to note, 2 not checked" in text
    for dockerfile, runs in (("FROM postgres:17", False), ("FROM x\nCOPY pgidle /y\n", True)):
        found = said(of_fly(STOCK, Context(dockerfile=dockerfile)), "whether pgidle runs")
        assert bool(found) is not runs


APP = """
app = "web"
[env]
{env}
{more}
"""


HTTP = "[http_service]\ninternal_port = 8080\n"


@pytest.mark.parametrize(
    "env",
    [
        'DNS_CLUSTER_QUERY = "shop.internal"',
        'ALLOWED_HOSTS = "localhost,shop.internal"',
        'DATABASE_URL = "mysql://u:p@maria.internal:3306/d"',
        'DB_HOST = "maria.internal"\nDB_CONNECTION = "mysql"',
        'DB_HOST = "maria.internal"\nDB_PORT = "3306"',
        'REDIS_URL = "redis://x.internal:6379"',
        'POSTGRES_HOST = "pg.flycast"',
        'POSTGRES_HOST = "pg.flycast"\nPOSTGRES_DB = "x"\nPOSTGRES_USER = "u"',
    ],
)
@pytest.mark.parametrize("more", [HTTP, f'{HTTP}[[mounts]]\nsource = "x"\ndestination = "/data"\n'])
def test_an_application_s_names_are_not_postgres_s(env: str, more: str) -> None:
    assert [one[0] for one in said(of_fly(APP.format(env=env, more=more)))] == [NOTE]


@pytest.mark.parametrize(
    ("env", "severity"),
    [
        ('POSTGRES_HOST = "pg.internal"', WRONG),
        ('PGHOST = "pg.internal"', WRONG),
        ('DATABASE_URL = "postgres://u:p@pg.internal:5432/d"', WRONG),
        ('DATABASE_URL = "ecto://u:p@top1.nearest.of.pg.internal/d"', WRONG),
        ('X = "jdbc:postgresql://pg.internal/d"', WRONG),
        ('X = "postgresql+asyncpg://u@pg.internal/d"', WRONG),
        ('X = "pg.internal:5432"', WRONG),
        ('DB_HOST = "pg.internal"\nDB_CONNECTION = "pgsql"', WRONG),
        ('DB_HOST = "pg.internal"', NOTE),
    ],
)
def test_an_internal_address_of_postgres_s_is_wrong(env: str, severity: Severity) -> None:
    found = said(of_fly(APP.format(env=env, more=HTTP)), ".internal")
    assert [one[0] for one in found] == [severity]


@pytest.mark.parametrize(
    ("more", "env"),
    [
        ('[build]\nimage = "edoburu/pgbouncer:1.23"\n[[services]]\ninternal_port = 6432\n', ""),
        (
            '[build]\nimage = "x/pool"\n[[services]]\ninternal_port = 9999\n[[services.ports]]\nport = 5432\n',
            "",
        ),
        ("[[services]]\ninternal_port = 6432\n[[services.ports]]\nport = 5432\n", ""),
        ('[build]\nimage = "redis:7"\n[[mounts]]\nsource = "r"\ndestination = "/data"\n', ""),
        ("", 'TOKEN = "x"'),
    ],
)
def test_nothing_wrong_is_not_said_where_nobody_knows_whose_file_it_is(more: str, env: str) -> None:
    chart = of_fly(APP.format(env=env, more=more))
    assert said(chart) == [(UNKNOWN, "whether Postgres runs in this app")]
    assert "everything else" in chart.not_read


def test_of_one_key_nothing_is_both_right_and_wrong() -> None:
    second = '[[services]]\ninternal_port = 9000\nauto_stop_machines = "stop"\n'
    chart = of_fly(f"{STOCK}\n{second}")
    assert [what for _, what in said(chart) if "auto_stop" in what] == ["auto_stop_machines is stop"]
    assert not any("auto_stop" in one for one in chart.right)
    assert [one for one in of_fly(STOCK).right if "auto_stop" in one] == ["auto_stop_machines off"]


GROUPS = """
app = "x"
[env]
PGIDLE_HTTP = ":8008"
PGDATA = "/data/pg"
[processes]
db = "pgidle run"
web = "node server.js"
[[services]]
processes = ["web"]
internal_port = 8080
auto_stop_machines = "stop"
[[services]]
processes = ["db"]
internal_port = 5432
auto_stop_machines = "off"
[[services.ports]]
port = 5432
[[mounts]]
processes = ["db"]
source = "x"
destination = "/data"
[[restart]]
policy = "on-failure"
processes = ["db"]
"""


def test_of_several_groups_the_one_with_postgres_is_read() -> None:
    chart = of_fly(GROUPS)
    assert [one for one in said(chart) if one[0] is not NOTE] == []
    assert "group db of [processes]" in chart.read
    assert "groups web of [processes]" in chart.not_read
    unclear = GROUPS.replace("pgidle run", "a").replace("internal_port = 5432", "internal_port = 5433")
    unclear = unclear.replace('[[mounts]]\nprocesses = ["db"]\nsource = "x"\ndestination = "/data"\n', "")
    assert (UNKNOWN, "which of the groups db, web runs Postgres") in said(of_fly(unclear))


@pytest.mark.parametrize(
    ("old", "new", "severity", "what"),
    [
        ("internal_port =", "auto_stop_machine = 'off'\ninternal_port =", WRONG, "flyctl has no key auto_stop_machine"),
        ("port = 5432\n", "port = 5432\nfoobarbaz = 1\n", NOTE, "flyctl has no key foobarbaz"),
        ("destination =", "initial_siz = '1gb'\ndestination =", WRONG, "flyctl has no key initial_siz in [mounts]"),
        ("[[mounts]]", "[[vm]]\nmemroy = '1gb'\n[[mounts]]", WRONG, "flyctl has no key memroy in [vm]"),
        ("[[mounts]]", "[metrics]\nprot = 1\n[[mounts]]", WRONG, "flyctl has no key prot in [metrics]"),
        ("[[mounts]]", "[[vm]]\nmemory = '300mb'\n[[mounts]]", WRONG, "memory is 300 MB, with 1 shared CPU"),
        ("[[mounts]]", "[[vm]]\nmemory = '4gb'\n[[mounts]]", WRONG, "memory is 4096 MB"),
        ("[[mounts]]", "[[vm]]\nmemory_mb = 1000\n[[mounts]]", WRONG, "memory is 1000 MB"),
        ("[[mounts]]", "[[vm]]\nsize = 'performance-1x'\nmemory = '1gb'\n[[mounts]]", WRONG, "memory is 1024 MB"),
        ("[[mounts]]", "[[vm]]\nsize = 'tiny'\n[[mounts]]", WRONG, "[[vm]] size is tiny"),
        ("[[mounts]]", "[vm]\ncpus = 3\n[[mounts]]", WRONG, "[[vm]] has 3 CPUs"),
        ("destination =", "initial_size = '600gb'\ndestination =", WRONG, "initial_size is 600gb"),
        ("destination =", "snapshot_retention = 90\ndestination =", WRONG, "snapshot_retention is 90"),
        ("destination =", "auto_extend_size_threshold = 80\ndestination =", WRONG, "without an increment"),
        ("[[mounts]]", "[checks.a]\ntype = 'http'\nport = 8008\ninterval = 15\n[[mounts]]", WRONG, "is 15 ms"),
        ("[[mounts]]", "[checks.a]\ntype = 'http'\nport = 8008\ntimeout = '2m'\n[[mounts]]", WRONG, "timeout of"),
        ("[[mounts]]", "[checks.a]\nport = 8008\n[[mounts]]", WRONG, "check a has type none"),
        ("[[mounts]]", "[metrics]\nport = 5432\npath = '/'\n[[mounts]]", WRONG, "[metrics] leads to the database port"),
        ("[[mounts]]", "[deploy]\nstrategy = 'blue'\n[[mounts]]", WRONG, "deploy strategy is blue"),
        ("[[mounts]]", "[env]\nPGIDLE_IDLE_TIMEOUT = '20s'\n[[mounts]]", NOTE, "Postgres may sleep 30s after waking"),
        ('[[mounts]]\nsource = "pg"', '[[mounts]]\nsource = "q"\n[[mounts]]\nsource = "pg"', WRONG, "2 volumes"),
    ],
)  # fmt: skip
def test_what_flyctl_does_not_take(old: str, new: str, severity: Severity, what: str) -> None:
    found = [one for one in said(of_fly(STOCK.replace(old, new, 1))) if what in one[1]]
    assert [one[0] for one in found] == [severity], said(of_fly(STOCK.replace(old, new, 1)))


@pytest.mark.parametrize(
    "more",
    [
        "[[vm]]\nsize = 'shared-cpu-2x'\nmemory = '4gb'\n",
        "[[vm]]\nmemory = 512\n",
        "[vm]\nmemory = '512mb'\ncpus = 1\ncpu_kind = 'shared'\n",
        "[[compute]]\nsize = 'performance-2x'\n",
        "[env]\nPGIDLE_IDLE_TIMEOUT = '20s'\nPGIDLE_MIN_AWAKE = '1min'\n",
        "[checks.a]\ntype = 'http'\nport = 8008\npath = '/health'\ninterval = 15000\n",
    ],
)
def test_what_flyctl_takes(more: str) -> None:
    found = [one for one in said(of_fly(f"{STOCK}\n{more}")) if one[0] is not UNKNOWN]
    assert found == []

"""What the doctor said wrongly of real public files, in small forms, and the other members of each one's kind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from harness.installations import run_as_server, server_user
from harness.mistakes import NOTE, UNKNOWN, WRONG
from pgidle.base.errors import SettingsError
from pgidle.base.platform_limits import Platform, image_major
from pgidle.doctor import files
from pgidle.doctor.finding import Chart, Severity
from pgidle.doctor.machine.pg_hba import check_hba
from pgidle.doctor.machine.pg_ident import allows
from pgidle.doctor.platforms import compose, fly, kubernetes, systemd
from pgidle.doctor.platforms.neighbours import is_monitor
from pgidle.doctor.printed import as_dict, as_text
from pgidle.doctor.readers import image_names
from pgidle.doctor.readers.compose_variables import is_known, read_env_file, substitute
from pgidle.doctor.readers.hba_files import gather
from pgidle.doctor.readers.hba_records import MISSING, Texts
from pgidle.doctor.readers.server_addresses import Variable, addresses
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.unit_file import Beside
from pgidle.doctor.readers.yaml_tree import read_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation, Place

Said = list[tuple[Severity, str]]


def said(chart: Chart, *words: str) -> Said:
    """The findings that have one of the words, or all."""
    return [
        (one.severity, one.what)
        for one in chart.findings
        if not words or any(word in f"{one.what} {one.why}" for word in words)
    ]


def of_compose(text: str, context: Context | None = None) -> Chart:
    return compose.examine("compose.yaml", read_yaml(text)[0], context or Context())


def of_kubernetes(text: str) -> Chart:
    return kubernetes.examine("k8s.yaml", read_yaml(text), Context())


def of_fly(text: str, context: Context | None = None) -> Chart:
    return fly.examine("fly.toml", text, context or Context())


# Where the data lies, by the image's version.

SERVICE = """
services:
  db:
    image: {image}
    environment: {{PGIDLE_WHEN_IDLE: stay{more}}}
    volumes: ["{volume}"]
    restart: always
"""


@pytest.mark.parametrize(
    ("image", "volume", "more", "severity", "what"),
    [
        ("pgidle:16", "pg:/var/lib/postgresql", "", WRONG, "/data is not on the volume at /var/lib/postgresql"),
        ("pgidle:16", "pg:/var/lib/postgresql/data", "", NOTE, "a volume at"),
        ("pgidle:16", "pg:/var/lib", "", WRONG, "is not on the volume at /var/lib"),
        ("pgidle:9.6", "pg:/var/lib/postgresql", "", WRONG, "is not on the volume"),
        ("timescale-pgidle:latest-pg16", "pg:/var/lib/postgresql", "", WRONG, "is not on the volume"),
        # In the image's own volume, whoever says where.
        ("pgidle:17", "pg:/var/lib/postgresql", ", PGDATA: /var/lib/postgresql/data/x", WRONG, "is not on the"),
        ("pgidle", "pg:/var/lib/postgresql", ", PGDATA: /var/lib/postgresql/data/x", UNKNOWN, "whether the data"),
        ("pgidle:17", "pg:/var/lib/postgresql", ", PGDATA: /var/lib/postgresql/17/x", None, ""),
        ("pgidle:18", "pg:/var/lib/postgresql", "", None, ""),
        ("pgidle:18", "pg:/var/lib/postgresql/data", "", WRONG, "no volume holds the data directory"),
        ("pgidle", "pg:/var/lib/postgresql", "", UNKNOWN, "whether the data directory is on the volume"),
        ("pgidle", "pg:/bitnami/postgresql", "", UNKNOWN, "whether the data directory is on the volume"),
        ("pgidle:18", "/var/lib/postgresql", "", NOTE, "has no name"),
    ],
)  # fmt: skip
def test_where_the_data_is_depends_on_the_version(
    image: str, volume: str, more: str, severity: Severity | None, what: str
) -> None:
    chart = of_compose(SERVICE.format(image=image, volume=volume, more=more))
    assert [one[0] for one in said(chart)] == ([severity] if severity else [])
    assert not severity or what in chart.findings[0].what


@pytest.mark.parametrize(
    ("image", "version"),
    [
        *(("postgres:16.3-alpine", 16), ("postgres", None), ("x/pg:pg17", 17), ("x/timescaledb:2.17.2-pg16", 16)),
        *(("x/timescaledb:2.17.2", None), ("postgis/postgis:16-3.4", 16), ("postgres:9.6", 9), ("a:5000/b", None)),
        *(("supabase/postgres:15.1.0.147", 15), ("postgres@sha256:1818", None), ("postgres:latest", None)),
        *(("pgidle:2", None), ("postgres:18beta1", 18), ("r.io/pgidle:v17", 17), ("postgres:20240115", None)),
    ],
)  # fmt: skip
def test_versions_of_images(image: str, version: int | None) -> None:
    assert image_major(image) == version


@pytest.mark.parametrize("image", ["postgres:16", "postgis/postgis:16-3.4"])
def test_the_version_stays_in_the_name_of_what_is_to_be_built(image: str) -> None:
    chart = of_compose(SERVICE.format(image=image, volume="x:/var/lib/postgresql/data", more=""))
    (found,) = [one for one in chart.findings if "pgidle is not in" in one.what]
    assert f"--build-arg BASE={image} -t pgidle:16 ." in found.change


# Maps in pg_ident.conf.


def hba_of(record: str, ident: str | None) -> Said:
    chart = Chart("x")
    maps = Texts({"ident": ident}) if ident is not None else Texts(unread={"ident": MISSING})
    check_hba(
        chart, "hba", Texts({"hba": f"{record}\nhost all all all scram-sha-256\n"}), watchers=["postgres"],
        is_mapped=lambda name, role: allows(maps, "ident", name, "unix", role), system_user="unix", is_public=True,
        has_ssl=False, version=18,
    )  # fmt: skip
    return said(chart)


MAPS = [
    ("", False),
    ("# m unix postgres\n", False),
    ("other unix postgres\n", False),
    ("m unix postgres\n", True),
    ("m unix nobody\nm unix postgres\n", True),
    ("m nobody postgres\n", False),
    ("m /^(.*)$ \\1\n", False),
    ("m /^un(.*)$ postgres\n", True),
    ("m /^x postgres\n", False),
    ('"m" "unix" "postgres"\n', True),
    ("m unix all\n", True),
    ("m unix /^post\n", True),
]


@pytest.mark.parametrize(("ident", "lets_in"), MAPS)
def test_a_map_lets_in_whom_it_names(ident: str, lets_in: bool) -> None:
    found = hba_of("local all all peer map=m", ident)
    assert [one[0] for one in found] == ([] if lets_in else [WRONG])
    assert lets_in or "the map m" in found[0][1]


def test_a_map_that_only_postgres_can_tell() -> None:
    assert hba_of("local all all peer map=m", "m unix +admins\n")[0][0] is UNKNOWN
    assert hba_of("local all all peer map=m", None)[0][0] is WRONG
    assert hba_of("local all all ident map=m", "m unix postgres\n") == []


def test_maps_are_what_postgres_makes_of_them(newest: Installation, place: Place) -> None:
    from harness.postgres_fixture import Cluster

    data_dir, user = place.data_dir(newest), server_user().pw_name
    (data_dir / "pg_hba.conf").write_text("local all all peer map=m\n")
    with Cluster(newest.bin_dir, data_dir) as cluster:
        (data_dir / "pg_ident.conf").write_text("m /. all\n")
        cluster.start()
        for ident, _ in MAPS:
            text = ident.replace("unix", user).replace("/^un", f"/^{user[:2]}")
            (data_dir / "pg_ident.conf").write_text(text)
            # A new postmaster reads it for certain.
            cluster.stop()
            cluster.start()
            done = run_as_server(
                newest.program("psql"), "-h", cluster.socket_dir, "-p", str(cluster.port), "-U", "postgres",
                "-c", "select 1",
                check=False,
            )  # fmt: skip
            texts = Texts({"ident": text})
            assert allows(texts, "ident", "m", user, "postgres") is (done.returncode == 0), (
                text,
                done.stderr,
            )


# Files of pg_hba.conf that include others, are not there, or are no files.


def check(path: Path, version: int = 18) -> Said:
    chart = Chart("x")
    check_hba(
        chart, str(path), gather(str(path)), watchers=["postgres"], is_mapped=lambda *_: True, system_user="postgres",
        is_public=True, has_ssl=False, version=version,
    )  # fmt: skip
    return said(chart)


def test_what_is_included_is_read(tmp_path: Path) -> None:
    hba = tmp_path / "pg_hba.conf"
    (tmp_path / "d").mkdir()
    (tmp_path / "d/1.conf").write_text("local all @names peer\n")
    (tmp_path / "d/.2.conf").write_text("nonsense\n")
    (tmp_path / "d/3.txt").write_text("nonsense\n")
    (tmp_path / "names").write_text("somebody, postgres\n")
    hba.write_text("include_dir d\ninclude_if_exists gone\nhost all all 10.0.0.0/8 md5\n")
    (tmp_path / "d/names").write_text("somebody, postgres\n")
    assert check(hba) == []
    (tmp_path / "d/names").write_text("somebody\n")
    assert [one[0] for one in check(hba)] == [WRONG]
    assert [what for _, what in check(hba, version=15) if "include_dir" in what]
    hba.write_text("include gone\nlocal all all peer\nhost all all all md5\n")
    assert check(hba) == [(WRONG, "`include gone`")]
    hba.write_text("include pg_hba.conf\nlocal all all peer\nhost all all all md5\n")
    assert [one[0] for one in check(hba)] == [WRONG]


def test_without_pg_hba_conf_postgres_does_not_start(tmp_path: Path) -> None:
    chart_of = check(tmp_path / "gone")
    assert chart_of == [(WRONG, f"there is no {tmp_path}/gone")]
    (tmp_path / "empty").write_text("# nothing\n")
    assert check(tmp_path / "empty") == [(WRONG, f"{tmp_path}/empty has no records")]


def test_a_fifo_for_pg_hba_conf_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pg_hba.conf")
    assert [one[0] for one in check(tmp_path / "pg_hba.conf")] == [UNKNOWN]


# Probes that connect to the database port, by any of its names.

POD = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      containers:
        - name: db
          image: pgidle:18
          env: [{{name: PGIDLE_WHEN_IDLE, value: stay}}]
          ports: [{{name: pg, containerPort: 5432}}, {{name: http, containerPort: 8008}}]
          volumeMounts: [{{name: data, mountPath: /var/lib/postgresql}}]
          {more}
{beside}
"""


def pod(more: str = "", beside: str = "") -> Chart:
    return of_kubernetes(POD.format(more=more, beside=beside))


def test_the_pod_is_right() -> None:
    assert said(pod()) == []


@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe", "startupProbe"])
@pytest.mark.parametrize(
    ("asks", "wakes"),
    [
        ("{tcpSocket: {port: 5432}}", True),
        ("{tcpSocket: {port: pg}}", True),
        ("{httpGet: {port: pg, path: /}}", True),
        ("{grpc: {port: 5432}}", True),
        ("{exec: {command: [sh, -c, 'pg_isready -U x']}}", True),
        ("{exec: {command: [nc, -z, localhost, '5432']}}", True),
        ("{exec: {command: [bash, -c, 'echo > /dev/tcp/localhost/5432']}}", True),
        ("{tcpSocket: {port: http}}", False),
        ("{httpGet: {port: http, path: /health}}", False),
        ("{exec: {command: [pgidle, health]}}", False),
    ],
)
def test_a_probe_of_the_database_port_wakes_it(probe: str, asks: str, wakes: bool) -> None:
    found = said(pod(f"{probe}: {asks}"))
    assert [one[0] for one in found] == [WRONG] * wakes
    assert not wakes or probe in found[0][1]


def test_a_probe_that_nobody_understands_is_not_right() -> None:
    chart = pod("livenessProbe: {exec: {command: [/healthcheck.sh]}}")
    assert [one[0] for one in said(chart)] == [UNKNOWN]
    assert not any("healthcheck" in one for one in chart.right)
    text = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="")
    for test, severity in (
        ("/check.sh", UNKNOWN),
        ("[NONE]", None),
        ("pgidle health", None),
        ("nc -z db 5432", WRONG),
    ):
        found = said(of_compose(f"{text}    healthcheck: {{test: {test}}}\n"))
        assert [one[0] for one in found] == ([severity] if severity else [])


# Whose file it is.

STOCK = """
app = "pg"
kill_timeout = "30s"
[[restart]]
policy = "on-failure"
[[mounts]]
source = "pg"
destination = "/data"
[[services]]
internal_port = 5432
protocol = "tcp"
[[services.ports]]
port = 5432
"""


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


# What flyctl passes over, and what it refuses.


@pytest.mark.parametrize(
    ("old", "new", "severity", "what"),
    [
        ("internal_port =", "auto_stop_machine = 'off'\ninternal_port =", WRONG, "auto_stop_machine is no key"),
        ("port = 5432\n", "port = 5432\nfoobarbaz = 1\n", NOTE, "foobarbaz is no key"),
        ("destination =", "initial_siz = '1gb'\ndestination =", WRONG, "initial_siz is no key of flyctl's in [mounts]"),
        ("[[mounts]]", "[[vm]]\nmemroy = '1gb'\n[[mounts]]", WRONG, "memroy is no key of flyctl's in [vm]"),
        ("[[mounts]]", "[metrics]\nprot = 1\n[[mounts]]", WRONG, "prot is no key of flyctl's in [metrics]"),
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
        ("[[mounts]]", "[env]\nPGIDLE_IDLE_TIMEOUT = '20s'\n[[mounts]]", NOTE, "it may sleep 30s after waking"),
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


# A stop that goes past pgidle.


@pytest.mark.parametrize(
    "stop",
    [
        "/usr/bin/pg_ctl -D /d -m fast stop",
        "-/usr/lib/postgresql/16/bin/pg_ctl stop -D ${PGDATA} -s -m fast",
        "pg_ctlcluster --skip-systemctl-redirect -m fast 15-main stop",
        "/bin/sh -c 'pg_ctl stop'",
        "/usr/bin/pkill -INT postgres",
    ],
)
def test_a_stop_of_postgres_s_own_is_no_stop(tmp_path: Path, stop: str) -> None:
    unit = "[Service]\nExecStart=/opt/pgidle run -D /d --when-idle stay\nRestart=on-failure\nKillMode=mixed\n"
    found = said(systemd.examine("a.service", f"{unit}ExecStop={stop}\n", Context(), Beside()))
    assert [one[0] for one in found] == [WRONG]
    assert "ExecStop= stops Postgres itself" in found[0][1]
    (tmp_path / "a.service").write_text(unit)
    (tmp_path / "a.service.d").mkdir()
    (tmp_path / "a.service.d/x.conf").write_text(f"[Service]\nExecStop={stop}\n")
    given = files.read(str(tmp_path / "a.service"))
    assert [one[0] for one in said(files.examine(given, Context(), [given]))] == [WRONG]
    more = f"lifecycle: {{preStop: {{exec: {{command: [sh, -c, {stop.lstrip('-')!r}]}}}}}}".replace(
        "\\'", "''"
    )
    if "'" not in stop:
        assert [one[0] for one in said(pod(more))] == [WRONG]


def test_a_stop_that_signals_pgidle_is_one() -> None:
    unit = "[Service]\nExecStart=/opt/pgidle run -D /d --when-idle stay\nRestart=on-failure\nKillMode=mixed\n"
    for stop, severities in (("/bin/kill -INT $MAINPID", []), ("/usr/local/bin/on-stop", [UNKNOWN])):
        found = said(systemd.examine("a.service", f"{unit}ExecStop={stop}\n", Context(), Beside()))
        assert [one[0] for one in found] == severities


# Whoever asks Postgres all the time from the same file.

EXPORTER = """
  exporter:
    image: {image}
    environment: {{{environ}}}
"""


@pytest.mark.parametrize(
    ("image", "environ", "severity"),
    [
        ("prometheuscommunity/postgres-exporter", 'DATA_SOURCE_NAME: "postgresql://u:p@db:5432/x"', WRONG),
        (
            "quay.io/prometheuscommunity/postgres-exporter:v0.15.0",
            'DATA_SOURCE_URI: "db:5432/x?sslmode=disable"',
            WRONG,
        ),
        ("wrouesnel/postgres_exporter", "DATA_SOURCE_NAME: 'host=db user=u dbname=x'", WRONG),
        ("cybertecpostgresql/pgwatch", "PW_SOURCES: 'postgresql://u@db/x'", WRONG),
        ("postgres-exporter", 'DATA_SOURCE_NAME: "postgresql://u:p@elsewhere:5432/x"', None),
        ("postgres-exporter", "DATA_SOURCE_NAME: 'host=/var/run/postgresql user=u dbname=x'", WRONG),
        ("postgres-exporter", "DATA_SOURCE_NAME: $DSN", UNKNOWN),
        ("postgres-exporter", "A: b", UNKNOWN),
        ("grafana/grafana", "GF_DATABASE_HOST: db:5432", None),
        ("adminer", "X: y", None),
    ],
)
def test_an_exporter_over_tcp_keeps_it_awake(image: str, environ: str, severity: Severity | None) -> None:
    text = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="")
    chart = of_compose(text + EXPORTER.format(image=image, environ=environ))
    assert [one[0] for one in said(chart)] == ([severity] if severity else [])
    assert "of exporter: whether it is a monitor, or its healthcheck asks Postgres" in chart.read


def test_an_exporter_at_the_socket_that_is_ignored_is_right() -> None:
    text = SERVICE.format(
        image="pgidle:18", volume="pg:/var/lib/postgresql", more=", PGIDLE_IGNORE: application_name=e"
    )
    environ = "DATA_SOURCE_NAME: 'host=/var/run/postgresql user=u dbname=x'"
    assert said(of_compose(text + EXPORTER.format(image="postgres-exporter", environ=environ))) == []


def test_a_check_of_another_service_that_asks_postgres_keeps_it_awake() -> None:
    text = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="")
    app = "  app:\n    image: app\n    healthcheck: {test: pg_isready -h db}\n"
    assert said(of_compose(text + app)) == [
        (WRONG, "healthcheck of app connects to Postgres (pg_isready -h db)")
    ]
    assert said(of_compose(text + app.replace("-h db", "-h other"))) == []


SIDECAR = """        - name: exporter
          image: postgres-exporter
          env: [{name: DATA_SOURCE_NAME, value: "postgresql://u@localhost:5432/x?sslmode=disable"}]
"""


def test_an_exporter_in_the_pod_or_behind_the_service_keeps_it_awake() -> None:
    assert said(pod(beside=SIDECAR)) == [(WRONG, "exporter (postgres-exporter) asks Postgres over TCP")]
    assert said(pod(beside=SIDECAR.replace("localhost", "/var%2Frun@")))[0][0] is not NOTE
    other = """---
apiVersion: v1
kind: Service
metadata: {name: pg}
spec: {selector: {app: db}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: e}
spec:
  template:
    spec:
      containers:
        - {name: e, image: postgres-exporter, env: [{name: DATA_SOURCE_URI, value: "HOST:5432/x"}]}
"""
    for host, severities in (("pg", [WRONG]), ("pg.default.svc", [WRONG]), ("rds.example.com", [])):
        assert [one[0] for one in said(pod(beside=other.replace("HOST", host)))] == severities
    probe = """        - name: app
          image: app
          livenessProbe: {tcpSocket: {port: 5432}}
"""
    assert said(pod(beside=probe)) == [(WRONG, "livenessProbe connects to the database port")]


@pytest.mark.parametrize(
    ("image", "is_server", "monitors"),
    [
        ("postgres:17", True, False),
        ("ghcr.io/cloudnative-pg/postgresql:16", True, False),
        ("supabase/postgres:15", True, False),
        ("quay.io/prometheuscommunity/postgres-exporter", False, True),
        ("wrouesnel/postgres_exporter", False, True),
        ("prodrigestivill/postgres-backup-local", False, False),
        ("supabase/postgres-meta:v0.80", False, False),
        ("ghcr.io/zalando/postgres-operator", False, False),
        ("bitnami/postgresql-repmgr", True, False),
        ("postgrest/postgrest", False, False),
        ("jbergknoff/postgresql-client", False, False),
    ],
)
def test_what_is_named_like_a_server_is_not_one(image: str, is_server: bool, monitors: bool) -> None:
    assert (image_names.contents(image) is image_names.Contents.POSTGRES) is is_server
    assert is_monitor(image) is monitors


# Variables of Compose, and what comes from elsewhere.


@pytest.mark.parametrize(
    ("text", "known", "made"),
    [
        ("5432:${P:-5432}", {}, "5432:5432"),
        ("5432:${P:-5432}", {"P": "6000"}, "5432:6000"),
        ("${D:-./d}:/x", {}, "./d:/x"),
        ("${A:-${B:-c}}", {}, "c"),
        ("${A-d}", {"A": ""}, ""),
        ("${A:-d}", {"A": ""}, "d"),
        ("${A:+d}${B+e}", {"A": "x"}, "d"),
        ("$$A $A_B", {"A_B": "1"}, "$A 1"),
        ("${A:?no such}", {"A": "x"}, "x"),
        ("a$", {}, "a$"),
        ("${", {}, "${"),
    ],
)
def test_variables_are_put_in_as_compose_does(text: str, known: dict[str, str], made: str) -> None:
    assert substitute(text, known) == made


@pytest.mark.parametrize("text", ["$A", "${A}", "${A:?x}", "${A?x}", "b${A}c", "${A.b}"])
def test_a_variable_that_is_set_nowhere_is_not_known(text: str) -> None:
    assert not is_known(substitute(text, {}))


def test_a_default_with_a_colon_splits_nothing() -> None:
    text = SERVICE.format(image="pgidle:16", volume="${D:-./d}:/var/lib/postgresql/data", more="")
    assert [one[0] for one in said(of_compose(text + '    ports: ["5432:${P:-5432}"]\n'))] == [NOTE]
    assert [one[0] for one in said(of_compose(text + '    ports: ["${P:-5432}:${Q:-6000}"]\n'))] == [
        NOTE,
        WRONG,
    ][::-1]
    for port in ("5432:$Q", '"127.0.0.1:${P:-5432}:5432"', '"5430-5440:5430-5440"', '"[::1]:5432:5432"'):
        assert [one[0] for one in said(of_compose(f"{text}    ports: [{port}]\n"))] == [NOTE]
    moved = text.replace("/var/lib/postgresql/data", "$WHERE")
    assert [one[0] for one in said(of_compose(moved))] == [UNKNOWN]
    windows = text.replace("${D:-./d}", "C:/pg")
    assert [one[0] for one in said(of_compose(windows))] == [NOTE]


def test_dot_env_and_env_file_are_read_where_they_are() -> None:
    text = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="").replace(
        "PGIDLE_WHEN_IDLE: stay", "A: b"
    )
    text += "    env_file: [pg.env]\n    command: [pgidle, run]\n"
    assert {one[0] for one in said(of_compose(text))} == {UNKNOWN}
    assert (UNKNOWN, "what when-idle is") in said(of_compose(text))
    there = Context(beside={"pg.env": "# x\nPGIDLE_WHEN_IDLE='stay'\n", ".env": None})
    chart = of_compose(text, there)
    assert said(chart) == []
    assert "beside it: pg.env" in chart.read
    assert [one[0] for one in said(of_compose(text, Context(beside={"pg.env": "A=b\n"})))] == [WRONG]
    mode = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="").replace(
        "stay", "$MODE"
    )
    assert WRONG not in [one[0] for one in said(of_compose(mode))]
    assert [one[0] for one in said(of_compose(mode, Context(beside={".env": "MODE=exit\n"})))] == [WRONG]
    assert read_env_file("export A=1\nB=\"$A x\" \nC='$A' # y\nD=e # f\nE\n=g\n") == {
        **{"A": "1", "B": "1 x", "C": "$A", "D": "e"}, "": "g",
    }  # fmt: skip


def test_what_a_service_extends_counts() -> None:
    base = "  base:\n    image: pgidle:18\n    environment: [PGIDLE_WHEN_IDLE=stay]\n    restart: always\n"
    text = f"services:\n{base}  db:\n    extends: {{service: base}}\n    volumes: [pg:/var/lib/postgresql]\n"
    assert WRONG not in [one[0] for one in said(of_compose(text)) if "db" in one[1]]
    elsewhere = "services:\n  db:\n    extends: {file: base.yaml, service: db}\n    image: pgidle:18\n"
    assert (UNKNOWN, "what service db has from the file that it extends") in said(of_compose(elsewhere))
    included = "include: [db.yaml]\nservices:\n  app: {image: app}\n"
    assert said(of_compose(included)) == [(UNKNOWN, "which service runs Postgres")]
    assert any("include" in one for one in of_compose(included).not_read)


FROM = """---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {PGIDLE_WHEN_IDLE: stay, PGDATA: /var/lib/postgresql/18/docker}
"""


@pytest.mark.parametrize(
    "env",
    [
        "envFrom: [{configMapRef: {name: c}}]",
        "env: [{name: PGIDLE_WHEN_IDLE, valueFrom: {configMapKeyRef: {name: c, key: PGIDLE_WHEN_IDLE}}}]",
        "envFrom: [{secretRef: {name: c}}]",
    ],
)
def test_what_comes_from_elsewhere_is_not_known_unless_it_is_in_the_file(env: str) -> None:
    text = POD.replace(
        "env: [{{name: PGIDLE_WHEN_IDLE, value: stay}}]", env.replace("{", "{{").replace("}", "}}")
    )
    text = text.replace("pgidle:18", "pgidle")
    alone = said(of_kubernetes(text.format(more="", beside="")))
    assert (UNKNOWN, "what when-idle is") in alone
    assert WRONG not in [one[0] for one in alone]
    maps = FROM
    if "secret" in env:
        maps = FROM.replace("ConfigMap", "Secret").replace("\ndata:", "\nstringData:")
    chart = of_kubernetes(text.format(more="", beside=maps))
    assert WRONG not in [one[0] for one in said(chart)]
    assert "when-idle stay" in chart.right
    changed = of_kubernetes(text.format(more="", beside=maps.replace("stay", "exit")))
    assert "when-idle is exit" in str(said(changed))


def test_what_the_kubelet_puts_in_is_put_in() -> None:
    env = "env: [{name: MODE, value: stay}, {name: PGIDLE_WHEN_IDLE, value: $(MODE)}]"
    text = POD.replace(
        "env: [{{name: PGIDLE_WHEN_IDLE, value: stay}}]", env.replace("{", "{{").replace("}", "}}")
    )
    assert said(of_kubernetes(text.format(more="", beside=""))) == []


def test_a_service_called_pgidle_gives_variables_that_pgidle_refuses() -> None:
    service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: pgidle}\nspec: {selector: {app: db}}\n"
    assert said(pod(beside=service)) == [(WRONG, "a Service called pgidle, and service links")]


# Around manifests.


def test_lists_and_templates_are_taken_apart() -> None:
    inner = {"List": "items", "Template": "objects"}
    mounts = "volumeMounts: [{name: x, mountPath: /var/lib/postgresql}]"
    one = f"{{apiVersion: v1, kind: Pod, spec: {{containers: [{{image: pgidle:18, {mounts}}}]}}}}"
    for kind, key in inner.items():
        chart = of_kubernetes(f"apiVersion: v1\nkind: {kind}\n{key}: [{one}]\n")
        assert [what for _, what in said(chart)] == ["when-idle is exit, in a Pod with restartPolicy Always"]
    template = "{spec: {containers: [{image: pgidle}]}}"
    job = f"apiVersion: batch/v1\nkind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {template}}}}}}}\n"
    assert "when-idle is exit, in a CronJob" in str(said(of_kubernetes(job)))


@pytest.mark.parametrize(
    ("head", "severity", "what"),
    [
        (
            "apiVersion: postgresql.cnpg.io/v1\nkind: Cluster",
            WRONG,
            "an operator runs Postgres here: Cluster x",
        ),
        ("apiVersion: acid.zalan.do/v1\nkind: postgresql", WRONG, "an operator runs Postgres here"),
        ("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease", UNKNOWN, "what HelmRelease x makes"),
        ("apiVersion: argoproj.io/v1alpha1\nkind: Application", UNKNOWN, "what Application x makes"),
        ("apiVersion: v1\nkind: ConfigMap", UNKNOWN, "which container runs Postgres"),
    ],
)
def test_kinds_that_only_stand_for_a_postgres(head: str, severity: Severity, what: str) -> None:
    (found,) = said(of_kubernetes(f"{head}\nmetadata: {{name: x}}\n"))
    assert found[0] is severity
    assert what in found[1]


@pytest.mark.parametrize(
    "text",
    [
        "kind: Pod\nspec: {{ .Values.x }}\n",
        "{{- if .a }}\nkind: Pod\n{{ end }}\n",
        "services:\n  db: {% if x %}\n",
    ],
)
def test_a_template_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SettingsError, match="is a template"):
        files.read(str(tmp_path / "x.yaml"))


# Units that are not pgidle's, or not plainly.


def test_a_socket_of_somebody_else_s_is_not_judged(tmp_path: Path) -> None:
    docker = "[Socket]\nListenStream=/run/docker.sock\nSocketMode=0660\n"
    assert [one[0] for one in said(systemd.examine("docker.socket", docker, Context(), Beside()))] == [
        UNKNOWN
    ]
    (tmp_path / "a.socket").write_text("[Socket]\nListenStream=127.0.0.1:6000\nAccept=yes\n")
    (tmp_path / "a.service").write_text("[Service]\nExecStart=/opt/pgidle/bin/pgidle run -D /d\n")
    given = files.read(str(tmp_path / "a.socket"))
    assert "Accept=yes" in str(said(files.examine(given, Context(), [given])))
    (tmp_path / "a.service").write_text("[Service]\nExecStart=/usr/bin/other\n")
    assert said(files.examine(given, Context(), [given])) == [(UNKNOWN, "this socket does not start pgidle")]


@pytest.mark.parametrize(
    ("start", "severity"),
    [
        ("/bin/sh -c 'exec pgidle run -D /d'", UNKNOWN),
        ("/usr/local/bin/start-pgidle.sh", UNKNOWN),
        ("/usr/bin/docker run --rm pgidle", UNKNOWN),
        ("/usr/lib/postgresql/16/bin/postgres -D /d", WRONG),
        ("/opt/pgidle/bin/pgidle run -D /d --when-idle stay --idle-timeout $T", UNKNOWN),
    ],
)
def test_a_start_that_is_not_plain_is_not_called_wrong(start: str, severity: Severity) -> None:
    unit = f"[Service]\nExecStart={start}\nRestart=on-failure\nKillMode=mixed\n"
    found = said(systemd.examine("a.service", unit, Context(), Beside()))
    assert {one[0] for one in found} == {severity}


def test_variables_of_the_unit_are_put_in() -> None:
    unit = (
        "[Service]\nEnvironment=D=/d T=1h\nEnvironment='O=--when-idle stay'\nRestart=on-failure\nKillMode=mixed\n"
        "ExecStart=/opt/pgidle/bin/pgidle run -D ${D}/x --stop-timeout $T $O\n"
    )
    found = said(systemd.examine("a.service", unit, Context(), Beside()))
    assert found == [
        (
            WRONG,
            "TimeoutStopSec is not given, so it is 90s, and pgidle gives a fast shutdown 1h (stop-timeout)",
        )
    ]


def test_a_quadlet_is_not_read() -> None:
    chart = systemd.examine("a.container", "[Container]\nImage=pgidle\n", Context(), Beside())
    assert [one[0] for one in said(chart)] == [UNKNOWN]


def test_a_file_of_variables_that_is_not_there_hides_them() -> None:
    unit = (
        "[Service]\nExecStart=/opt/pgidle run -D /d\nEnvironmentFile=/etc/x\nRestart=always\nKillMode=mixed\n"
    )
    found = said(
        systemd.examine("a.service", unit, Context(), Beside(environment={"/etc/x": None}, socket="a.socket"))
    )
    assert WRONG not in [one[0] for one in found]
    assert (UNKNOWN, "whether Restart=always is right") in found


@pytest.mark.parametrize(
    ("more", "severity"),
    [
        ("ProtectSystem=strict", WRONG),
        ("ProtectSystem=strict\nReadWritePaths=/srv", None),
        ("ProtectSystem=strict\nReadWritePaths=/srv/other", WRONG),
        ("ProtectSystem=full", None),
        ("MemoryDenyWriteExecute=yes", NOTE),
    ],
)
def test_a_data_directory_that_the_unit_closes(more: str, severity: Severity | None) -> None:
    unit = "[Service]\nExecStart=/opt/pgidle run -D /srv/pg --when-idle stay\nRestart=on-failure\nKillMode=mixed\n"
    found = said(systemd.examine("a.service", unit + more, Context(), Beside()))
    assert [one[0] for one in found] == ([severity] if severity else [])
    home = unit.replace("/srv/pg", "/home/x/pg") + "ProtectHome=yes\n"
    assert [one[0] for one in said(systemd.examine("a.service", home, Context(), Beside()))] == [WRONG]


@pytest.mark.parametrize(
    ("start", "severity", "what"),
    [
        ("/usr/bin/miniflux", UNKNOWN, "whether this unit has to do with Postgres"),
        ("/usr/bin/pg_receivewal -D /x", NOTE, "pg_receivewal stays connected"),
        ("/bin/patroni /etc/patroni.yml", WRONG, "Patroni runs Postgres here"),
        ("-/usr/bin/pg_ctlcluster --skip-systemctl-redirect %i start", WRONG, "does not start `pgidle run`"),
    ],
)
def test_units_that_are_not_pgidle_s(start: str, severity: Severity, what: str) -> None:
    (found,) = said(systemd.examine("a.service", f"[Service]\nExecStart={start}\n", Context(), Beside()))
    assert found[0] is severity
    assert what in found[1]


# Kubernetes's own ways of losing data.


def test_a_deployment_starts_a_second_pod_beside_the_first() -> None:
    text = POD.format(more="", beside="").replace("kind: StatefulSet", "kind: Deployment")
    assert said(of_kubernetes(text)) == [
        (WRONG, "the strategy of the Deployment is RollingUpdate, the default")
    ]
    for strategy, wrong in (("{type: Recreate}", 0), ("{type: RollingUpdate, rollingUpdate: {maxSurge: 0}}", 0),
                            ("{rollingUpdate: {maxSurge: 1}}", 1)):  # fmt: skip
        chart = of_kubernetes(text.replace("  template:", f"  strategy: {strategy}\n  template:", 1))
        assert len(said(chart)) == wrong


def test_a_volume_s_root_is_no_data_directory() -> None:
    text = POD.format(more="", beside="").replace("pgidle:18", "pgidle:16")
    old = text.replace("/var/lib/postgresql}", "/var/lib/postgresql/data}")
    assert [one[0] for one in said(of_kubernetes(old))] == [NOTE, NOTE]
    sub_path = old.replace("/postgresql/data}", "/postgresql/data, subPath: x}")
    assert [one[0] for one in said(of_kubernetes(sub_path))] == [NOTE]


def test_of_what_does_not_start_pgidle_nothing_more_is_said() -> None:
    text = SERVICE.format(image="pgidle:18", volume="x:/y", more="").replace("PGIDLE_WHEN_IDLE: stay", "A: b")
    assert [one[0] for one in said(of_compose(f"{text}    command: [sh, -c, etcd]\n"))] == [UNKNOWN]


def test_fly_s_own_image_is_known_by_its_checks() -> None:
    flex = STOCK + '[checks.pg]\ntype = "http"\nport = 5500\npath = "/flycheck/pg"\n'
    found = said(of_fly(flex), "Fly's own")
    assert (WRONG, "check pg asks Fly's own Postgres image, on port 5500") in found
    bare = 'app = "x"\n[checks.pg]\ntype = "http"\nport = 5500\npath = "/flycheck/pg"\n'
    assert WRONG in [one[0] for one in said(of_fly(bare))]


def test_an_alpine_image_s_data_does_not_move_with_its_volume() -> None:
    chart = of_compose("services:\n  db: {image: 'postgres:16-alpine'}\n")
    assert "BASE=postgres:16 -t pgidle:16" in chart.findings[0].change
    assert "pg_dump" in chart.findings[0].change
    other = of_compose("services:\n  db: {image: 'pgvector/pgvector:pg17'}\n").findings[0].change
    assert "BASE=pgvector/pgvector:pg17 -t pgidle:17" in other


def test_who_is_reached_is_told_by_the_host_and_not_by_a_name() -> None:
    text = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="").replace(
        "  db:", "  postgres:"
    )
    for test, severities in (
        ("psql -U postgres -h 127.0.0.1 postgres", []),
        ("pg_isready -h postgres", [WRONG]),
        ("psql postgres://u@postgres/x -c 'select 1'", [WRONG]),
        ("nc -z postgres 5432", [WRONG]),
    ):
        app = f"  app:\n    image: app\n    healthcheck: {{test: {test!r}}}\n".replace("'select 1'", "x")
        assert [one[0] for one in said(of_compose(text + app.replace("\\'", "")))] == severities, test
    pool = "  pool:\n    image: edoburu/pgbouncer\n    healthcheck: {test: psql -h localhost postgres -c x}\n"
    assert [one[0] for one in said(of_compose(text + pool))] == [UNKNOWN]


def test_what_a_service_builds_is_looked_up() -> None:
    text = "services:\n  db:\n    build: ./pg\n    volumes: [pg:/var/lib/postgresql]\n"
    assert compose.named_files(read_yaml(text)[0]) == [".env", "pg/Dockerfile"]
    assert said(of_compose(text)) == [(UNKNOWN, "whether pgidle is in what service db runs")]
    for dockerfile, what in (
        ("FROM postgres:17", "no service here runs pgidle"),
        ("FROM r.io/pgidle:17", "when-idle is exit, with restart: no"),
    ):
        chart = of_compose(text, Context(beside={"pg/Dockerfile": dockerfile}))
        assert what in [one for _, one in said(chart)], dockerfile
    inline = text.replace("./pg", "{dockerfile_inline: 'FROM pgidle:16'}")
    assert "when-idle is exit" in str(said(of_compose(inline)))
    assert fly.named_files("[build]\ndockerfile = 'db/Dockerfile.pg'\n") == ["db/Dockerfile.pg"]


@pytest.mark.parametrize(
    ("service", "what"),
    [
        ("{image: x/pg-slave, environment: {REPLICATE_FROM: db}}", "other replicates from it"),
        ("{image: temporalio/auto-setup, environment: {POSTGRES_SEEDS: db}}", "asks Postgres"),
        ("{image: hasura/graphql-engine:v2, environment: {URL: 'postgres://u@db/x'}}", "asks Postgres"),
        ("{image: hasura/graphql-engine:v2, environment: {URL: 'postgres://u@rds/x'}}", None),
        ("{image: x/pg-slave, environment: {REPLICATE_FROM: elsewhere}}", None),
    ],
)  # fmt: skip
def test_others_that_keep_it_awake_by_what_they_are(service: str, what: str | None) -> None:
    text = SERVICE.format(image="pgidle:18", volume="pg:/var/lib/postgresql", more="")
    found = said(of_compose(f"{text}  other: {service}\n"))
    assert [one[0] for one in found] == [NOTE] * bool(what), found
    assert not what or what in found[0][1]


# Addresses, one by one.


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("X", "postgres://u:p%40@a:1/d?sslmode=require", [("a", "1", "require")]),
        ("X", "postgresql://a,b:2/d", [("a", "5432", ""), ("b", "2", "")]),
        ("X", "postgresql:///d?host=/run/pg", [("/run/pg", "5432", "")]),
        ("DATA_SOURCE_NAME", "user=u host=/tmp sslmode=disable", [("/tmp", "5432", "disable")]),
        ("DSN", "host=a port=7 dbname=d", [("a", "7", "")]),
        ("PGHOST", "a", [("a", "5432", None)]),
        ("PG_HOST", "a:6", [("a", "6", None)]),
        ("MYSQL_HOST", "a", []),
        ("HOST", "a", []),
        ("POSTGRES_HOST_AUTH_METHOD", "trust", []),
        ("PGHOST", "http://a", []),
    ],
)
def test_addresses(name: str, value: str, found: list[tuple[str, str, str | None]]) -> None:
    assert [(one.host, one.port, one.sslmode) for one in addresses([Variable(name, value, 1)])] == found


# What was read is said, and what was not.


def test_every_file_says_what_was_read_and_what_not() -> None:
    charts = [
        of_fly(STOCK), of_compose(SERVICE.format(image="pgidle:18", volume="x:/y", more="")), pod(),
        systemd.examine("a.service", "[Service]\nExecStart=x\nCPUQuota=1%\n", Context(), Beside()),
    ]  # fmt: skip
    for chart in charts:
        assert chart.read, chart.subject
        assert chart.not_read, chart.subject
    assert "[Service]: CPUQuota" in charts[3].not_read
    assert all(subject["read"] and subject["not_read"] for subject in as_dict(charts)["subjects"])
    shown = " ".join(as_text(charts).split())
    assert "read as flyctl" in shown
    assert "not read [Service]: CPUQuota" in shown
    assert "nothing wrong in what was read" not in shown
    assert "nothing wrong in what was read" in as_text([of_fly(STOCK)])


def test_a_fifo_hangs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SettingsError, match="nothing came out of it"):
        files.read(str(tmp_path / "fifo"))
    monkeypatch.setattr(files, "PATIENCE", 60.0)
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_text(STOCK))
    writer.start()
    assert files.read(str(tmp_path / "fifo")).kind is Platform.FLY
    writer.join()


def test_a_pipe_is_read_to_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pgidle", "doctor", "/dev/stdin"], input=STOCK, capture_output=True, text=True,
        check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "whether pgidle runs here" in re.sub(r"\s+", " ", done.stdout)

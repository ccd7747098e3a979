"""Whoever asks Postgres all the time, beside it in the same file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, of_compose, of_fly, said
from harness.platform_files import SERVICE, STOCK, pod
from pgidle.doctor.platforms.neighbours import is_monitor
from pgidle.doctor.readers import image_names

if TYPE_CHECKING:
    from pgidle.doctor.finding import Severity


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


def test_fly_s_own_image_is_known_by_its_checks() -> None:
    flex = STOCK + '[checks.pg]\ntype = "http"\nport = 5500\npath = "/flycheck/pg"\n'
    found = said(of_fly(flex), "Fly's own")
    assert (WRONG, "check pg asks Fly's own Postgres image, on port 5500") in found
    bare = 'app = "x"\n[checks.pg]\ntype = "http"\nport = 5500\npath = "/flycheck/pg"\n'
    assert WRONG in [one[0] for one in said(of_fly(bare))]


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

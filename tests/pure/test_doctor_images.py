"""What the doctor tells from an image: its version, where its data lies, whether pgidle is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, of_compose, said
from harness.platform_files import SERVICE
from pgidle.base.platform_limits import image_major
from pgidle.doctor.platforms import compose, fly
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.yaml_tree import read_yaml

if TYPE_CHECKING:
    from pgidle.doctor.finding import Severity


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


def test_an_alpine_image_s_data_does_not_move_with_its_volume() -> None:
    chart = of_compose("services:\n  db: {image: 'postgres:16-alpine'}\n")
    assert "BASE=postgres:16 -t pgidle:16" in chart.findings[0].change
    assert "pg_dump" in chart.findings[0].change
    other = of_compose("services:\n  db: {image: 'pgvector/pgvector:pg17'}\n").findings[0].change
    assert "BASE=pgvector/pgvector:pg17 -t pgidle:17" in other


def test_what_a_service_builds_is_looked_up() -> None:
    text = "services:\n  db:\n    build: ./pg\n    volumes: [pg:/var/lib/postgresql]\n"
    assert compose.named_files(read_yaml(text)[0]) == [".env", "pg/Dockerfile"]
    assert said(of_compose(text)) == [(UNKNOWN, "whether service db runs pgidle")]
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
        ("{image: x/pg-slave, environment: {REPLICATE_FROM: db}}", "other replicates from this Postgres"),
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

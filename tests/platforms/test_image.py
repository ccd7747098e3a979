"""The container image: built by its Dockerfile and run as containers, by Linux's own means instead of an engine."""

from __future__ import annotations

import os
import time
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness import containers
from harness.containers import Container, Image
from harness.namespaces import own_network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.installations import Place

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

FIRST = {"POSTGRES_PASSWORD": "secret", "POSTGRES_DB": "app", "POSTGRES_INITDB_ARGS": "--no-sync"}
LONG = {"PGIDLE_IDLE_TIMEOUT": "1h"}
SHORT = {"PGIDLE_IDLE_TIMEOUT": "1s", "PGIDLE_MIN_AWAKE": "0s"}
CONNINFO = "host=127.0.0.1 user=postgres password=secret dbname=app connect_timeout=20"
POSTGRES = (999, 999)
STRANGER = (12345, 0)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if why := containers.missing():
        assert os.environ.get("CI") != "true", f"the image must be built here: {why}"
        pytest.skip(why)
    with ExitStack() as stack:
        yield stack.enter_context(containers.built())[1]


@pytest.fixture
def network(image: Image) -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
def work(place: Place) -> Path:
    folder = place.folder("container")
    folder.chmod(0o755)
    return folder


def carry_out(statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(CONNINFO) as connection:
        done = connection.execute(statement)
        return done.fetchall() if done.description else []


@pytest.mark.usefixtures("network")
def test_first_start_sleep_and_second_start(image: Image, work: Path) -> None:
    scripts = work / "initdb.d"
    scripts.mkdir()
    (scripts / "1.sql").write_text("CREATE TABLE kept AS SELECT 1 AS n")
    mounts = {"/docker-entrypoint-initdb.d": scripts, "/var/lib/postgresql": work / "data"}
    with Container(image, work, env=FIRST | SHORT, volumes=mounts) as one:
        one.wait_log("awake:")
        assert "gate: " not in one.text
        assert one.wait() == 0, one.text
        assert "asleep: Postgres shut down cleanly" in one.text
    with Container(image, work, "-c", "work_mem=7MB", env=LONG, volumes=mounts) as one:
        one.wait_log("awake:")
        assert "initdb" not in one.text
        assert carry_out("SELECT n, current_setting('work_mem') FROM kept") == [(1, "7MB")]
        # What `docker stop` sends.
        assert one.stop() == 0, one.text
        assert "SIGINT" in one.wait_log("terminating:")
        assert "database system is shut down" in one.text


@pytest.mark.usefixtures("network")
def test_commands_inside_and_reaping(image: Image, work: Path) -> None:
    with Container(image, work, env=FIRST | LONG) as one:
        one.wait_log("awake:")
        for user in ((0, 0), POSTGRES):
            assert "gate        shared" in one.exec("pgidle", "status", user=user).stdout
            health = one.exec(*image.config["Healthcheck"]["Test"][1:], user=user)
            assert (health.returncode, health.stdout) == (0, "awake\n"), health
        # The way that costs little, and not the other that says the same.
        light = "import os; from pgidle.cli.health import health; print(health(os.environ))"
        assert one.exec("env", "PYTHONPATH=/opt/pgidle", "python3", "-c", light).stdout == "('awake', 0)\n"
        for host in ("127.0.0.1", "[::1]"):
            with urllib.request.urlopen(f"http://{host}:8008/ready") as answer:
                assert answer.status == 200
        assert one.exec("psql", "-d", "app", "-Atc", "SELECT 5", user=POSTGRES).stdout == "5\n"
        # An orphan: who started it ended without waiting.
        orphan = int(one.exec("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!").stdout)
        assert orphan in one.processes()
        one.exec("kill", "-KILL", str(orphan))
        until = time.monotonic() + containers.PATIENCE
        while orphan in one.processes():
            assert time.monotonic() < until, one.processes()
        assert one.processes()[1].endswith(" tini")
        assert one.stop() == 0


@pytest.mark.usefixtures("network")
def test_any_user_and_a_read_only_root(image: Image, work: Path) -> None:
    data = work / "mine"
    data.mkdir()
    os.chown(data, *STRANGER)
    with Container(
        image,
        work,
        env=FIRST | LONG,
        user=STRANGER,
        volumes={"/var/lib/postgresql": data},
        tmpfs=("/run/postgresql", "/tmp"),
        read_only=True,
    ) as one:
        one.wait_log("awake:")
        assert carry_out("SELECT 5") == [(5,)]
        assert one.exec("pgidle", "health").stdout == "awake\n"
        assert one.stop() == 0, one.text


@pytest.mark.usefixtures("network")
def test_it_may_be_the_first_process(image: Image, work: Path) -> None:
    with Container(image, work, env=FIRST | LONG, entrypoint=image.config["Entrypoint"][-1:]) as one:
        one.wait_log("awake:")
        assert "entrypoint" in one.processes()[1]
        assert one.stop() == 0, one.text


def test_words_and_what_becomes_of_them(image: Image, work: Path) -> None:
    def says(*words: str, **env: str) -> tuple[int, str]:
        with Container(image, work, *words, env=env) as one:
            return one.wait(), one.text.split("\n", 1)[1]

    assert says("psql", "--version")[1].startswith("psql (PostgreSQL)")
    assert says("sh", "-c", "echo $PGDATA; exit 5") == (5, image.env["PGDATA"])
    assert says("--version")[1].startswith("postgres (PostgreSQL)")
    assert "idle-timeout      9min" in says("pgidle", "config", PGIDLE_IDLE_TIMEOUT="9min")[1]
    hint = "is pgidle's own to set, and this goes to postgres: set PGIDLE_"
    assert says("--when-idle", "stay") == (
        2,
        f"pgidle: --when-idle {hint}WHEN_IDLE, or write: pgidle run --when-idle ...",
    )
    assert f"-p {hint}PORT" in says("postgres", "-p", "5433")[1]
    assert f"port=1 {hint}PORT" in says("-c", "port=1")[1]
    assert says("run") == (127, "pgidle: run cannot be run: No such file or directory: write: pgidle run")
    status, text = says()
    assert (status, text.count("\n")) == (2, 0)
    assert "POSTGRES_PASSWORD" in text


def test_a_volume_at_the_place_of_old_is_not_passed_over(image: Image, work: Path) -> None:
    volumes = {
        name: work / name.rsplit("/", 1)[1] for name in ("/var/lib/postgresql", "/var/lib/postgresql/data")
    }
    with Container(image, work, env=FIRST, volumes=volumes) as one:
        assert one.wait() == 1
        assert "a volume is mounted at /var/lib/postgresql/data" in one.text


def test_nothing_is_left_of_the_build_and_all_is_compiled(image: Image, work: Path) -> None:
    for gone in ("src", "build", "usr/bin/gcc", "usr/bin/pip3"):
        assert not (image.root / gone).exists()
    assert not list((image.root / "var/lib/apt/lists").iterdir())
    load = (
        "import sys; sys.path.insert(0, '/opt/pgidle');"
        "from pgidle.run import boot, supervisor; from pgidle.cli import commands; import pgidle.observer.main_loop;"
        "import os; print([n for n, m in list(sys.modules.items()) if getattr(m, '__file__', '')"
        " and m.__file__.endswith('.py') and not os.path.exists(getattr(m, '__cached__', None) or '/')],"
        " 'pgidle.cli.commands' in sys.modules)"
    )
    with Container(image, work, "/usr/bin/python3", "-SEBs", "-c", load) as one:
        assert one.wait() == 0
        assert one.lines[-1] == "[] True"

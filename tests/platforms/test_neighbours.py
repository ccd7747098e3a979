"""Programs that live beside a database: a metrics exporter that scrapes all the time, jobs in pg_cron."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from harness.installations import debian, free_port
from harness.namespaces import own_network
from harness.postgres_fixture import wait_until
from harness.stopped import Stopped
from harness.supervised import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.installations import Installation, Place
    from harness.supervised import Launch, Supervised

SCRAPE_INTERVAL = 0.2  # seconds
EXPORTER = "prometheus-postgres-exporter"
IGNORED = {"when_idle": "stay", "idle_timeout": "1s", "ignore": "application_name=postgres_exporter"}


@dataclass(frozen=True, slots=True)
class Exporter:
    port: int

    def scrape(self) -> bool:
        """Whether it reached Postgres."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            return "\npg_up 1\n" in answer.read().decode()


@contextlib.contextmanager
def exporter(host: str, port: int) -> Iterator[Exporter]:
    if not shutil.which(EXPORTER):
        pytest.skip(f"no {EXPORTER} (apt-get install {EXPORTER})")
    own = free_port()
    name = f"host={host} port={port} user=postgres dbname=postgres sslmode=disable connect_timeout=2"
    with subprocess.Popen(
        [EXPORTER, f"--web.listen-address=127.0.0.1:{own}"],
        env={"DATA_SOURCE_NAME": f"{name} application_name=postgres_exporter"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            one = Exporter(own)
            wait_until(lambda: _listens(own))
            yield one
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
        return True
    return False


def has_slept(one: Supervised, mark: int) -> bool:
    return any(line.data.get("state") == "asleep" for line in one.lines[mark:])


def scrape_until_asleep(one: Supervised, scraped: Exporter, mark: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not has_slept(one, mark):
        assert time.monotonic() < deadline, "it never slept while it was scraped"
        scraped.scrape()
        time.sleep(SCRAPE_INTERVAL)


def test_an_ignored_exporter_of_a_network_that_wakes_nobody(newest: Installation, launch: Launch) -> None:
    one = launch(newest, **IGNORED, no_wake="::1", listen_addresses="127.0.0.1,::1")
    one.wait_for_state("awake")
    with exporter("::1", one.port) as scraped:
        assert scraped.scrape()
        mark = 0
        for _ in range(2):
            scrape_until_asleep(one, scraped, mark)
            mark = one.mark()
            for _ in range(3):
                assert not scraped.scrape()
            assert not any("state" in line.data for line in one.lines[mark:]), "a scrape woke it"
            with psycopg.connect(one.conninfo()):
                wait_until(scraped.scrape)


@pytest.mark.parametrize("kind", ["TCP", "Unix socket"])
def test_an_ignored_exporter_does_not_keep_awake_but_wakes(
    newest: Installation, launch: Launch, place: Place, kind: str
) -> None:
    """The gate cannot tell who waits there."""
    sockets = place.folder()
    sockets.chmod(0o755)
    one = launch(newest, **IGNORED, socket_dir=str(sockets))
    one.wait_for_state("awake")
    with exporter("127.0.0.1" if kind == "TCP" else str(sockets), one.port) as scraped:
        assert scraped.scrape()
        mark = one.mark()
        # The scrape in whose instant it is cut may fail, as any session's statement then.
        scrape_until_asleep(one, scraped, mark)
        wait_until(scraped.scrape)
        one.wait_for_state("awake", since=mark)
        said = one.wait_log("is ignored, but woke Postgres", since=mark)
    assert 'app "postgres_exporter", user postgres' in said.data["reason"]


def test_the_launcher_of_pg_cron_does_not_keep_awake(launch: Launch) -> None:
    """Its jobs come once a minute at most; as sessions or working processes they are known to test_watcher_activity."""
    found = debian()
    library = f"/usr/lib/postgresql/{found.major}/lib/pg_cron.so" if found else ""
    if found is None or not Path(library).exists():
        pytest.skip("no pg_cron (apt-get install postgresql-15-cron)")
    preload = ("-c", "shared_preload_libraries=pg_cron", "-c", "cron.database_name=postgres")
    one = launch(found, when_idle="stay", idle_timeout="1s", postgres=preload)
    one.wait_for_state("awake")
    with psycopg.connect(one.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_cron")
        connection.execute("SELECT cron.schedule('yearly', '0 0 1 1 *', 'SELECT 1')")
        launchers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cron launcher'"
        wait_until(lambda: connection.execute(launchers).fetchone() == (1,))
    one.wait_for_state("asleep")


@pytest.mark.parametrize("ends", ["hung up", "reset"])
def test_connections_that_gave_up_never_keep_a_client_out(
    newest: Installation, launch: Launch, ends: str
) -> None:
    """They stay in the queue that all share, until Postgres takes them from it."""
    with own_network():
        Path("/proc/sys/net/core/somaxconn").write_text("8")
        one = launch(newest, idle_timeout="200ms", when_idle="stay", no_wake="127.0.0.9")
        one.wait_for_state("asleep")
        mark = one.mark()
        for _ in range(20):
            try:
                visitor = socket.create_connection(("127.0.0.1", one.port), 2, ("127.0.0.9", 0))
            except TimeoutError:
                break
            if ends == "reset":
                visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            visitor.close()
        with psycopg.connect(one.conninfo(connect_timeout=10)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        said = one.wait_for_state("starting", since=mark).data["reason"]
    taken = r"(\d) of 8 places in the queue at 127\.0\.0\.1 are taken by connections that wake nobody"
    assert re.fullmatch(rf"{taken}, \1 of them given up", said), said


def two_folders(one: Supervised, place: Place) -> tuple[Path, Path]:
    """Have it two folders of Unix sockets, of which the second wakes nobody: the paths of both."""
    folders = [place.folder("held"), place.folder("door")]
    for folder in folders:
        folder.chmod(0o755)
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{folders[0]}, {folders[1]}'\n")
    one.options.setdefault("no-wake", str(folders[1]))
    held, door = (folder / f".s.PGSQL.{one.port}" for folder in folders)
    return held, door


def door_in(
    launch: Launch, installation: Installation, place: Place, **options: object
) -> tuple[Supervised, Path, Path]:
    """One that runs with those, and their paths."""
    given = {"when_idle": "stay", "idle_timeout": "200ms", **options}
    one = launch(installation, start=False, **given)
    paths = two_folders(one, place)
    one.start()
    return one, *paths


def visit(path: Path, **more: object) -> str:
    """What becomes of a client at a Unix socket."""
    try:
        with psycopg.connect(
            host=str(path.parent), port=path.suffix[1:], user="postgres", dbname="postgres", **more
        ):
            return "served"
    except psycopg.OperationalError as error:
        return str(error)


def test_a_folder_that_wakes_nobody_is_refused_while_it_sleeps_and_served_while_awake(
    installation: Installation, launch: Launch, place: Place
) -> None:
    one, held, door = door_in(launch, installation, place, idle_timeout="1s")
    one.wait_for_state("awake")
    for _ in range(3):
        assert visit(door) == "served"
        mode = door.stat().st_mode
        # Until then it is one among others.
        wait_until(lambda: not door.exists() and one.states[-1] == "asleep")
        mark = one.mark()
        for _ in range(3):
            assert "No such file or directory" in visit(door)
        assert not list(door.parent.iterdir())
        assert not any("state" in line.data for line in one.lines[mark:])
        assert visit(held) == "served"
        assert door.stat().st_mode == mode
        wait_until(lambda: one.states[-1] == "awake")
    assert not [line.text for line in one.lines if line.data.get("topic") in ("gate", "no-wake")]
    assert one.stop() == 0
    assert not list(door.parent.iterdir())
    assert not list(held.parent.iterdir())


def test_who_comes_to_such_a_folder_before_it_sleeps_is_served(newest: Installation, place: Place) -> None:
    one = Stopped(newest, place, "before LOOK_AT_QUEUE", when_idle="stay", idle_timeout="200ms")
    _, door = two_folders(one, place)
    one.arm()
    with one, ThreadPoolExecutor() as clients:
        one.reached()
        visits = [clients.submit(visit, door) for _ in range(3)]
        wait_until(lambda: one.parked_at_unix_socket(door.parent) == 3)
        one.release()
        assert [each.result() for each in visits] == ["served"] * 3


def test_a_folder_is_made_to_wake_nobody_while_it_sleeps_and_back(
    newest: Installation, launch: Launch, place: Place
) -> None:
    config = place.folder() / "pgidle.toml"
    config.write_text("")
    one, held, door = door_in(launch, newest, place, no_wake=None, config=str(config))
    one.wait_for_state("asleep")
    assert door.is_socket()
    mode, mark = door.stat().st_mode, one.mark()
    config.write_text(f'no-wake = ["{door.parent}/"]')
    one.signal(signal.SIGHUP)
    wait_until(lambda: not door.exists())
    assert "No such file or directory" in visit(door)
    config.write_text('no-wake = ["10.0.0.1"]')
    one.signal(signal.SIGHUP)
    wait_until(door.is_socket)
    assert door.stat().st_mode == mode
    assert Path(f"{door}.lock").read_text().split("\n")[0] == str(one.pid)
    assert one.states[-1] == "asleep"
    assert visit(door) == "served"
    one.wait_for_state("awake", since=mark)
    assert visit(held) == "served"


def test_a_folder_that_postgres_does_not_have_is_named_once(
    newest: Installation, launch: Launch, place: Place
) -> None:
    elsewhere = place.folder("elsewhere")
    one, held, _ = door_in(launch, newest, place, no_wake=str(elsewhere))
    for _ in range(2):
        mark = one.mark()
        one.wait_for_state("asleep", since=mark)
        assert visit(held) == "served"
    said = [line.data["reason"] for line in one.lines if str(elsewhere) in line.text and "topic" in line.data]
    assert said == [f"no-wake: {elsewhere} is none of Postgres's unix_socket_directories"]


@pytest.mark.parametrize("kind", ["stay", "exit"])
def test_an_exporter_at_a_folder_that_wakes_nobody(
    newest: Installation, launch: Launch, place: Place, kind: str
) -> None:
    ignored = {**IGNORED, "when_idle": kind}
    one, held, door = door_in(launch, newest, place, **ignored)
    one.wait_for_state("awake")
    with exporter(str(door.parent), one.port) as scraped:
        assert scraped.scrape()
        mark = 0
        for _ in range(2):
            scrape_until_asleep(one, scraped, mark)
            wait_until(lambda: not door.exists())
            mark = one.mark()
            for _ in range(3):
                assert not scraped.scrape()
            if kind == "exit":
                assert one.wait() == 0
                one.start()
            else:
                assert not any("state" in line.data for line in one.lines[mark:]), "a scrape woke it"
                assert visit(held) == "served"
            wait_until(scraped.scrape)
    assert not [line.text for line in one.lines if "is ignored, but woke Postgres" in line.text]

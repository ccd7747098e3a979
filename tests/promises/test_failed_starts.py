"""Starts that fail: who waits goes on waiting, it can be found out why, and what is mended is noticed by itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from harness.faults import fill, last_reason, start_again
from harness.installations import free_port
from harness.postgres_fixture import Cluster, wait_until
from pgidle.postgres.collected_log import end_of_log
from pgidle.postgres.error_messages import last_complaint
from pgidle.postgres.stderr_copy import ErrorCopy
from pgidle.system.event_loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.installations import Installation, Place
    from harness.supervised import Supervised

pytestmark = pytest.mark.heavy


def status(one: Supervised) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(one.pgidle("status", "--json").stdout)
    return found


@contextmanager
def failing(
    one: Supervised, is_known: Callable[[dict[str, Any]], bool], socket_dir: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Asleep, and unable to start: a client over TCP and one over the Unix socket come and wait until the block ends,
    in which what keeps it from starting is mended. The status, once there were four failed starts."""
    pool = ThreadPoolExecutor(2)
    places = one.conninfo(), one.conninfo(host=str(socket_dir or one.socket_dir))
    asked = [pool.submit(query_at, where) for where in places]
    pool.shutdown(wait=False)
    seen: dict[str, Any] = {}

    def is_seen() -> bool:
        seen.update(status(one))
        failed = seen["failed_start"]
        return failed is not None and failed["count"] >= 4 and is_known(seen)

    wait_until(is_seen, lambda: f"{seen.get('failed_start')} {one.lines[-30:]}")
    assert seen["state"] == "starting"
    assert not [client.exception() for client in asked if client.done()]
    yield seen
    assert [client.result(60) for client in asked] == [(1,), (1,)]
    assert status(one)["failed_start"] is None
    assert not any("Traceback" in line.text for line in one.lines)


def query_at(conninfo: str) -> object:
    import psycopg

    with psycopg.connect(conninfo, connect_timeout=120) as connection:
        return connection.execute("SELECT 1").fetchone()


def asleep(one: Supervised) -> Supervised:
    one.wait_for_state("asleep")
    return one


def says(words: str, seen: dict[str, Any]) -> bool:
    return words in seen["failed_start"]["why"]


def test_a_mistake_in_a_file_is_named_and_mended(installation: Installation, launch):
    http = free_port()
    one = asleep(launch(installation, when_idle="stay", idle_timeout="200ms", http=f"127.0.0.1:{http}"))
    conf = one.data_dir / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "nonsense = on\n")
    mark = one.mark()
    with failing(one, partial(says, 'unrecognized configuration parameter "nonsense"')) as seen:
        why = seen["failed_start"]["why"]
        assert "contains errors" in why
        table = one.pgidle("status").stdout
        assert "problem" in table
        assert "unrecognized configuration parameter" in table
        one.wait_log("the postmaster exited with status 1: .*unrecognized configuration", since=mark)
        with urlopen(f"http://127.0.0.1:{http}/health") as answer:
            assert answer.status == 200
            assert json.load(answer) == {"state": "starting", "problem": why}
        with urlopen(f"http://127.0.0.1:{http}/metrics") as answer:
            metrics = dict(
                line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#"
            )
        assert int(metrics["pgidle_consecutive_start_failures"]) >= 4
        health = one.pgidle("health")
        assert (health.returncode, health.stdout) == (0, "starting\n")
        conf.write_text(good)
    # Said once, and that it is over; Postgres's own lines are all there.
    one.wait_log("that is over", since=mark)
    said = [
        line for line in one.lines[mark:] if line.data.get("topic") == "start" and "nonsense" in line.text
    ]
    assert len(said) == 2
    assert "that is over" in said[1].text
    assert len([line for line in one.lines[mark:] if not line.data and "nonsense" in line.text]) >= 4
    assert one.stop() == 0


def test_a_disk_that_is_full_and_has_room_again(newest: Installation, place: Place, small_disk: Path, launch):
    data_dir, original = small_disk / "data", place.data_dir(newest)
    subprocess.run(["cp", "-a", original, data_dir], check=True)
    one = asleep(launch(newest, data_dir=data_dir, when_idle="stay", idle_timeout="200ms"))
    wait_until((data_dir / "pgidle/last.json").exists)
    hog = fill(small_disk)
    with failing(one, partial(says, "No space left on device"), original.parent / "s"):
        hog.unlink()
    assert one.stop() == 0


def test_a_control_file_that_is_gone_and_comes_back(installation: Installation, launch):
    one = asleep(launch(installation, when_idle="stay", idle_timeout="200ms"))
    control = one.data_dir / "global/pg_control"
    hidden = control.rename(control.with_name("hidden"))
    with failing(one, partial(says, "could not open file")):
        hidden.rename(control)
    assert one.stop() == 0


def test_what_a_log_collector_has_written_is_found(installation: Installation, launch):
    """WAL that is gone: by then the log goes to a file."""
    one = launch(
        installation,
        when_idle="stay",
        idle_timeout="200ms",
        postgres=("-c", "logging_collector=on", "-c", "log_line_prefix=%m é "),
    )
    asleep(one)
    wal = one.data_dir / "pg_wal"
    segment = next(path for path in sorted(wal.iterdir()) if path.is_file())
    hidden = segment.rename(one.data_dir / "hidden")
    with failing(one, lambda seen: says("checkpoint record", seen)):
        hidden.rename(segment)
    assert one.stop() == 0


def test_programs_that_are_gone_and_come_back(newest: Installation, place: Place, launch):
    copy = place.folder() / "copy"
    subprocess.run(["cp", "-a", newest.bin_dir.parent, copy], check=True)
    programs = copy / newest.bin_dir.name
    one = asleep(launch(newest, bin_dir=str(programs), when_idle="stay", idle_timeout="200ms"))
    hidden = (programs / "postgres").rename(programs / "hidden")
    with failing(one, partial(says, "No such file or directory")):
        hidden.rename(programs / "postgres")
    assert one.stop() == 0


def in_place_of_postgres(installation: Installation, place: Place, script: str) -> Path:
    """A folder of programs of which postgres is a script."""
    programs = place.folder("programs")
    programs.chmod(0o755)
    for one in installation.bin_dir.iterdir():
        (programs / one.name).symlink_to(one)
    postgres = programs / "postgres"
    postgres.unlink()
    postgres.write_text(script.format(installation.program("postgres")))
    postgres.chmod(0o755)
    return programs


def test_a_script_in_place_of_postgres_may_execute_it(installation: Installation, place: Place, launch):
    programs = in_place_of_postgres(installation, place, '#!/bin/sh\numask 077\nexec {} "$@"\n')
    one = asleep(launch(installation, bin_dir=str(programs), when_idle="stay", idle_timeout="200ms"))
    mark = one.mark()
    for where in (one.conninfo(), one.conninfo(host=str(one.socket_dir))):
        assert query_at(where) == (1,)
    one.wait_for_state("asleep", since=mark)
    assert not [line.text for line in one.lines if line.data.get("topic") in ("gate", "start")]
    assert one.stop() == 0


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('#!/bin/sh\n{} "$@"\nexit $?\n', r"started by process \d+, and not by pgidle .*must exec it"),
        ('#!/bin/sh\nunset LD_PRELOAD\nexec {} "$@"\n', "ran without the library that pgidle preloads"),
    ],
    ids=["forks", "loses the library"],
)
def test_a_script_in_place_of_postgres_that_cannot_work_is_named(
    newest: Installation, place: Place, launch, script: str, said: str
):
    programs = in_place_of_postgres(newest, place, script)
    one = launch(newest, bin_dir=str(programs), start=False)
    one.start()
    one.wait_log(rf"Postgres does not start.*{said}")
    assert one.wait() == 1
    assert re.search(said, last_reason(one))


def test_another_server_that_runs_on_the_data_directory_and_ends(newest: Installation, launch):
    one = asleep(launch(newest, when_idle="stay", idle_timeout="200ms"))
    with Cluster(newest.bin_dir, one.data_dir) as other:
        other.start()
        with failing(one, partial(says, f"another server (pid {other.pid}) is running")):
            other.stop()
    assert one.stop() == 0


@pytest.mark.parametrize("is_cause_mended", [True, False])
def test_who_exits_leaves_the_reason_behind(installation: Installation, launch, is_cause_mended: bool):
    one = launch(installation, start=False)
    conf = one.data_dir / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "nonsense = on\n")
    one.start()
    assert one.wait() == 1
    assert "nonsense" in last_reason(one)
    for _ in range(2):
        said = one.pgidle("status")
        assert said.returncode == 3
        assert "failed" in said.stdout
        assert 'unrecognized configuration parameter "nonsense"' in said.stdout
        assert "nonsense" in status(one)["failure"]["why"]
        if is_cause_mended:
            break
        one.start()
        assert one.wait() == 1
    conf.write_text(good)
    start_again(one)
    assert one.stop() == 0
    assert "nonsense" not in one.pgidle("status").stdout
    assert status(one)["failure"] is None


def test_on_a_full_disk_the_reason_is_left_behind_too(
    newest: Installation, place: Place, small_disk: Path, launch
):
    data_dir = small_disk / "data"
    subprocess.run(["cp", "-a", place.data_dir(newest), data_dir], check=True)
    one = launch(newest, data_dir=data_dir)
    one.wait_for_state("awake")
    assert one.stop() == 0
    hog = fill(small_disk)
    one.start()
    assert one.wait() == 1
    assert "No space left on device" in one.pgidle("status").stdout
    hog.unlink()


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (b"LOG:  starting\nFATAL:  no room\nLOG:  database system is shut down\n", "no room"),
        (b'%m LOG:  syntax error in file "x" line 8\nFATAL:  file "x" contains errors\n',
         'syntax error in file "x" line 8: file "x" contains errors'),
        (b"ERROR:  one\nPANIC:  two\nFATAL:  three\nERROR:  four\n", "three"),
        (b"ERROR:  one\nLOG:  two\n", "one"),
        ("1 [2] 致命错误:  磁盘已满\n日志:  数据库系统已关闭\n".encode(), "磁盘已满"),
        ("FATAL:  Plus de m\u00e9moire\n".encode("latin-1"), "Plus de m\ufffdmoire"),
        (b"postgres: could not find it\nExpected it there\n", "postgres: could not find it Expected it there"),
        (b"LOG:  FATALITIES:  none\nDETAIL:  ERROR-free\n", ""),
        (b"FATAL:  " + b"x" * 9999, "x" * 500 + "..."),
        (b"", ""),
    ],
)  # fmt: skip
def test_the_last_complaint(said: bytes, known: str):
    assert last_complaint(said) == known


@pytest.mark.parametrize("format", ["stderr", "jsonlog", "csvlog"])
def test_the_end_of_a_collected_log(place: Place, format: str):
    data_dir = place.folder()
    lines = {
        "stderr": "2026 FATAL:  no room\n",
        "jsonlog": '{"error_severity":"FATAL","message":"no room"}\n{"error_sev',
        "csvlog": ",,,,,,,,,,,FATAL,53100,no room,,\n,,,",
    }
    log = data_dir / "one.log"
    log.write_text("x" * 20000 + "\n" + lines[format])
    assert end_of_log(str(data_dir), 0.0) == b""
    (data_dir / "current_logfiles").write_text(f"{format} one.log\n")
    assert last_complaint(end_of_log(str(data_dir), log.stat().st_mtime)) == "no room"
    assert end_of_log(str(data_dir), log.stat().st_mtime + 2) == b""
    log.unlink()
    os.mkfifo(log)
    assert end_of_log(str(data_dir), 0.0) == b""


def test_a_reader_that_stops_costs_no_more_with_each_start():
    """What a start has said that failed is given up when there is still no room for it at the next."""
    loop = Loop()
    reading, writing = os.pipe()
    os.write(writing, bytes(65536))
    for number in range(3):
        copied = ErrorCopy(loop, writing)
        os.write(copied.writing, b"FATAL:  no %d\n" % number)
        copied.spawned()
        copied.drain()
        assert loop.is_set(copied)
        if number < 2:
            copied.give_up()
            assert not loop.is_set(copied)
    os.read(reading, 65536)
    while loop.is_set(copied):
        loop.turn()
    assert os.read(reading, 65536) == b"FATAL:  no 2\n"
    os.close(reading)
    os.close(writing)


def test_a_reader_that_stops_holds_nobody_up_but_postgres():
    """What stderr has no room for is written later; nothing is lost, and no more than a pipe is kept."""
    loop = Loop()
    reading, writing = os.pipe()
    copied = ErrorCopy(loop, writing)
    lines = b"".join(b"%06d %s\n" % (number, b"x" * 100) for number in range(5000))
    os.set_blocking(copied.writing, False)
    sent = got = b""
    while len(sent) < len(lines):
        try:
            sent += lines[len(sent) : len(sent) + os.write(copied.writing, lines[len(sent) :])]
        except BlockingIOError:
            loop.turn()
            if len(sent) - len(got) > 120_000:
                got += os.read(reading, 60_000)
    copied.spawned()
    copied.drain()
    while len(got) < len(lines):
        if loop.is_set(copied):
            loop.turn()
        got += os.read(reading, 60_000)
    assert got == lines
    assert lines.endswith(copied.said)
    os.close(reading)
    os.close(writing)

"""The units that `pgidle init systemd` writes: systemd accepts them; little is left that they may do, and enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.postgres_fixture import wait_until
from harness.systemd_units import init

if TYPE_CHECKING:
    from harness.installations import Installation, Place


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (apt-get install systemd)"
)
@pytest.mark.parametrize("name", ["", "shop"])
def test_systemd_accepts_every_line(place: Place, name: str) -> None:
    folder = init(place.folder("units"), *(("--name", name) if name else ()))
    unit = f"pgidle@{name}" if name else "pgidle"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"{unit}.socket", f"{unit}.service"],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:/usr/lib/systemd/system"},
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "pgidle" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (apt-get install systemd)"
)
@pytest.mark.parametrize("name", ["", "shop"])
def test_little_is_left_that_it_may_do(place: Place, name: str) -> None:
    """Below 4.0 of 10; Debian's postgresql@ has 9.6."""
    folder = init(place.folder("units"), *(("--name", name) if name else ()))
    unit = f"pgidle@{name}.service" if name else "pgidle.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=39", unit],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:/usr/lib/systemd/system"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_postgres_and_its_programs_do_they_may(
    installation: Installation, place: Place, instance
) -> None:
    one = instance("hard", idle_timeout="1min", on=installation)
    folder = place.folder("archive")
    with (one.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"archive_mode = on\narchive_command = 'gzip <%p >{folder}/%f.gz'\nhuge_pages = try\n")
        conf.write("shared_preload_libraries = 'pg_stat_statements'\nlog_destination = 'stderr, syslog'\n")
        if installation.major >= 18:
            conf.write("io_method = worker\n")
    with one.connect() as connection:
        run = connection.execute
        run("CREATE TABLE many AS SELECT g FROM generate_series(1, 200000) g")
        run("SET jit_above_cost = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
        run("SET min_parallel_table_scan_size = 0")
        plan = "\n".join(
            str(row[0]) for row in run("EXPLAIN (ANALYZE) SELECT sum(sqrt(g)) FROM many").fetchall()
        )
        assert "Workers Launched: 2" in plan
        assert run("SELECT pg_jit_available()").fetchone() != (True,) or "JIT:" in plan
        run(f"COPY many TO '{folder}/file'")
        run(f"COPY many TO PROGRAM 'cat >{folder}/program'")
        run("COPY many TO '/tmp/hard'")
        run(f"CREATE TABLESPACE elsewhere LOCATION '{place.folder('space')}'")
        run("CREATE TABLE there TABLESPACE elsewhere AS SELECT 1")
        run("SELECT pg_switch_wal()")
        run("CHECKPOINT")
    assert (folder / "file").read_bytes() == (folder / "program").read_bytes()
    # In /tmp, and the socket too: others see it.
    assert one.machine.run("cat", "/tmp/hard").count("\n") == 199999
    psql = (installation.client_program("psql"), "-h", place.path / "s", f"-p{one.port}", "-Upostgres")
    assert one.machine.run("runuser", "-u", "postgres", "--", *psql, "-Atc", "TABLE there") == "1"
    backup = (installation.client_program("pg_basebackup"), "-h127.0.0.1", f"-p{one.port}", "-Upostgres")
    one.machine.run(*backup, "-Xs", "-Ft", "-D", place.folder("backup"))
    wait_until(lambda: any(folder.glob("*.gz")))
    status = one.machine.run(
        "grep", "-E", "^(CapEff|NoNewPrivs|Seccomp):", f"/proc/{one.ask()}/status"
    ).split()
    assert status == ["CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    before = one.sleeps()
    one.machine.run(sys.executable, "-m", "pgidle", "sleep", "-D", one.data_dir)
    one.wait_for("inactive")
    assert one.sleeps() == before + 1
    said = one.machine.journal(one.service)
    # A start was tried in there too.
    assert "is not known" not in said
    assert not re.search("not permitted|denied", said, re.IGNORECASE)
    one.ask()
    one.check()


def test_the_plain_units(instance) -> None:
    one = instance("")
    for _ in range(3):
        one.ask()
        one.wait_for("inactive")
    one.check()

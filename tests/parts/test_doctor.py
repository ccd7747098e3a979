"""`pgidle doctor` as a command: on real data directories, beside supervisors, and on files that are none of its."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pgidle
from harness import installations
from harness.doctor_run import Said, doctor, has, run
from harness.installations import free_port, server_user
from pgidle.base.errors import PgidleError
from pgidle.doctor.finding import Chart
from pgidle.doctor.machine import this_machine
from pgidle.postgres.postgresql_conf import read_parameters
from pgidle.system.directories import prepare_directories
from pgidle.system.users import plan

if TYPE_CHECKING:
    from harness.installations import Installation, Place

    Severities = dict[str, dict[str, dict[str, str]]]


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: another user's files")


PACKAGE = Path(pgidle.__file__).parent


def test_a_machine_that_is_right(installation: Installation, place: Place) -> None:
    data_dir = place.data_dir(installation)
    before = sorted(data_dir.rglob("*"))
    said = doctor(installation, data_dir)
    assert said.wrong == {}
    assert said.unknown.keys() == {"how long a shutdown takes"}
    user = server_user().pw_name
    for what in (
        f"Postgres runs as {user}",
        "gate mode",
        "is free",
        "Postgres accepts its",
        "Unix socket in",
    ):
        assert has(said.right, what), said.right
    assert has(said.right, "the watching role postgres is let in")
    assert has(said.note, "trust for 127.0.0.1/32, ::1/128")
    assert has(said.note, "no record lets anybody in over the network")
    assert sorted(data_dir.rglob("*")) == before


def test_a_machine_where_much_is_wrong(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    conf, hba = data_dir / "postgresql.conf", data_dir / "pg_hba.conf"
    with conf.open("a") as file:
        file.write("track_activities = off\nunix_socket_directories = '/nowhere'\n")
    hba.write_text("local all all scram-sha-256\nhost all all all trust\n")
    (data_dir / "pgidle").mkdir()
    (data_dir / "pgidle/last.json").write_text('{"why": "x", "at": 1, "seconds": 9.5, "sleeps": []}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = doctor(newest, data_dir, "-p", port, "--listen-addresses", "0.0.0.0")
    lines = len(conf.read_text().splitlines())
    for what, where in (
        ("the last shutdown took 9.5s", "stop-timeout"),
        (f"port {port} on 0.0.0.0 is taken", "port"),
        ("Unix socket cannot be made in /nowhere: it does not exist", "/nowhere"),
        ("track_activities is off", f"{conf}:{lines - 1}"),
        ("the watching connection is not let in", f"{hba}:1"),
        ("trust for all", f"{hba}:2"),
    ):
        assert any(what in one and at == where for one, at in said.wrong.items()), (what, said.wrong)
    assert len(said.wrong) == 6


@pytest.mark.skipif(installations.debian() is None, reason="the embedded PostgreSQL has no TLS")
def test_keys_that_others_may_read(place: Place) -> None:
    installation = installations.debian()
    assert installation
    data_dir = place.data_dir(installation)
    said = doctor(installation, data_dir, "--", "-c", "ssl=on")
    assert len(said.wrong) == 2
    for name in ("ssl_cert_file", "ssl_key_file"):
        assert has(said.wrong, f"{name} cannot be used", "No such file")
    for name in ("server.crt", "server.key"):
        (data_dir / name).write_text("x")
        (data_dir / name).chmod(0o644)
        os.chown(data_dir / name, server_user().pw_uid, server_user().pw_gid)
    assert has(doctor(installation, data_dir, "--", "-c", "ssl=on").wrong, "ssl_key_file cannot", "0644")
    (data_dir / "server.key").chmod(0o600)
    assert has(doctor(installation, data_dir, "--", "-c", "ssl=on").right, "ssl is on")


def test_a_configuration_that_postgres_refuses(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    conf = data_dir / "postgresql.conf"
    conf.write_text(f"{conf.read_text()}work_mem = 'much'\n")
    line = len(conf.read_text().splitlines())
    said = doctor(newest, data_dir)
    assert said.wrong == {'invalid value for parameter "work_mem": "much"': f"{conf}:{line}"}
    conf.write_text(conf.read_text().replace("work_mem = ", "work_mem ! "))
    said = doctor(newest, data_dir)
    assert list(said.wrong.values()) == [f"{conf}:{line}"]


def test_each_complaint_of_postgres_has_its_own_place(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    conf = data_dir / "postgresql.conf"
    more = data_dir / "more.conf"
    lines = len(conf.read_text().splitlines())
    conf.write_text(f"{conf.read_text()}work_mem = 'much'\ninclude 'more.conf'\n")
    more.write_text("# x\nlc_time = 'nowhere'\n")
    said = doctor(newest, data_dir)
    assert said.wrong == {
        'invalid value for parameter "work_mem": "much"': f"{conf}:{lines + 1}",
        'invalid value for parameter "lc_time": "nowhere"': f"{more}:2",
    }
    # Such a line is all that Postgres complains of then.
    conf.write_text(f"{conf.read_text()}no_such_thing = 1\n")
    said = doctor(newest, data_dir)
    assert list(said.wrong.values()) == [f"{conf}:{lines + 3}"]


def test_what_a_configuration_names_and_is_not_there(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write("include 'gone.conf'\nshared_preload_libraries = 'auto_explain, no_such'\n")
    (data_dir / "pg_hba.conf").unlink()
    said = doctor(newest, data_dir)
    assert said.wrong.keys() == {
        f"there is no {data_dir}/gone.conf",
        "shared_preload_libraries names libraries that are not installed: no_such",
        f"there is no {data_dir}/pg_hba.conf",
    }
    told = run("-D", data_dir, "--bin-dir", newest.bin_dir, "-p", free_port()).stdout
    assert "run pgidle doctor as root" not in " ".join(told.split())
    assert "what preloaded libraries do and set: auto_explain, no_such" in " ".join(told.split())
    assert f"{data_dir}/postgresql.conf, {data_dir}/postgresql.auto.conf" in " ".join(told.split())


def test_json_lines_are_pgidle_s_own(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    found = doctor(newest, data_dir, "--log-format", "json").note
    assert has(found, "log-format is json, and Postgres's own lines are text")
    logs = ("--", "-c", "logging_collector=on", "-c", "log_destination=jsonlog")
    assert not has(doctor(newest, data_dir, "--log-format", "json", *logs).note, "log-format is json")


def test_a_map_is_looked_up(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    (data_dir / "pg_hba.conf").write_text("local all all peer map=m\nhost all all 10.0.0.0/8 scram-sha-256\n")
    assert has(
        doctor(newest, data_dir).wrong, "the watching connection is not let in", "map m in pg_ident.conf"
    )
    (data_dir / "pg_ident.conf").write_text(f"m {server_user().pw_name} postgres\n")
    assert doctor(newest, data_dir).wrong == {}


def test_a_fifo_in_place_of_a_configuration_hangs_nobody(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write("include_if_exists 'fifo'\n")
    parameters = read_parameters(str(data_dir), ())
    assert parameters.unread == ()
    os.mkfifo(data_dir / "fifo")
    assert read_parameters(str(data_dir), ()).unread == ((f"{data_dir}/fifo", "it is not a regular file"),)


def test_a_cluster_whose_configuration_is_elsewhere(newest: Installation, place: Place) -> None:
    data_dir, etc = place.data_dir(newest), place.folder("etc")
    conf = etc / "postgresql.conf"
    (data_dir / "postgresql.conf").rename(conf)
    assert has(doctor(newest, data_dir).wrong, "no postgresql.conf in it")
    with conf.open("a") as file:
        file.write("data_directory = '/elsewhere'\n")
    said = doctor(newest, data_dir, "--", "-c", f"config_file={conf}")
    assert has(said.wrong, "data_directory is /elsewhere, but pgidle uses")


def test_a_folder_for_statistics_that_only_debian_s_scripts_make(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text(f"stats_temp_directory = '{tmp_path}/gone'\n")
    parameters = read_parameters(str(tmp_path), ())
    for version, says in ((14, True), (15, False)):
        chart = Chart("postgresql.conf")
        this_machine.check_statistics(chart, parameters, str(tmp_path), version)
        assert bool(chart.findings) is says
    (tmp_path / "gone").mkdir()
    chart = Chart("postgresql.conf")
    this_machine.check_statistics(chart, parameters, str(tmp_path), 14)
    assert chart.findings == []


def test_a_setting_that_15_has_no_more(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write("stats_temp_directory = 'x'\n")
    told = " ".join(run("-D", data_dir, "--bin-dir", newest.bin_dir, "-p", free_port()).stdout.split())
    assert 'unrecognized configuration parameter "stats_temp_directory"' in told
    assert "take it out: PostgreSQL 15 and newer have no such setting" in told
    assert "-c stats_temp_directory" not in told


def test_a_data_directory_that_postgres_cannot_use(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    data_dir.chmod(0o755)
    assert has(doctor(newest, data_dir).wrong, "has permissions 0755")
    data_dir.chmod(0o700)
    (data_dir / "PG_VERSION").write_text("99")
    assert has(doctor(newest, data_dir).wrong, "--bin-dir")
    if os.getuid() == 0:
        os.chown(data_dir, 1, 1)
        assert has(doctor(newest, data_dir, "--user", server_user().pw_name).wrong, "is owned by daemon")


def test_a_first_start(newest: Installation, place: Place) -> None:
    data_dir = place.folder()
    said = doctor(newest, data_dir)
    assert list(said.wrong.values()) == ["environment"]
    said = doctor(newest, data_dir, POSTGRES_PASSWORD="x")
    assert said.wrong == {}
    assert has(said.right, "empty: the first start makes it")
    (data_dir / "lost+found").mkdir()
    assert has(doctor(newest, data_dir, POSTGRES_PASSWORD="x").wrong, "the root of a file system")


@needs_root
def test_a_first_start_that_may_not_make_its_directory(newest: Installation, place: Place) -> None:
    """The doctor refuses what `run` refuses, and allows what `run` makes."""
    closed, open_ = place.path / "closed", place.path / "open"
    for folder, mode in ((closed, 0o700), (open_, 0o755)):
        folder.mkdir()
        folder.chmod(mode)
    (closed / "empty").mkdir()
    both = doctor(newest, closed / "x/pg", "--user", server_user().pw_name).wrong
    assert has(both, "cannot be created")
    assert has(both, "needs a password")
    (open_ / "state").mkdir(mode=0o700)
    options = ("--bin-dir", newest.bin_dir, "-p", free_port(), "--user", server_user().pw_name)
    for data_dir, more, why in (
        (closed / "x/pg", (), "cannot be created: Permission denied"),
        (closed / "empty", (), "cannot be used by user"),
        (open_ / "pg", ("--state-dir", closed / "x"), "cannot be created: Permission denied"),
        (open_ / "pg", ("--state-dir", open_ / "state"), "cannot be used by user"),
        (open_ / "x/pg", ("--state-dir", open_ / "y/z"), None),
    ):
        said = Said(run("-D", data_dir, *options, *more, "--json", POSTGRES_PASSWORD="x"))
        if why is None:
            assert said.wrong == {}
            assert has(said.right, "missing: the first start makes it")
            prepare_directories(str(data_dir), str(more[1]), plan(server_user().pw_name, str(data_dir)))
            continue
        (found,) = said.wrong
        assert why in found
        state_dir = str(more[1]) if more else f"{data_dir}/pgidle"
        with pytest.raises(PgidleError) as refused:
            prepare_directories(str(data_dir), state_dir, plan(server_user().pw_name, str(data_dir)))
        assert refused.value.message == found
        if more:
            data_dir.rmdir()


@needs_root
def test_somebody_who_may_not_look(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    command = [sys.executable, "-P", "-m", "pgidle", "doctor", "-D", str(data_dir), "--json"]
    said = Said(
        subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=65534,
            group=65534,
            extra_groups=[],
        )
    )
    assert said.wrong == {}
    assert said.unknown.keys() == {"this machine and the data directory"}


def test_a_library_that_was_not_compiled(newest: Installation, place: Place) -> None:
    shutil.copytree(PACKAGE, place.path / "bare/pgidle", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    options = ("-D", place.data_dir(newest), "--bin-dir", newest.bin_dir, "-p", free_port(), "--json")
    said = Said(run(*options, python_path=place.path / "bare"))
    assert has(said.wrong, "gate mode none", "library was not compiled")


def test_a_supervisor_that_runs_and_has_slept(newest: Installation, place: Place, launch: Any) -> None:
    one = launch(newest, when_idle="stay", idle_timeout="1h")
    one.wait_for_state("awake")
    said = doctor(newest, one.data_dir, "-p", one.port)
    assert said.wrong == {}
    assert has(said.right, "pgidle runs: awake, gate mode")
    mark = one.mark()
    assert one.pgidle("sleep").returncode == 0
    one.wait_for_state("asleep", since=mark)
    took = json.loads(one.pgidle("status", "--json").stdout)["last_sleep"]["seconds"]
    assert 0 < took < 60
    assert f"; the shutdown took {took * 1000:.0f} ms\n" in one.pgidle("status").stdout
    said = doctor(newest, one.data_dir, "-p", one.port, "--stop-timeout", "1h")
    assert "how long a shutdown takes" not in said.unknown
    assert has(said.right, "pgidle runs: asleep")
    assert has(said.right, "the last shutdown took", "of 1h (stop-timeout)")
    one.stop()
    assert json.loads(one.pgidle("status", "--json").stdout)["last_sleep"]["seconds"] == took


def test_a_supervisor_that_is_blind(newest: Installation, launch: Any) -> None:
    one = launch(newest, watch="dbname=postgres user=nobody_such")
    one.wait_log("cannot see whether")
    assert has(
        doctor(newest, one.data_dir, "-p", one.port).wrong, "pgidle cannot see whether Postgres is in use"
    )


def test_a_postmaster_without_pgidle(newest: Installation, place: Place) -> None:
    from harness.postgres_fixture import Cluster

    with Cluster(newest.bin_dir, place.data_dir(newest)) as cluster:
        cluster.start()
        assert has(doctor(newest, cluster.data_dir).wrong, f"a postmaster with pid {cluster.pid} runs")
        # Not `postgresql`, which stops every cluster.
        told = run("-D", cluster.data_dir, "--bin-dir", newest.bin_dir, "-p", free_port()).stdout
        assert "systemctl disable --now postgresql@" in " ".join(told.split())

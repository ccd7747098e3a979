"""What root makes, writes and gives away, and where: nothing where a link of a lesser user's leads."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from harness.attacked import Attacked, give, needs_root, pgidle_command
from pgidle.base.errors import PgidleError
from pgidle.init.plan import File
from pgidle.init.write import write
from pgidle.postgres.debian import find_cluster
from pgidle.system.state_directory import StateDir

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Place


@needs_root
def test_no_folder_of_root_s_is_given_away(attacked: Attacked) -> None:
    victim = attacked.safe / "empty"
    victim.mkdir()
    (attacked.home / "link").symlink_to(attacked.safe)
    (attacked.home / "direct").symlink_to(victim)
    for name in ("link/empty", "direct"):
        attacked.run("run", data_dir=attacked.home / name)
        assert "cannot be used" in attacked.run("doctor", data_dir=attacked.home / name)
        assert victim.stat().st_uid == 0, name


@needs_root
@pytest.mark.parametrize("option", ["--data-dir", "--state-dir"])
def test_nothing_is_made_where_a_link_leads(attacked: Attacked, option: str) -> None:
    (attacked.home / "link").symlink_to(attacked.safe)
    attacked.run("run", option, str(attacked.home / "link/made"))
    attacked.run("run", option, str(attacked.home / "link/deep/made"))
    assert not list(attacked.safe.iterdir())


@needs_root
def test_whom_pgidle_becomes_is_not_for_others_to_choose(attacked: Attacked, place: Place) -> None:
    nobody = pwd.getpwnam("nobody")
    other = place.folder("other")
    give(other, nobody)
    (attacked.home / "link").symlink_to(other)
    ran = pgidle_command("run", "--data-dir", str(attacked.home / "link"), "--port", str(attacked.port))
    assert ran.returncode == 2
    assert "pass --user nobody" in ran.stderr
    assert not list(other.iterdir())


@needs_root
def test_a_foreign_state_directory_leads_to_no_file(attacked: Attacked) -> None:
    victim = attacked.plant("precious", "precious\n")
    shared = attacked.safe / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "lock").symlink_to(victim)
    give(shared / "lock", pwd.getpwnam("nobody"))
    said = attacked.run("run", "--state-dir", str(shared), "--bin-dir", str(attacked.installation.bin_dir))
    assert victim.read_text() == "precious\n"
    assert "alone to write" in said


def test_the_state_directory_follows_no_link(place: Place) -> None:
    folder = place.folder()
    os.chown(folder, os.geteuid(), os.getegid())
    for name in ("lock", "last.json.new"):
        (folder / "victim").write_text("precious")
        (folder / name).symlink_to(folder / "victim")
        if name == "lock":
            with pytest.raises(PgidleError, match="cannot write the state directory"):
                StateDir(str(folder))
            (folder / name).unlink()
        else:
            StateDir(str(folder)).keep("last.json", "new")
            assert (folder / "last.json").read_text() == "new"
        assert (folder / "victim").read_text() == "precious"


def test_init_writes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/pgidle.d").symlink_to(tmp_path / "victim")
    with pytest.raises(PgidleError, match="cannot write"):
        write([File("pgidle.service", "a"), File("pgidle.d/listen.conf", "b")], tmp_path / "out")
    assert not list((tmp_path / "victim").iterdir())
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["pgidle.d"]


@pytest.mark.parametrize("name", ["a\nExecStartPre=evil", "a;id", "$(id)", "a b", "-rf", "%n", "a'b", "\\x"])
def test_what_a_cluster_is_called_gets_into_no_unit(tmp_path: Path, name: str) -> None:
    """Debian's /etc/postgresql is Postgres's user's."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "PG_VERSION").write_text("15\n")
    for version, cluster in (("15", name), (name, "main"), ("15", "main")):
        folder = tmp_path / "etc" / version / cluster
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "postgresql.conf").write_text(f"data_directory = '{data_dir}'\n")
    found = find_cluster(str(data_dir), str(tmp_path / "etc"))
    assert found is not None
    assert (found.version, found.name) == ("15", "main")

"""Changed configuration files are noticed, however they were changed, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from backstaged import Backstaged

from pgidle import reload
from pgidle.inbox import ConfigurationChanged, SettingsChanged
from pgidle.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "INTERVAL", 0.02)
    monkeypatch.setattr(reload, "SETTLING", 0.02)


@pytest.fixture
def backstaged(tmp_path: Path, quick: None) -> Iterator[Backstaged]:
    made = Backstaged(tmp_path)
    for name in (*reload.POSTGRES_FILES, "postgresql.auto.conf"):
        (made.data_dir / name).write_text("# nothing\n")
    (made.data_dir / "base").mkdir()
    with made:
        # From then on the files are watched: that was begun before anybody could be answered.
        assert made.ask("/health")
        yield made


def _edit(path: Path) -> None:
    with path.open("a") as file:
        file.write("# more\n")


def _replace(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text("# another file\n")
    new.rename(path)


def _remove(path: Path) -> None:
    path.unlink()


def _link(path: Path) -> None:
    elsewhere = path.parent / "base" / path.name
    elsewhere.write_text("# linked\n")
    path.unlink()
    path.symlink_to(elsewhere)


@pytest.fixture
def no_inotify(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Iterator[None]:
        raise RuntimeError("Too many open files (os error 24)")
        yield

    monkeypatch.setattr(reload, "watch", refuse)
    monkeypatch.setattr(reload, "SETTLED", 0.1)


def test_changes_are_noticed_without_inotify(no_inotify: None, backstaged: Backstaged) -> None:
    for name in ("pg_hba.conf", "postgresql.conf"):
        _replace(backstaged.data_dir / name)
        assert backstaged.mail.receive() == ConfigurationChanged(name)


@pytest.mark.parametrize("name", reload.POSTGRES_FILES)
@pytest.mark.parametrize("change", [_edit, _replace, _remove, _link])
def test_postgres_is_told_of_its_own_files(
    backstaged: Backstaged, name: str, change: Callable[[Path], None]
) -> None:
    change(backstaged.data_dir / name)
    assert backstaged.mail.receive() == ConfigurationChanged(name)


def test_what_initdb_makes_is_no_reason_and_what_comes_later_is(tmp_path: Path, quick: None) -> None:
    with Backstaged(tmp_path) as made:
        assert made.ask("/health")
        for name in reload.POSTGRES_FILES:
            (made.data_dir / name).write_text("# from initdb\n")
        (tmp_path / "pgidle.toml").write_text("# a sign that those were seen\n")
        assert isinstance(made.mail.receive(), SettingsChanged)
        for name in reload.POSTGRES_FILES:
            _remove(made.data_dir / name)
            assert made.mail.receive() == ConfigurationChanged(name)
            (made.data_dir / name).write_text("# by hand\n")
            assert made.mail.receive() == ConfigurationChanged(name)


def test_what_postgres_writes_itself_is_no_reason(backstaged: Backstaged) -> None:
    for name in ("postgresql.auto.conf", "postmaster.pid", "base/postgresql.conf", "postgresql.conf.swp"):
        (backstaged.data_dir / name).write_text("# changed\n")
    (backstaged.data_dir / "pg_hba.conf").write_text("# changed too\n")
    assert backstaged.mail.receive() == ConfigurationChanged("pg_hba.conf")


def test_two_folders_are_watched_and_nothing_in_them(backstaged: Backstaged, tmp_path: Path) -> None:
    said = [each.read_text() for each in Path("/proc/self/fdinfo").iterdir() if each.exists()]
    # proc_pid_fdinfo(5): one line for each inode that inotify watches, in hexadecimal.
    inodes = [
        int(line.split()[2].removeprefix("ino:"), 16)
        for line in "".join(said).splitlines()
        if "inotify" in line
    ]
    assert sorted(inodes) == sorted(folder.stat().st_ino for folder in (tmp_path, backstaged.data_dir))


def test_a_link_to_a_folder_that_is_swapped(backstaged: Backstaged, tmp_path: Path) -> None:
    """As Kubernetes updates a mounted ConfigMap: the file's own name is never touched."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "pgidle.toml").write_text(f"# {version}\n")
    (tmp_path / "now").symlink_to("one")
    (tmp_path / "pgidle.toml").symlink_to("now/pgidle.toml")
    assert isinstance(backstaged.mail.receive(), SettingsChanged)
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "now")
    assert isinstance(backstaged.mail.receive(), SettingsChanged)


def test_settings_that_appear_change_break_and_go(backstaged: Backstaged, tmp_path: Path) -> None:
    settings = resolve({"data-dir": "/data"}, {}, None, None, "/").settings
    file = tmp_path / "pgidle.toml"
    backstaged.settings = settings
    file.write_text("port = 5433\n")
    assert backstaged.mail.receive() == SettingsChanged(settings, "")
    backstaged.settings = None
    file.write_text("port = 'x'\n")
    error = "pgidle.toml: port: 'x' is not a port: write a number"
    assert backstaged.mail.receive() == SettingsChanged(None, error)
    backstaged.settings = settings
    file.unlink()
    assert backstaged.mail.receive() == SettingsChanged(settings, "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    made = Backstaged(tmp_path)
    (tmp_path / "pgidle.toml").touch()
    tmp_path.chmod(0o300)
    try:
        with made:
            said = made.mail.receive()
            (made.data_dir / "pg_hba.conf").touch()
            assert made.mail.receive() == ConfigurationChanged("pg_hba.conf")
    finally:
        tmp_path.chmod(0o700)
    assert isinstance(said, SettingsChanged)
    assert "cannot be watched" in said.error

"""Changed configuration files are noticed, however they were changed, and nothing else is."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pgidle.observer import changed_files
from pgidle.system.file_signature import POSTGRES_FILES, signature

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

# Seconds after which a test gives up waiting for what must happen.
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_files, "INTERVAL", 0.02)
    monkeypatch.setattr(changed_files, "SETTLING", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data/base").mkdir(parents=True)
    for name in (*POSTGRES_FILES, "postgresql.auto.conf"):
        (tmp_path / "data" / name).write_text("# nothing\n")
    return tmp_path


class Noticing:
    """Two folders as the observer watches them."""

    def __init__(self, folder: Path) -> None:
        self.data_dir, self.settings = folder / "data", folder / "pgidle.toml"
        paths = [str(self.data_dir / name) for name in POSTGRES_FILES] + [str(self.settings)]
        self.known = {path: signature(path) for path in paths}
        self.told: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()

    async def receive(self) -> set[str]:
        """The names that are told next."""
        async with asyncio.timeout(PATIENCE):
            return {Path(path).name for path in await self.told.get()}

    def play(self, act: Callable[[], Awaitable[Any]]) -> None:
        async def run() -> None:
            task = asyncio.ensure_future(changed_files.notice_changes(self.known, self.told.put_nowait))
            # It watches from its first step on.
            await asyncio.sleep(0)
            await act()
            task.cancel()

        asyncio.run(run())


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


def test_changes_are_noticed_without_inotify(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Iterator[None]:
        raise RuntimeError("Too many open files (os error 24)")
        yield

    monkeypatch.setattr(changed_files, "watch", refuse)
    monkeypatch.setattr(changed_files, "SETTLED", 0.1)
    noticing = Noticing(folder)

    async def act() -> None:
        for name in ("pg_hba.conf", "postgresql.conf"):
            _replace(noticing.data_dir / name)
            assert await noticing.receive() == {name}

    noticing.play(act)


@pytest.mark.parametrize("name", POSTGRES_FILES)
@pytest.mark.parametrize("change", [_edit, _replace, _remove, _link])
def test_a_changed_file_is_told(folder: Path, name: str, change: Callable[[Path], None]) -> None:
    noticing = Noticing(folder)

    async def act() -> None:
        change(noticing.data_dir / name)
        assert await noticing.receive() == {name}

    noticing.play(act)


def test_what_has_changed_before_anybody_watched_is_told(folder: Path) -> None:
    noticing = Noticing(folder)
    _edit(noticing.data_dir / "pg_hba.conf")
    noticing.settings.write_text("port = 5433\n")

    async def act() -> None:
        assert await noticing.receive() == {"pg_hba.conf", "pgidle.toml"}

    noticing.play(act)


def test_what_postgres_writes_itself_is_no_reason(folder: Path) -> None:
    noticing = Noticing(folder)

    async def act() -> None:
        for name in ("postgresql.auto.conf", "postmaster.pid", "base/postgresql.conf", "postgresql.conf.swp"):
            (noticing.data_dir / name).write_text("# changed\n")
        (noticing.data_dir / "pg_hba.conf").write_text("# changed too\n")
        assert await noticing.receive() == {"pg_hba.conf"}

    noticing.play(act)


def watched_inodes() -> list[int]:
    """proc_pid_fdinfo(5): one line for each inode that inotify watches, in hexadecimal."""
    said = [each.read_text() for each in Path("/proc/self/fdinfo").iterdir() if each.exists()]
    return sorted(
        int(line.split()[2].removeprefix("ino:"), 16)
        for line in "".join(said).splitlines()
        if "inotify" in line
    )


def test_two_folders_are_watched_and_nothing_in_them(folder: Path) -> None:
    noticing = Noticing(folder)
    wanted = sorted(one.stat().st_ino for one in (folder, noticing.data_dir))

    async def act() -> None:
        assert watched_inodes() == wanted

    noticing.play(act)


def test_a_link_to_a_folder_that_is_swapped(folder: Path) -> None:
    """As Kubernetes updates a mounted ConfigMap: the file's own name is never touched."""
    noticing = Noticing(folder)

    async def act() -> None:
        for version in ("one", "two"):
            (folder / version).mkdir()
            (folder / version / "pgidle.toml").write_text(f"# {version}\n")
        (folder / "now").symlink_to("one")
        noticing.settings.symlink_to("now/pgidle.toml")
        assert await noticing.receive() == {"pgidle.toml"}
        (folder / "next").symlink_to("two")
        (folder / "next").rename(folder / "now")
        assert await noticing.receive() == {"pgidle.toml"}

    noticing.play(act)


def test_settings_that_appear_change_and_go(folder: Path) -> None:
    noticing = Noticing(folder)

    async def act() -> None:
        for change in (lambda path: path.write_text("port = 5433\n"), _edit, _remove):
            change(noticing.settings)
            assert await noticing.receive() == {"pgidle.toml"}

    noticing.play(act)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_left_out(folder: Path) -> None:
    noticing = Noticing(folder)
    folder.chmod(0o300)

    async def act() -> None:
        noticing.settings.touch()
        _edit(noticing.data_dir / "pg_hba.conf")
        assert await noticing.receive() == {"pg_hba.conf"}

    try:
        noticing.play(act)
    finally:
        folder.chmod(0o700)

"""The data directory on a small file system of its own, so that it can be full, and the files beside it."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from typing import TYPE_CHECKING

from harness.installations import Place, run_as_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from harness.installations import Installation

SIZE = "320m"

BLOCK = 8192
"""Bytes of a page."""

CONF = """
shared_buffers = 16MB
max_connections = 100
max_wal_size = 32MB
min_wal_size = 4MB
checkpoint_timeout = 30s
log_line_prefix = '%m [%p] '
"""


class Volume:
    """Holds one data directory, with checksums, over all rounds.

    `is_own`: mount a small file system for it, which needs root, and a mount namespace for good manners.
    """

    def __init__(self, installation: Installation, place: Place, *, is_own: bool) -> None:
        self.installation = installation
        self.root = place.folder("v")
        self.is_own = is_own
        if is_own:
            owner = self.root.stat()
            options = f"size={SIZE},mode=755,uid={owner.st_uid},gid={owner.st_gid}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "torture", str(self.root)], check=True)
        self.data_dir = self.root / "data"
        self.beside = place.folder("c")
        self.beside.chmod(0o755)
        self.config = self.beside / "pgidle.toml"
        self.clock = self.beside / "clock"
        self._ballast = self.root / "ballast"
        self._was_filled = False
        self.sockets = place.folder("s")
        options_ = (
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale",
            "C",
            "--wal-segsize",
            "1",
            "-N",
            "-k",
        )
        run_as_server(installation.program("initdb"), "-D", self.data_dir, *options_)
        with (self.data_dir / "postgresql.conf").open("a") as conf:
            conf.write(f"{CONF}unix_socket_directories = '{self.sockets}'\n")
        self._first = {
            name: (self.data_dir / name).read_text() for name in ("postgresql.conf", "pg_hba.conf")
        }
        self._standing = dict(self._first)
        self.configure(1.0)
        self.set_clock(0)

    def close(self) -> None:
        if self.is_own:
            subprocess.run(["umount", "-l", str(self.root)], check=False)

    def configure(self, idle_timeout: float) -> None:
        """Write pgidle.toml as an editor does: whole, in one step."""
        self._replace(self.config, f'idle-timeout = "{round(idle_timeout * 1000)}ms"\n')

    def collected(self) -> list[str]:
        """What Postgres's own logging collector has written in this round."""
        return [line for file in self._logs() for line in file.read_text(errors="replace").splitlines()]

    def _logs(self) -> list[Path]:
        return sorted((self.data_dir / "log").glob("*"))

    def settle(self, settings: Sequence[str]) -> None:
        """Lines of postgresql.conf for a round, which `restore` keeps; and logs of its own."""
        for file in self._logs():
            file.unlink()
        own = "".join(f"{setting}\n" for setting in settings)
        self._standing["postgresql.conf"] = self._first["postgresql.conf"] + own
        self.restore()

    def set_clock(self, offset: int) -> None:
        """Seconds that the wall clock of those who have libfaketime differs by."""
        self._replace(self.clock, f"{offset:+d}\n")

    def restore(self) -> None:
        """Configuration and clock as they were when the round began."""
        self.set_clock(0)
        for name, text in self._standing.items():
            self._replace(self.data_dir / name, text)

    def append(self, name: str, line: str) -> None:
        path = self.data_dir / name
        self._replace(path, f"{self._standing[name]}{line}\n")

    @contextlib.contextmanager
    def broken(self, name: str) -> Iterator[None]:
        """A file that is no configuration inside the block."""
        path = self.config if name == self.config.name else self.data_dir / name
        before = path.read_text()
        self._replace(path, f"{before}\nthis is (not what = belongs here\n")
        try:
            yield
        finally:
            self._replace(path, before)

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Not a byte is left inside the block."""
        self._was_filled = True
        try:
            with self._ballast.open("wb") as file:
                size, chunk = 0, 1 << 26
                while chunk >= 4096:
                    try:
                        os.posix_fallocate(file.fileno(), size, chunk)
                        size += chunk
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        chunk //= 2
            yield
        finally:
            self._ballast.unlink()

    def cut_half_blocks(self) -> None:
        """After a full disk, with Postgres stopped: cut off what there is of a block that there was no room for.
        Postgres does not read it (_mdnblocks in md.c counts whole ones) and writes over it; pg_checksums fails."""
        if self._was_filled:
            for file in self.data_dir.glob("base/*/*"):
                if file.name[0].isdecimal() and (half := file.stat().st_size % BLOCK):
                    os.truncate(file, file.stat().st_size - half)
        self._was_filled = False

    def _replace(self, path: Path, text: str) -> None:
        new = path.with_name(f"{path.name}.new")
        new.write_text(text)
        if path.exists():
            seen = path.stat()
            os.chown(new, seen.st_uid, seen.st_gid)
            new.chmod(seen.st_mode & 0o777)
        new.replace(path)

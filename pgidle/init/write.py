"""Write files into a folder: all of them or none, and without overwriting anything unless asked to."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import PgidleError
from pgidle.system.trusted_path import read_regular

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.init.plan import File


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Outcome(Enum):
    WRITTEN = "written"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


def write(files: Sequence[File], folder: Path, *, force: bool = False) -> list[tuple[Path, Outcome]]:
    """Write the files that do not exist yet, and with `force` replace those that differ. Raises PgidleError.

    Everything is written under other names first, so that a full disk or a missing right leaves nothing behind. Below
    `folder` no symbolic link is followed: others may be able to write there.
    """
    outcomes = [(folder / file.path, _compare(folder / file.path, file.text)) for file in files]
    taken = [path for path, outcome in outcomes if outcome is Outcome.REPLACED]
    if taken and not force:
        named = ", ".join(map(str, taken))
        verb = "is" if len(taken) == 1 else "are"
        raise PgidleError(f"{named} {verb} there already", "pass --force to replace, or --print to compare")
    path = folder
    with ExitStack() as opened:
        staged: list[tuple[int, str, str]] = []
        made: list[Path] = []
        try:
            made += _make_folders(folder)
            base = _open(str(folder), opened)
            for (path, outcome), file in zip(outcomes, files, strict=True):
                if outcome is Outcome.UNCHANGED:
                    continue
                place = base
                for name in Path(file.path).parent.parts:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=place)
                        made.append(path.parent)
                    place = _open(name, opened, place)
                beside = f".{path.name}.{os.getpid()}.new"
                descriptor = os.open(beside, _NEW, 0o666, dir_fd=place)
                staged.append((place, beside, path.name))
                with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                    stream.write(file.text)
            while staged:
                place, beside, name = staged[0]
                os.replace(beside, name, src_dir_fd=place, dst_dir_fd=place)
                del staged[0]
        except OSError as error:
            for place, beside, _ in staged:
                with suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=place)
            for parent in reversed(made):
                # No longer empty, so something else uses it.
                with suppress(OSError):
                    parent.rmdir()
            raise PgidleError(f"cannot write {path}: {error.strerror}", "set --dir, or --print") from None
    return outcomes


def _open(path: str, opened: ExitStack, above: int | None = None) -> int:
    """A folder's descriptor, open until `opened` ends. Below another folder no link is followed."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if above is not None else 0)
    folder = os.open(path, flags, dir_fd=above)
    opened.callback(os.close, folder)
    return folder


def _compare(path: Path, text: str) -> Outcome:
    """What writing `text` to `path` would do."""
    try:
        same = read_regular(str(path)) == text.encode()
    except (FileNotFoundError, NotADirectoryError):
        # A dangling link exists, too.
        return Outcome.REPLACED if path.is_symlink() else Outcome.WRITTEN
    except OSError as error:
        raise PgidleError(f"cannot read {path}: {error.strerror}", "move it away, or set --dir") from None
    return Outcome.UNCHANGED if same else Outcome.REPLACED


def _make_folders(path: Path) -> list[Path]:
    """The folders that were made, the outermost first."""
    if path.is_dir():
        return []
    made = _make_folders(path.parent)
    path.mkdir()
    return [*made, path]

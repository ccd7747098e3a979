"""Files into a folder: all of them, or none; and nothing that is there is overwritten unasked."""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from pgidle.errors import PgidleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pgidle.init.plan import File


class Outcome(Enum):
    WRITTEN = "written"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


def write(files: Sequence[File], folder: Path, *, force: bool = False) -> list[tuple[Path, Outcome]]:
    """Write what is not there yet, and with `force` replace what is and differs. Raises PgidleError.

    Everything is written under other names first, so that a full disk or a missing right leaves nothing behind.
    """
    outcomes = [(folder / file.path, _compare(folder / file.path, file.text)) for file in files]
    taken = [path for path, outcome in outcomes if outcome is Outcome.REPLACED]
    if taken and not force:
        named = ", ".join(map(str, taken))
        verb = "is" if len(taken) == 1 else "are"
        raise PgidleError(f"{named} {verb} there already", "pass --force to replace, or --print to compare")
    staged: dict[Path, Path] = {}
    made: list[Path] = []
    path = folder
    try:
        for (path, outcome), file in zip(outcomes, files, strict=True):
            if outcome is not Outcome.UNCHANGED:
                made += _make_folders(path.parent)
                beside = path.with_name(f".{path.name}.{os.getpid()}.new")
                with beside.open("x", encoding="utf-8") as stream:
                    staged[path] = beside
                    stream.write(file.text)
        for path in list(staged):
            staged[path].replace(path)
            del staged[path]
    except OSError as error:
        for beside in staged.values():
            beside.unlink(missing_ok=True)
        for parent in reversed(made):
            # Not empty any more: then something is of use there.
            with suppress(OSError):
                parent.rmdir()
        raise PgidleError(f"cannot write {path}: {error.strerror}", "set --dir, or --print") from None
    return outcomes


def _compare(path: Path, text: str) -> Outcome:
    """What writing `text` to `path` would do."""
    try:
        same = path.read_bytes() == text.encode()
    except (FileNotFoundError, NotADirectoryError):
        # A dangling link is there, too.
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

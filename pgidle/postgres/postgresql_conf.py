"""postgresql.conf as Postgres reads it (src/backend/utils/misc/guc-file.l), with the place of every setting.

Postgres itself is asked whether it accepts all of it (see `probe`); this reader finds the places, and serves machines
on which Postgres cannot be asked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.system.trusted_path import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LINE = re.compile(
    r"""\s*([A-Za-z_][A-Za-z0-9_$.]*)\s*(?:=\s*|\s+)('(?:[^'\\\n]|\\.|'')*'|[^\s#']+)\s*(?:\#.*)?"""
)
_ESCAPE = re.compile(r"''|\\(.)")
DEPTH = 10
"""How deep files may include one another (CONF_FILE_MAX_DEPTH)."""


@dataclass(frozen=True, slots=True)
class Parameter:
    value: str
    where: str


@dataclass(frozen=True, slots=True)
class Parameters:
    """The settings, by lower-case name; the files that could not be read, with why; and those that were read."""

    values: dict[str, Parameter]
    unread: tuple[tuple[str, str], ...]
    files: tuple[str, ...] = ()

    def value(self, name: str, default: str = "") -> str:
        found = self.values.get(name)
        return found.value if found is not None else default

    def where(self, name: str) -> str:
        found = self.values.get(name)
        return found.where if found is not None else "postgresql.conf"

    def is_on(self, name: str, *, default: bool) -> bool:
        """A boolean as Postgres reads it: any unambiguous beginning of a word."""
        word = self.value(name).lower()
        if not word:
            return default
        return any(yes.startswith(word) for yes in ("true", "yes", "1")) or word == "on"


def read_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and value of each setting and include; Postgres itself complains of a line that is neither."""
    for number, line in enumerate(text.split("\n"), 1):
        if (found := _LINE.fullmatch(line)) is not None:
            value = found[2]
            if value.startswith("'"):
                value = _ESCAPE.sub(lambda one: one[1] or "'", value[1:-1])
            yield number, found[1].lower(), value


def read_parameters(data_dir: str, postgres_args: Sequence[str]) -> Parameters:
    """All settings of a start: the file and what it includes, then postgresql.auto.conf, then the command line."""
    given = dict(_arguments(postgres_args))
    reader = _Reader()
    reader.read(Path(given.get("config_file") or f"{data_dir}/postgresql.conf"))
    # A user who may not look into the data directory does without it.
    if os.path.exists(auto := f"{data_dir}/postgresql.auto.conf"):
        reader.read(Path(auto))
    values = reader.values | {name: Parameter(value, "after --") for name, value in given.items()}
    return Parameters(values, tuple(reader.unread), tuple(dict.fromkeys(reader.files)))


class _Reader:
    def __init__(self) -> None:
        self.values: dict[str, Parameter] = {}
        self.unread: list[tuple[str, str]] = []
        self.files: list[str] = []

    def read(self, path: Path, depth: int = 0) -> None:
        try:
            text = read_regular(str(path)).decode("utf-8", "replace")
        except OSError as error:
            self.unread.append((str(path), error.strerror or "unreadable"))
            return
        if depth > DEPTH:
            self.unread.append((str(path), "files include one another too deeply"))
            return
        self.files.append(str(path))
        for line, name, value in read_lines(text):
            target = path.parent / value
            if name == "include" or (name == "include_if_exists" and target.exists()):
                self.read(target, depth + 1)
            elif name == "include_dir":
                self._read_folder(target, depth)
            elif name != "include_if_exists":
                self.values[name] = Parameter(value, f"{path}:{line}")

    def _read_folder(self, folder: Path, depth: int) -> None:
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            self.unread.append((str(folder), error.strerror or "unreadable"))
            return
        for each in found:
            if each.suffix == ".conf" and not each.name.startswith("."):
                self.read(each, depth + 1)


def _arguments(postgres_args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Settings among postgres's arguments: -c name=value, --name=value."""
    rest = iter(postgres_args)
    for word in rest:
        said = ""
        if word == "-c":
            said = next(rest, "")
        elif word.startswith(("-c", "--")):
            said = word[2:]
        name, equals, value = said.partition("=")
        if equals:
            yield name.strip().replace("-", "_").lower(), value

"""systemd's unit files as systemd.syntax(7) has them: sections, settings with their lines, continued lines."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgidle.doctor.readers.tree import BadFile, Node

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECTION = re.compile(r"\[([^\]]+)\]")


@dataclass(frozen=True, slots=True)
class Setting:
    section: str
    key: str
    value: str
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit with its drop-ins: a setting's last value counts, and an empty value resets those before it."""

    name: str
    settings: tuple[Setting, ...]

    @property
    def is_template(self) -> bool:
        return "@." in self.name.rpartition("/")[2]

    def where(self, section: str, *keys: str) -> str:
        """The place of the first of these settings that is set, else of the section, else of the file."""
        found = next((one for key in keys if (one := self.last(section, key)) is not None), None)
        first = next((one for one in self.settings if one.section == section), None)
        return found.where if found is not None else f"{self.name}:{first.line - 1 if first else 1}"

    def has(self, section: str) -> bool:
        return any(one.section == section for one in self.settings)

    def last(self, section: str, key: str) -> Setting | None:
        """The setting that counts; None if it is missing or empty."""
        found = [one for one in self.settings if (one.section, one.key) == (section, key)]
        return found[-1] if found and found[-1].value else None

    def all(self, section: str, *keys: str) -> list[Setting]:
        """All settings that count, for keys that may be given several times."""
        found: list[Setting] = []
        for one in self.settings:
            if one.section == section and one.key in keys:
                found = [*found, one] if one.value else [each for each in found if each.key != one.key]
        return found

    def word(self, section: str, key: str, default: str = "") -> str:
        found = self.last(section, key)
        return found.value if found is not None else default

    def is_on(self, section: str, key: str) -> bool:
        return self.word(section, key).lower() in ("1", "yes", "true", "on", "y", "t")


@dataclass(frozen=True, slots=True)
class Beside:
    """What belongs to a unit but is in other files: drop-ins by name; the files of EnvironmentFile= by path (None: not
    there); for a service, the name of its socket unit, if there is one; for a socket, the text of the service that it
    starts, None if that is not known."""

    drop_ins: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    socket: str | None = None
    service: str | None = None


def read_unit(name: str, text: str, drop_ins: Mapping[str, str]) -> Unit:
    """A unit and its drop-ins, by name, in systemd's order. Raises BadFile."""
    files = {name: text, **drop_ins}
    return Unit(name, tuple(one for file, content in files.items() for one in _read(file, content)))


def _read(file: str, text: str) -> list[Setting]:
    section = ""
    settings: list[Setting] = []
    for line, statement in _joined(text):
        if (heading := _SECTION.fullmatch(statement)) is not None:
            section = heading[1]
            continue
        key, equals, value = statement.partition("=")
        if not equals or not section:
            raise BadFile(line, f"{file}: {statement[:40]!r} is neither [Section] nor Key=value under one")
        settings.append(Setting(section, key.strip(), value.strip(), file, line))
    return settings


def _joined(text: str) -> list[tuple[int, str]]:
    """Lines without comments, those that end in a backslash joined with the next."""
    joined: list[tuple[int, str]] = []
    is_open = False
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line.startswith(("#", ";")) or (not line and not is_open):
            continue
        more = line.endswith("\\")
        part = line[:-1].rstrip() if more else line
        if is_open:
            joined[-1] = (joined[-1][0], f"{joined[-1][1]} {part}".strip())
        else:
            joined.append((number, part))
        is_open = more
    return joined


def environment(unit: Unit, files: Mapping[str, str]) -> dict[str, Node]:
    """The variables of Environment= and EnvironmentFile=; `files` has the contents of the latter by path."""
    found: dict[str, Node] = {}
    for one in unit.all("Service", "Environment"):
        for pair in split(one.value):
            name, _, value = pair.partition("=")
            found[name] = Node(one.line, value)
    for one in unit.all("Service", "EnvironmentFile"):
        for raw in files.get(one.value.removeprefix("-"), "").split("\n"):
            name, equals, value = raw.strip().partition("=")
            if equals and not name.startswith(("#", ";")):
                found[name.strip()] = Node(one.line, value.strip().strip("\"'"))
    return found


def split(text: str) -> list[str]:
    """Words by systemd's quoting, which is close enough to a shell's; an unclosed quote is taken literally."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()

"""pg_hba.conf's records as Postgres reads them, with those of included files, and the lines that are not records.

https://www.postgresql.org/docs/current/auth-pg-hba-conf.html and hba.c.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN = re.compile(r'\s*(,|"[^"]*"?|#.*|[^\s,"#]+)')
HOST = ("host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
INCLUDES = ("include", "include_if_exists", "include_dir")
FIRST_WITH_INCLUDES = 16
"""The first major version that knows them: an older one does not start with such a line."""
MISSING = "No such file or directory"
DEPTH = 10
"""How deep files may include one another (CONF_FILE_MAX_DEPTH)."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Files by path: their texts, which paths are folders (with the files in them that count), and why others could not
    be read."""

    contents: dict[str, str] = field(default_factory=dict)
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def resolve(file: str, name: str) -> str:
        """The path `name`, relative to the folder of the file that gives it."""
        return name if name.startswith("/") else f"{file.rpartition('/')[0]}/{name}"


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `address` is empty for `local`; an address given with a mask is written as CIDR."""

    line: int
    kind: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str
    method: str
    options: tuple[str, ...]
    file: str = ""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def matches(self, database: str, user: str) -> bool | None:
        """Whether the record is for them; None where it names groups, files or patterns."""
        unsure = any(one[:1] in ("+", "@", "/") for one in (*self.databases, *self.users))
        unsure = unsure or bool({"samerole", "samegroup"} & set(self.databases))
        names = {"all", database} | ({"sameuser"} if database == user else set())
        is_database = bool(names & set(self.databases))
        is_user = bool({"all", user} & set(self.users))
        return True if is_database and is_user else None if unsure else False


@dataclass(frozen=True, slots=True)
class Oddity:
    """A line that is not a record, or an include of a file that was not read. `why` is empty if Postgres refuses it."""

    where: str
    text: str
    why: str = ""


def numbered_fields(text: str) -> Iterator[tuple[int, list[list[str]]]]:
    """The number and the fields of each line that has any."""
    for number, line in _lines(text):
        if fields := _fields(line):
            yield number, fields


def named_files(file: str, text: str) -> list[str]:
    """What a file of records or maps includes, and the files of names (@NAME) in its fields."""
    found = []
    for _, fields in numbered_fields(text):
        if fields[0][0] in INCLUDES and len(fields) == 2:
            found.append(Texts.resolve(file, fields[1][0]))
        found += [Texts.resolve(file, one[1:]) for each in fields[1:3] for one in each if one[:1] == "@"]
    return found


def read_all(file: str, texts: Texts, version: int, depth: int = 0) -> Iterator[Record | Oddity]:
    """Records in order, with those of an included file in place of the include."""
    for one in read_hba(texts.contents.get(file, "")):
        if isinstance(one, Record):
            names = (_named(one.databases, file, texts), _named(one.users, file, texts))
            yield replace(one, databases=names[0], users=names[1], file=file)
            continue
        number, line = one
        fields = _fields(line)
        where = f"{file}:{number}"
        if fields[0][0] not in INCLUDES or len(fields) != 2 or version < FIRST_WITH_INCLUDES or depth > DEPTH:
            yield Oddity(where, line)
            continue
        path = Texts.resolve(file, fields[1][0])
        why = texts.unread.get(path)
        if why == MISSING:
            if fields[0][0] != "include_if_exists":
                yield Oddity(where, line)
        elif why is not None:
            yield Oddity(where, line, why)
        for each in texts.folders.get(path, (path,)):
            yield from read_all(each, texts, version, depth + 1)


def _named(names: tuple[str, ...], file: str, texts: Texts) -> tuple[str, ...]:
    """The names, with each @FILE replaced by the names in the file; an @FILE that was not read stays."""
    found: list[str] = []
    for name in names:
        path = Texts.resolve(file, name[1:]) if name[:1] == "@" else ""
        if path in texts.contents:
            listed = numbered_fields(texts.contents[path])
            found += [each for _, fields in listed for one in fields for each in one]
        else:
            found.append(name)
    return tuple(found)


def read_hba(text: str) -> Iterator[Record | tuple[int, str]]:
    """Records in order; for a line that is not a record, such as an include, its number and text."""
    for number, line in _lines(text):
        fields = _fields(line)
        if not fields:
            continue
        kind = fields[0][0]
        least = 4 if kind == "local" else 5
        if kind not in (*HOST, "local") or len(fields) < least:
            yield number, line.strip()
            continue
        at, address = 3, ""
        if kind != "local":
            address, at = fields[3][0], 4
            if "/" not in address and re.fullmatch(r"[\d.]+|[\da-fA-F:]*:[\da-fA-F:.]*", fields[4][0]):
                address, at = _cidr(address, fields[4][0]), 5
        if len(fields) <= at:
            yield number, line.strip()
            continue
        options = tuple(one for field in fields[at + 1 :] for one in field)
        yield Record(number, kind, tuple(fields[1]), tuple(fields[2]), address, fields[at][0], options)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines, joined where one ends in a backslash."""
    begun, kept = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        begun = begun or number
        if line.endswith("\\"):
            kept += line[:-1]
            continue
        yield begun, kept + line
        begun, kept = 0, ""


def _fields(line: str) -> list[list[str]]:
    """Fields, each a list of words separated by commas, without their quotes."""
    fields: list[list[str]] = []
    joins = False
    for found in _TOKEN.finditer(line):
        token = found[1]
        if token.startswith("#"):
            break
        if token == ",":
            if found[0] != ",":
                return [["a comma that follows a space"]]  # Postgres ends the field before it.
            joins = True
            continue
        word = token.strip('"') if token.startswith('"') else token
        if joins and fields:
            fields[-1].append(word)
        else:
            fields.append([word])
        joins = False
    return fields


def _cidr(address: str, mask: str) -> str:
    try:
        return str(ipaddress.ip_network(f"{address}/{mask}", strict=False))
    except ValueError:
        return f"{address}/{mask}"

"""TOML with line numbers, which tomllib does not keep: the text is also split into statements, which have them.

A file that is not valid TOML still has statements, so that the doctor can say what is wrong with them.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgidle.doctor.readers.tree import BadFile, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    Path = tuple[str | int, ...]

_KEY = re.compile(r"""\s*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))\s*""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*''', re.DOTALL
)
_AT_LINE = re.compile(r"(.*) \(at line (\d+), column \d+\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """`key = value` and its place: `section` is its heading's name, empty above the first heading."""

    line: int
    section: tuple[str, ...]
    path: Path
    value: str

    @property
    def key(self) -> str:
        return next(str(part) for part in reversed(self.path) if isinstance(part, str))


def read_toml(text: str) -> Node:
    """The document. Raises BadFile."""
    try:
        content: dict[str, object] = tomllib.loads(text)
        lines: dict[Path, int] = {}
        for path, line, _ in _walk(text):
            for end in range(1, len(path) + 1):
                lines.setdefault(path[:end], line)
        return _node(content, (), lines, 1)
    except tomllib.TOMLDecodeError as error:
        placed = _AT_LINE.fullmatch(str(error))
        why, line = (placed[1], int(placed[2])) if placed else (str(error), text.count("\n") + 1)
        raise BadFile(line, why) from None
    except (RecursionError, ValueError) as error:
        raise BadFile(1, str(error)) from None


def statements(text: str) -> Iterator[Statement]:
    """Every `key = value`, even of a file that tomllib refuses."""
    section: tuple[str, ...] = ()
    for path, line, value in _walk(text):
        if value is None:
            section = tuple(part for part in path if isinstance(part, str))
        else:
            yield Statement(line, section, path, value)


def _node(value: object, path: Path, lines: dict[Path, int], above: int) -> Node:
    line = lines.get(path, above)
    if isinstance(value, dict):
        return Node(
            line, table={str(key): _node(each, (*path, key), lines, line) for key, each in value.items()}
        )
    if isinstance(value, list):
        rows = (_node(each, (*path, number), lines, line) for number, each in enumerate(value))
        return Node(line, rows=tuple(rows))
    return Node(line, text=str(value).lower() if isinstance(value, bool) else str(value))


def _walk(text: str) -> Iterator[tuple[Path, int, str | None]]:
    """Headings (no value) and keys, each with its whole path and its line."""
    arrays: dict[Path, int] = {}
    prefix: Path = ()
    for line, statement in _cut(text):
        if statement.startswith("["):
            is_array = statement.startswith("[[")
            keys, _ = _keys(statement, 2 if is_array else 1)
            prefix = _placed(keys[:-1], arrays)
            if keys and is_array:
                prefix = (*prefix, keys[-1])
                arrays[prefix] = arrays.get(prefix, -1) + 1
                prefix = (*prefix, arrays[prefix])
            elif keys:
                prefix = _placed(keys, arrays)
            yield prefix, line, None
        else:
            keys, end = _keys(statement, 0)
            if keys and statement[end : end + 1] == "=":
                yield (*prefix, *keys), line, statement[end + 1 :].strip()


def _placed(keys: tuple[str, ...], arrays: dict[Path, int]) -> Path:
    """The path of a heading's keys; a key that names an array means the array's last table."""
    path: Path = ()
    for key in keys:
        path = (*path, key)
        if path in arrays:
            path = (*path, arrays[path])
    return path


def _keys(statement: str, at: int) -> tuple[tuple[str, ...], int]:
    """The dotted keys that begin at `at`, and where they end."""
    keys = []
    while (found := _KEY.match(statement, at)) is not None:
        keys.append(next(part for part in found.groups() if part is not None))
        at = found.end()
        if statement[at : at + 1] != ".":
            break
        at += 1
    return tuple(keys), at


def _cut(text: str) -> Iterator[tuple[int, str]]:
    """Statements without comments, with their lines. One ends with its line, unless a bracket or string is open."""
    at = begin = start = depth = 0
    line = 1
    kept = ""
    has_begun = False
    while at <= len(text):
        if at == len(text) or (text[at] == "\n" and depth <= 0):
            if statement := (kept + text[start:at]).strip():
                yield line, statement
            line += text.count("\n", begin, at + 1)
            begin = start = at = at + 1
            kept, depth, has_begun = "", 0, False
        elif (quoted := _STRING.match(text, at)) is not None:
            at = quoted.end()
            if quoted[0].startswith("#"):
                kept += text[start : quoted.start()]
                start = at
        else:
            if text[at] in "[]{}":
                # A heading's brackets are closed on its line: one that is not would swallow the rest.
                has_begun = has_begun or (kept + text[start:at]).strip() not in ("", "[")
                depth += has_begun * (1 if text[at] in "[{" else -1)
            at += 1

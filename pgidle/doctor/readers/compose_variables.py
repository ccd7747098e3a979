"""Compose's variables: ${NAME}, ${NAME:-default} and the like, put in their places before anything is read.

A variable that is set nowhere that can be seen leaves a mark, so that what it stands in is known not to be known.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.doctor.readers.tree import Node

OPEN, CLOSE = "\ue000", "\ue001"
"""Around the name of a variable that is not known: characters of a private area, which no file has."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")


def is_known(text: str) -> bool:
    return OPEN not in text


def shown(text: str) -> str:
    """With unknown variables as they were written, but for their defaults."""
    return text.replace(OPEN, "${").replace(CLOSE, "}")


def substitute(text: str, known: Mapping[str, str]) -> str:
    """The text with every variable in its place. Where a variable is not known its default is taken: that is what
    holds for who sets nothing."""
    made, at = "", 0
    while at < len(text):
        if text[at] != "$":
            made += text[at]
            at += 1
        elif text.startswith("$$", at):
            made += "$"
            at += 2
        elif text.startswith("${", at) and (end := _closing(text, at + 2)) is not None:
            made += _expression(text[at + 2 : end], known)
            at = end + 1
        elif (name := _NAME.match(text, at + 1)) is not None:
            made += _plain(name[0], known)
            at = name.end()
        else:
            made += "$"
            at += 1
    return made


def interpolate(root: Node, known: Mapping[str, str]) -> Node:
    """The tree with every scalar substituted. What an anchor names is read once, however often it is named."""
    made: dict[int, Node] = {}

    def walk(node: Node) -> Node:
        if node.text is not None:
            return replace(node, text=substitute(node.text, known)) if "$" in node.text else node
        shared = node.table if node.table is not None else node.rows
        if shared is None:
            return node
        if id(shared) not in made:
            if node.table is not None:
                table = {key: walk(each) for key, each in node.table.items()}
                made[id(shared)] = replace(node, table=table)
            else:
                made[id(shared)] = replace(node, rows=tuple(walk(each) for each in node.rows or ()))
        return replace(made[id(shared)], line=node.line)

    return walk(root)


def _closing(text: str, at: int) -> int | None:
    """Where the brace that was opened before is closed."""
    depth = 1
    while at < len(text):
        if text.startswith("${", at):
            depth += 1
            at += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
        at += 1
    return None


def _expression(text: str, known: Mapping[str, str]) -> str:
    name = _NAME.match(text)
    if name is None:
        return f"{OPEN}{text}{CLOSE}"
    rest = text[name.end() :]
    operator = _OPERATOR.match(rest)
    if operator is None:
        return _plain(name[0], known)
    word = rest[operator.end() :]
    value = known.get(name[0])
    is_set = value is not None and (value != "" or not operator[0].startswith(":"))
    if operator[0].endswith("-"):
        return value if is_set and value is not None else substitute(word, known)
    if operator[0].endswith("+"):
        return substitute(word, known) if is_set else ""
    return _plain(name[0], known)


def _plain(name: str, known: Mapping[str, str]) -> str:
    return known[name] if name in known else f"{OPEN}{name}{CLOSE}"


def read_env_file(text: str, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """NAME=value lines of an env_file or .env, near enough to how Compose reads them; names alone are left out."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.startswith("#"):
            continue
        value = value.strip()
        if value[:1] == "'" and value[1:].partition("'")[1]:
            found[name.strip()] = value[1:].partition("'")[0]
            continue
        if value[:1] == '"' and value[1:].partition('"')[1]:
            value = value[1:].partition('"')[0]
        else:
            value = re.split(r"\s#", value, maxsplit=1)[0].rstrip()
        found[name.strip()] = substitute(value, {**(known or {}), **found})
    return found

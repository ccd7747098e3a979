"""Compose's variables: ${NAME}, ${NAME:-default} and the like, substituted before anything is read.

A variable that is set nowhere the doctor can see leaves a mark, so that the text around it counts as unknown.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgidle.doctor.readers.tree import Node

OPEN, CLOSE = "\ue000", "\ue001"
"""Put around the name of an unknown variable: private-use characters, which no file contains."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")


def is_known(text: str) -> bool:
    return OPEN not in text


def shown(text: str) -> str:
    """The text with unknown variables as they were written, but without their defaults."""
    return text.replace(OPEN, "${").replace(CLOSE, "}")


def substitute(text: str, known: Mapping[str, str]) -> str:
    """The text with its variables substituted. An unknown variable gets its default, which is what applies to a user
    who sets nothing."""
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
    """The tree with every scalar substituted. An anchored node is substituted once, however often it is referred to."""
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
    """Where the brace opened just before `at` is closed."""
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

"""A configuration file as a tree whose every node knows its line, whatever language the file is written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class BadFile(Exception):
    """The file is not what its language allows: `line` (from 1), and what is wrong there."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line
        self.why = why


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar (`text`, as written; a boolean as `true` or `false`), a table or a list; null if all are None."""

    line: int
    text: str | None = None
    table: Mapping[str, Node] | None = None
    rows: tuple[Node, ...] | None = None

    def at(self, *path: str) -> Node | None:
        """The node at the end of a path of keys, if there is one."""
        node: Node | None = self
        for key in path:
            node = node.table.get(key) if node is not None and node.table is not None else None
        return node

    def word(self, *path: str) -> str | None:
        """The scalar there, as text."""
        node = self.at(*path)
        return node.text if node is not None else None

    def words(self, *path: str) -> list[str]:
        """The scalars of the list there; a scalar alone is a list of one."""
        node = self.at(*path)
        return [] if node is None else [each.text for each in node.each() if each.text is not None]

    def each(self) -> tuple[Node, ...]:
        """The list's rows; any other value except null counts as a list of one."""
        if self.rows is not None:
            return self.rows
        return () if self.text is None and self.table is None else (self,)

    def list(self, *path: str) -> tuple[Node, ...]:
        """The rows of the list there; any other value counts as a list of one."""
        node = self.at(*path)
        return node.each() if node is not None else ()

    def items(self, *path: str) -> Iterator[tuple[str, Node]]:
        """Keys and values of the table there."""
        node = self.at(*path)
        if node is not None and node.table is not None:
            yield from node.table.items()

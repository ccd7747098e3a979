"""YAML with line numbers: nodes are composed, never constructed, so that no tag can create an object."""

from __future__ import annotations

from dataclasses import replace

import yaml

from pgidle.doctor.readers.tree import BadFile, Node

DEEPEST = 100
"""Brackets that may be open at once."""
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


def read_yaml(text: str) -> list[Node]:
    """The documents of a file. Raises BadFile.

    An anchored node is read once, however often it is referred to, so the tree is never larger than the file.
    """
    _refuse_depth(text)
    try:
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        reader = _Reader()
        return [reader.read(document) for document in documents]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadFile(mark.line + 1 if mark else 1, error.problem or "not YAML") from None
    except yaml.YAMLError as error:
        raise BadFile(1, str(error).replace("\n", " ")) from None
    except RecursionError:
        raise BadFile(1, "nested too deeply") from None


def _refuse_depth(text: str) -> None:
    """PyYAML takes seconds over brackets that only open."""
    depth = 0
    for number, line in enumerate(text.split("\n"), 1):
        depth = max(0, depth + line.count("[") + line.count("{") - line.count("]") - line.count("}"))
        if depth > DEEPEST:
            raise BadFile(number, "nested too deeply")


class _Reader:
    def __init__(self) -> None:
        self._known: dict[int, Node] = {}
        self._open: set[int] = set()

    def read(self, node: yaml.Node) -> Node:
        if (known := self._known.get(id(node))) is not None:
            return known
        line = node.start_mark.line + 1
        if id(node) in self._open:
            raise BadFile(line, "an anchor that contains itself")
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            made = Node(line, table=self._table(node))
        elif isinstance(node, yaml.SequenceNode):
            made = Node(line, rows=tuple(self.read(each) for each in node.value))
        else:
            made = Node(line, text=None if node.tag == _NULL else str(node.value))
        self._open.discard(id(node))
        self._known[id(node)] = made
        return made

    def _table(self, node: yaml.MappingNode) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for source in self.read(value).each():
                    merged = {**(source.table or {}), **merged}
            elif isinstance(key, yaml.ScalarNode):
                own[str(key.value)] = replace(self.read(value), line=key.start_mark.line + 1)
        return {**merged, **own}
